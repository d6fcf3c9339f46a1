"""The census counts what it says it counts."""

from __future__ import annotations

from scripts import census

TEXT = '''"""A module."""

import os  # a comment

LIMIT = 3
"""What it limits."""


def public(a: int) -> str:
    """One line
    and another.
    """
    text = """not a
    docstring"""
    raise ValueError(text)


def _private() -> None:
    parser.add_argument("--switch", help="x")
    parser.add_argument("place")
'''


def test_a_small_file() -> None:
    found = census.count(TEXT)
    assert found == census.Count(
        lines=20, code=9, definitions=2, documented=2, switches=1, raises=1
    )  # import, LIMIT, def, two of text, raise, def and two calls


def test_ideas_are_found_and_the_house_has_files() -> None:
    texts = {"a.py": "os.replace(a, b)\nfcntl.flock(x, y)\n", "b.py": "os.rename(a, b)\n"}
    rows = census.census(texts)
    assert rows["files"] == "2" and rows["code lines"] == "3"
    assert rows["a rename into place"] == "2 in 2 files" and rows["a lock on a folder"] == "1 in 1 files"
    own = census.sources()
    assert "rgpt/files.py" in own and not any(name.startswith("tests/") for name in own)


def test_columns_are_aligned() -> None:
    told = census.table({"before": {"files": "10"}, "now": {"files": "9", "lines": "5"}})
    assert told.splitlines() == ["       before  now", "files  10      9", "lines          5"]

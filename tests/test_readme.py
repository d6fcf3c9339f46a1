"""What README.md shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rgpt.errors import InputError
from rgpt.model.photo_base import ensure_base

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_quickstart_prints_what_is_shown_beneath_it() -> None:
    found = re.search(r"<!-- quickstart -->\n```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
    assert found is not None
    code, shown = found.groups()
    try:
        ensure_base()
    except InputError as error:
        pytest.skip(f"the base of photo cannot be had here: {error}")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == shown


def test_the_two_commands_are_named() -> None:
    assert "bash scripts/demo.sh" in README and "bash scripts/test.sh" in README


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"TODO|TBD|FIXME|TINY_[A-Z]+|QUICKSTART_[A-Z]+", README)

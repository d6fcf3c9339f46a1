"""The benchmark's own arithmetic, with a clock that is told what to say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.measuring import Figure, Timing, run_process, time_stream

ROOT = Path(__file__).parents[2]


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        (["one"], Timing(1, 0, 0)),
        (["one", " two", " three"], Timing(1, 2, 2)),
        (["one two", " three"], Timing(1, 1, 1)),  # the first delta's second token is not in the rate
        (["", "one", "", " two"], Timing(1, 1, 1)),  # empty deltas are no tokens
    ],
)
def test_time_stream(deltas: list[str], expected: Timing) -> None:
    ticks: Iterator[int] = iter(range(100))
    assert time_stream(deltas, words, clock=lambda: next(ticks)) == expected


def test_a_silent_model_is_an_error_not_a_zero() -> None:
    with pytest.raises(SystemExit, match="answered nothing"):
        time_stream(["", ""], words)


@pytest.mark.parametrize(
    ("figure", "ending"),
    [
        (Figure("x", "s", [0.1, 0.2, 0.9], at_most=0.3), "≤ 0.3: yes"),
        (Figure("x", "s", [0.1, 0.4, 0.9], at_most=0.3), "≤ 0.3: NO"),
        (Figure("x", "tokens/s", [90, 120, 130], at_least=100), "≥ 100: yes"),
        (Figure("x", "s", [1.0]), "s"),
    ],
)
def test_the_median_is_held_against_the_bound(figure: Figure, ending: str) -> None:
    assert figure.row().endswith(ending)


def test_run_process_sees_the_memory_of_the_child() -> None:
    # From a process of its own: Linux counts the parent's peak towards the child's, and pytest's is large.
    code = """
import sys
from scripts.measuring import run_process
small = run_process([sys.executable, "-c", "print('here')"])
large = run_process([sys.executable, "-c", "x = b'x' * (200 << 20)"])
assert small[2] == "here\\n", small
print(large[1] - small[1])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150 * 1024


def test_run_process_shows_why_a_command_failed() -> None:
    with pytest.raises(SystemExit, match="no such verb"):
        run_process([sys.executable, "-c", "import sys; sys.exit('no such verb')"])

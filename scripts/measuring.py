"""What every benchmark uses: a figure with its bound, a timed stream, a process whose memory is watched."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


def add_threads(parser: argparse.ArgumentParser) -> None:
    """`--threads` of a benchmark that computes in this process."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="torch threads (default: torch's own choice)"
    )


def add_repeats(parser: argparse.ArgumentParser, default: int = 5) -> None:
    """`--repeats`."""
    what = f"how often each is measured (default: {default})"
    parser.add_argument("--repeats", type=int, default=default, metavar="N", help=what)


class Figure(NamedTuple):
    """One measured quantity and the bound the project promises for it."""

    name: str
    unit: str
    values: list[float]
    at_most: float | None = None
    at_least: float | None = None

    def row(self) -> str:
        """Name, minimum, median, maximum, unit and whether the median keeps the promise."""
        low, median, high = min(self.values), statistics.median(self.values), max(self.values)
        verdict = ""
        if self.at_most is not None:
            verdict = f"≤ {self.at_most:g}: {'yes' if median <= self.at_most else 'NO'}"
        elif self.at_least is not None:
            verdict = f"≥ {self.at_least:g}: {'yes' if median >= self.at_least else 'NO'}"
        return f"{self.name:<34}{low:>10.4g}{median:>10.4g}{high:>10.4g}  {self.unit:<9}{verdict}".rstrip()


class Timing(NamedTuple):
    """One streamed answer: seconds to its first text, tokens after that text and the seconds they took."""

    first: float
    later_tokens: int
    later_seconds: float


def time_stream(
    stream: Iterable[str], count_tokens: Callable[[str], int], clock: Callable[[], float] = time.perf_counter
) -> Timing:
    """Drain a stream of text deltas.

    The tokens of the first delta are not in the rate: the time to the first token has paid for them.
    """
    start = clock()
    first_at = last_at = start
    first_delta, answer = "", ""
    for delta in stream:
        if not delta:
            continue
        last_at = clock()
        if not answer:
            first_at, first_delta = last_at, delta
        answer += delta
    if not answer:
        raise SystemExit("bench: the model answered nothing, so there is no first token to time.")
    later = max(0, count_tokens(answer) - count_tokens(first_delta))
    return Timing(first_at - start, later, last_at - first_at)


def run_process(command: Sequence[str]) -> tuple[float, int, str]:
    """Run a command to its end: wall seconds, peak resident memory in KiB, stdout.

    Raises:
        SystemExit: the command failed; its stderr is shown.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        # wait4 rather than wait: it returns what this one child used, not the sum over all children.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            err.seek(0)
            raise SystemExit(f"bench: {' '.join(command)} failed:\n{err.read().decode(errors='replace')}")
        out.seek(0)
        kib = usage.ru_maxrss // 1024 if sys.platform == "darwin" else usage.ru_maxrss
        return seconds, kib, out.read().decode()

"""`python -m eval.calibrate RUN … [--write MODEL]`: a model's shares come to mean what they say.

RUN is a folder of `python -m eval.run photographs`, on photographs that training never saw. Names and yes/no
answers each get one temperature (`rgpt.model.calibration`). The pictures are halved; each half is measured at
the temperature that was fitted on the other, so every figure is of pictures not used for fitting. What is
written is fitted on both. Errors are expected calibration errors, 15 bins of equal count; `by chance` is what
a model that is calibrated perfectly would show on so few answers.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.store import FINAL, read_rows
from rgpt.errors import InputError
from rgpt.model.calibration import (
    Calibration,
    calibration_error,
    equal_bins,
    fit_temperature,
    write_calibration,
)


class Ranked(NamedTuple):
    """A question whose answers were weighed: its picture, their log-likelihoods, the right one."""

    picture: int
    row: Mapping[str, float]
    right: str


def read_ranked(folder: Path) -> dict[str, list[Ranked]]:
    """By task, the weighed answers of a run. Raises InputError: it is no finished run, or has none."""
    found: dict[str, list[Ranked]] = {}
    for row in read_rows(folder / FINAL):
        if row.get("kind") == "name" and row.get("scores"):
            logs = {name: math.log(share) for name, share in row["scores"].items() if share > 0}
            found.setdefault("name", []).append(Ranked(row["image_id"], logs, row["truth"]))
        elif row.get("kind") == "yes_no" and "margin" in row:
            logs = {"Yes.": row["margin"], "No.": 0.0}
            found.setdefault("yes_no", []).append(Ranked(row["image_id"], logs, row["truth"]))
    if not found:
        raise InputError.about(
            f"run {str(folder)!r}",
            "a finished run of eval.run photographs with names or yes/no answers",
            "none",
            "run it with --only name,yes_no",
        )
    return found


def judged(rows: Sequence[Ranked], temperature: float) -> list[tuple[float, bool]]:
    """Of every row the share of its likeliest answer, and whether that is right."""
    at, found = Calibration(temperature), []
    for row in rows:
        answer, share = next(iter(at.shares(row.row).items()))
        found.append((share, answer == row.right))
    return found


def calibrate(rows: Sequence[Ranked]) -> Calibration:
    """The temperature fitted on all rows, measured on halves that it was not fitted on."""
    pictures = sorted({row.picture for row in rows})
    if len(pictures) < 2:
        raise InputError(f"{len(pictures)} picture cannot be halved: give a run on more.")
    random.Random(0).shuffle(pictures)
    first = set(pictures[::2])
    halves = [[row for row in rows if (row.picture in first) is side] for side in (True, False)]
    after = [
        pair
        for fitted, measured in (halves, halves[::-1])
        for pair in judged(measured, fit_temperature([(row.row, row.right) for row in fitted]))
    ]
    bins = equal_bins(after)
    return Calibration(
        fit_temperature([(row.row, row.right) for row in rows]),
        len(rows),
        len(pictures),
        round(calibration_error(equal_bins(judged(rows, 1.0))), 4),
        round(calibration_error(bins), 4),
        tuple((round(share, 4), round(right, 4), n) for share, right, n in bins),
    )


def by_chance(bins: Sequence[tuple[float, float, int]], draws: int = 200) -> float:
    """The error that answers which are right exactly as often as their bin's share would show, on average."""
    rng = random.Random(0)
    return statistics.fmean(
        calibration_error([(s, sum(rng.random() < s for _ in range(n)) / n, n) for s, _, n in bins])
        for _ in range(draws)
    )


def told(fitted: Mapping[str, Calibration]) -> str:
    """A table of tasks, and the bins of each."""
    lines = ["| task | answers | pictures | temperature | error before | after | by chance |"]
    lines.append("|---|---|---|---|---|---|---|")
    for task, c in fitted.items():
        figures = (
            f"{c.temperature:.3f} | {c.error_before:.4f} | {c.error_after:.4f} | {by_chance(c.bins):.4f}"
        )
        lines.append(f"| {task} | {c.objects} | {c.pictures} | {figures} |")
    for task, c in fitted.items():
        lines += ["", f"{task}: mean share → right"]
        lines += [f"  {share:.3f} → {right:.3f}  ({n})" for share, right, n in c.bins]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command. 0, or 2 and one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m eval.calibrate", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders given to eval.run photographs --out")
    parser.add_argument("--write", type=Path, metavar="MODEL", help="write calibration.json into this folder")
    options = parser.parse_args(argv)
    try:
        if options.write and not options.write.is_dir():
            raise InputError.about(f"--write {str(options.write)!r}", "a model's folder", "none at this path")
        ranked: dict[str, list[Ranked]] = {}
        for folder in options.runs:
            for task, rows in read_ranked(folder).items():
                if ranked.setdefault(task, rows) is not rows:
                    raise InputError.about(
                        f"{task} answers", "in one of the runs", f"also in {str(folder)!r}", "give it alone"
                    )
        fitted: dict[str, Any] = {task: calibrate(rows) for task, rows in ranked.items()}
        print(told(fitted))
        if options.write:
            write_calibration(options.write, fitted)
    except InputError as problem:
        print(f"eval: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

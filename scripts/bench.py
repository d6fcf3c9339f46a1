"""Benchmarks, measured now on this machine.

    python -m scripts.bench NAME [--json FILE]

Every figure is printed as minimum, median and maximum over its repetitions; nothing is remembered from an
earlier run. What is compared is measured in one run, in turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rgpt.files import write_json
from scripts import (
    bench_chat,
    bench_cost,
    bench_equal,
    bench_hostile,
    bench_photo,
    bench_recipes,
    bench_recognizers,
    bench_regions,
    bench_serve,
    bench_train,
)
from scripts.measuring import Figure


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m scripts.bench`."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description=__doc__.splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    bench_chat.add_arguments(what.add_parser("chat", help="first token, tokens/s, start-up times, memory"))
    bench_photo.add_arguments(what.add_parser("photo", help="the app's start, first token, a table"))
    bench_train.add_arguments(what.add_parser("train", help="training speed beside LLaVA's, ms by part"))
    bench_cost.add_arguments(what.add_parser("cost", help="a step of training, beside another checkout"))
    bench_equal.add_arguments(
        what.add_parser("equal", help="runs that must come out the same, how far apart")
    )
    bench_serve.add_arguments(
        what.add_parser("serve", help="over HTTP: turn 2 against turn 1, 64 regions at once")
    )
    bench_hostile.add_arguments(
        what.add_parser("hostile", help="what attacks on the server take, and others notice")
    )
    bench_recipes.add_arguments(what.add_parser("recipes", help="rate and peak memory of a data recipe"))
    bench_regions.add_arguments(what.add_parser("regions", help="many regions at once, pooling masks"))
    bench_recognizers.add_arguments(
        what.add_parser("recognizers", help="one region against 100, what RegionSpot trains")
    )
    for bench in what.choices.values():
        bench.add_argument("--json", type=Path, metavar="FILE", help="also write every single value")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, return 0: a missed bound is printed, never an error."""
    options = build_parser().parse_args(arguments)
    if options.repeats < 1:
        raise SystemExit(f"bench: --repeats must be at least 1, not {options.repeats}.")
    figures: list[Figure] = options.run(options)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; {options.repeats} runs each")
    print(f"{'':<34}{'min':>10}{'median':>10}{'max':>10}")
    for figure in figures:
        print(figure.row())
    if options.json:
        report: dict[str, Any] = {figure.name: figure._asdict() for figure in figures}
        write_json(options.json, {"machine": machine, "figures": report})
    return 0


if __name__ == "__main__":
    sys.exit(main())

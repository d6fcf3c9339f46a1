"""Runs of two ranks: `python -m tests.train.two_ranks RUN.yaml[:SIGNAL:STEP] ...` prints exit codes.

The libraries are imported once and ranks are forked. A signal goes to the second rank alone, at that step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import yaml

import rgpt.train.trainer  # noqa: F401 - before forking
from scripts.bench_equal import start, wait


def main(runs: list[str]) -> None:
    codes = []
    for run in runs:
        path, _, asked = run.partition(":")
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        ranks = start(settings, 2)
        if asked:
            name, _, step = asked.partition(":")
            if wait(ranks, Path(settings["out"]), int(step)):
                os.kill(ranks[1].pid, signal.Signals[name])
        for rank in ranks:
            rank.join(300)
        codes.append([rank.exitcode for rank in ranks])
    print(json.dumps(codes))


if __name__ == "__main__":
    main(sys.argv[1:])

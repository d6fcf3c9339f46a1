"""What the trainer costs, in this checkout beside another one: the same run of `tiny` in turns.

    git worktree add /tmp/before REVISION
    python -m scripts.bench cost --before /tmp/before [--repeats 5] [--steps 40] [--json FILE]

Each turn is a process of its own, which trains on the same drawn scenes. On a busy machine the clock says
little: compare processor seconds a step, pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.bench_train import scene_sample
from scripts.measuring import Figure

ROOT = Path(__file__).parents[1]
AT_MOST = 1.02
"""Of what a step cost before."""
SKIPPED = 3
"""Steps at the beginning that are not counted: libraries choose kernels, workers start."""
CHILD = """
import json, statistics, sys, time
from pathlib import Path
from transformers import TrainerCallback
from rgpt.train import run
from rgpt.train.arguments import run_from

class Clock(TrainerCallback):
    def on_step_begin(self, args, state, control, **others):
        if state.global_step == SKIPPED:
            self.began = time.process_time()
    def on_train_end(self, args, state, control, **others):
        self.seconds = (time.process_time() - self.began) / (state.global_step - SKIPPED)

SKIPPED, settings = json.loads(sys.argv[1])
clock, plain = Clock(), run.callbacks
run.callbacks = lambda *given: [*plain(*given), clock]
run.train(run_from(settings))
lines = (Path(settings["out"]) / "log.jsonl").read_text().splitlines()
rows = [row for row in map(json.loads, lines) if "loss" in row][SKIPPED:]
median = {key: statistics.median(row[key] for row in rows) for key in ("tokens_per_second", "data_share")}
print(json.dumps({"cpu": clock.seconds, "loss": rows[-1]["loss"], **median}))
"""


def one_run(checkout: Path, folder: Path, steps: int, number: int) -> dict[str, float]:
    """Figures of one process that trains with the code of `checkout`."""
    settings = {
        "stage": "tune", "model": "tiny", "skip_stage_1": True, "out": str(folder / f"run-{number}"),
        "data": [{"path": str(folder / "s.jsonl")}], "batch_size": 16, "micro_batch_size": 8,
        "max_steps": steps, "precision": "fp32", "max_length": 1024, "workers": 1, "log_every": 1,
        "save_every": steps,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps([SKIPPED, settings])],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"bench: the run in {checkout} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def bench_cost(options: argparse.Namespace) -> list[Figure]:
    """Both checkouts, a run each in turn."""
    from tqdm import tqdm

    from rgpt.data.schema import write_jsonl

    found: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    checkouts = {"before": options.before.resolve(), "now": ROOT}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = (scene_sample(seed, folder, questions=4) for seed in range(8_300_000, 8_300_096))
        write_jsonl(folder / "s.jsonl", [sample for sample in drawn if sample])
        for turn in tqdm(range(2 * options.repeats), desc="runs"):
            # A B B A: whoever comes second must not always be the same.
            which = "before" if turn % 4 in (0, 3) else "now"
            found[which].append(one_run(checkouts[which], folder, options.steps, turn))
    figures = []
    for key, label, unit in (
        ("cpu", "processor time a step", "s"),
        ("tokens_per_second", "tokens", "tokens/s"),
        ("data_share", "waiting for data", "share"),
    ):
        for which, rows in found.items():
            figures.append(Figure(f"{label}, {which}", unit, [row[key] for row in rows]))
    pairs = list(zip(found["now"], found["before"], strict=True))
    ratios = [now["cpu"] / before["cpu"] for now, before in pairs]
    figures.append(Figure("processor time, now / before", "x", ratios, at_most=AT_MOST))
    speeds = [now["tokens_per_second"] / before["tokens_per_second"] for now, before in pairs]
    figures.append(Figure("tokens/s, now / before", "x", speeds))
    apart = [abs(now["loss"] - before["loss"]) for now, before in pairs]
    figures.append(Figure("last loss, difference", "nats", [statistics.fmean(apart)], at_most=0.0))
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m scripts.bench cost`."""
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER", help="the other checkout")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--steps", type=int, default=40, help="steps a run (default: 40)")
    parser.set_defaults(run=bench_cost)

"""Endings with DeepSpeed and under the launcher, and the equalities of `python -m scripts.bench equal`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from scripts import bench
from tests.slow.launch import ROOT, Launch, losses, write_run
from tests.train.little import little_settings
from tests.train.test_endings import Little, all_finite, too_long

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_zero_neither_updates_from_what_is_not_finite_nor_from_nothing(tmp_path: Path, zero: str) -> None:
    little = Little(tmp_path)
    file, cache = little.with_odd_picture()
    odd = {"features": str(cache), "max_steps": 6, "save_every": 1, "keep": 9}
    idle = {"on_bad_sample": "skip", "max_length": 100, "weight_decay": 0.5, "seed": 3, "max_steps": 3}
    cases = {
        "stop": (file, odd),
        "skip": (file, {**odd, "on_nonfinite": "skip"}),
        "idle": (too_long(tmp_path, 4, 12), idle),
        "plain": (too_long(tmp_path, 4, 12), {**idle, "deepspeed": None}),
        "gradient": (little.data, {"on_nonfinite": "skip"}),
    }
    paths = []
    for name, (data, changes) in cases.items():
        changes = {"micro_batch_size": 1, "deepspeed": f"scripts/deepspeed/{zero}.json", **changes}
        settings = little_settings(tmp_path / name, little.model, data, **changes)
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(settings))
    words = [*map(str, paths[:-1]), f"{paths[-1]}:infinite:2"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.two_ranks", *words],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = {name: (tmp_path / f"{name}.output").read_text() for name in cases}
    assert json.loads(done.stdout.splitlines()[-1]) == [[2, 2], *[[0, 0]] * 4], said
    assert "not finite" in said["stop"] and not (tmp_path / "stop" / "model").exists()
    assert sum("nonfinite" in row for row in little.rows("skip")) == 1
    (row,) = [row for row in little.rows("gradient") if "nonfinite" in row]
    assert (row["step"], row["what"]) == (3, "gradient")
    assert all_finite(tmp_path / "skip" / "model") and all_finite(tmp_path / "gradient" / "model")
    # The rates of later steps, and so the losses, are those of a run whose optimiser is left alone.
    assert losses(tmp_path / "idle") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)
    idle_rates, rates = ([row["learning_rate"] for row in little.rows(name)] for name in ("idle", "plain"))
    assert idle_rates == rates


@pytest.mark.timeout(600)
@pytest.mark.parametrize("to", ["launcher", "everyone"])
def test_a_launched_run_leaves_with_a_checkpoint(tmp_path: Path, to: str) -> None:
    """SIGTERM to torchrun, as from Kubernetes; SIGINT to the whole group, as from a terminal."""
    little = Little(tmp_path)
    settings = little_settings(
        tmp_path / "run", little.model, little.data, micro_batch_size=2, max_steps=5000, workers=1
    )
    run = write_run(tmp_path, settings)
    launch = Launch(run, 2)
    launch.wait_until(lambda: launch.step() >= 3)
    if to == "launcher":
        launch.process.send_signal(signal.SIGTERM)
    else:
        for process in [*psutil.Process(launch.process.pid).children(recursive=True), launch.process]:
            os.kill(process.pid, signal.SIGINT)
    assert launch.process.wait(120) != 0
    assert "is whole; go on with torchrun --nproc_per_node 2 -m rgpt.train.run" in launch.log.read_text()
    (step,) = little.checkpoints("run")
    again = Launch(run, 2, "--resume")
    again.wait_until(lambda: again.step() > step + 2)
    again.kill()


@pytest.mark.timeout(3000)
def test_what_is_equal_stays_equal(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["equal", "--quick"]) == 0
    out = capsys.readouterr().out
    assert "SIGTERM" in out and "NO" not in out

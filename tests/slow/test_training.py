"""Training with two real processes: hundreds of steps on a mix of all kinds of samples, and ten kills."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rgpt.model import load
from tests.slow.launch import ROOT, Launch, losses, write_run
from tests.train.little import little_mix, little_model, little_settings

pytestmark = pytest.mark.slow

SAME_SETTINGS: dict[str, Any] = {"batch_size": 8, "lr": 3e-3, "save_every": 7, "seed": 5}
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
CASES: dict[str, dict[str, Any]] = {
    # Steps of the whole run; processes (0: without launcher); kills, of which `in_write` during a checkpoint.
    "zero2": {"steps": 300, "processes": 2, "kills": 3, "in_write": 1},
    "zero3": {"steps": 240, "processes": 2, "kills": 3, "in_write": 0},
    "lora": {"steps": 60, "processes": 0, "kills": 3, "in_write": 0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    little_model(folder / "model")
    little_mix(folder / "data", 400)
    little_mix(folder / "data", 16, first=5000)
    return folder


def settings_of(folder: Path, case: str, name: str) -> dict[str, Any]:
    facts = CASES[case]
    changes = {
        **SAME_SETTINGS,
        "max_steps": facts["steps"],
        "micro_batch_size": 8 // max(1, facts["processes"]),
    }
    if case == "lora":
        changes |= LORA
    else:
        changes |= {"deepspeed": f"scripts/deepspeed/{case}.json"}
        changes |= {
            "held_out": {"path": str(folder / "data" / "samples-5000.jsonl"), "every": 120, "answers": 1}
        }
    return little_settings(folder / name, folder / "model", folder / "data" / "samples-0.jsonl", **changes)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Any:
    """`whole(case)`: the folder of the uninterrupted run, made once."""
    made: dict[str, Path] = {}

    def make(case: str) -> Path:
        if case not in made:
            settings = settings_of(folder, case, f"{case}-whole")
            run = write_run(folder, settings)
            if case == "lora":
                Launch(run, 0).finish()
            else:  # as a person starts it
                environment = {
                    **os.environ,
                    "DS_ACCELERATOR": "cpu",
                    "RGPT_PYTHON": sys.executable,
                    "NPROC": "2",
                }
                done = subprocess.run(
                    ["bash", "scripts/finetune.sh", str(run)],
                    cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
                )  # fmt: skip
                assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
            made[case] = Path(settings["out"])
        return made[case]

    return make


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", ["zero2", "zero3"])
def test_deepspeed_runs_for_real_and_learns(whole: Any, case: str) -> None:
    out, steps = whole(case), CASES[case]["steps"]
    newest = sorted(out.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[-1]
    shards = {path.name for path in newest.glob("global_step*/*")}
    for rank in (0, 1):
        assert f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" in {
            name.removeprefix("bf16_") for name in shards
        }
    assert case != "zero3" or {f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in (0, 1)} <= shards
    curve = losses(out)
    assert sorted(curve) == list(range(1, steps + 1))
    first, last = (
        sum(curve[step] for step in span) / 20 for span in (range(1, 21), range(steps - 19, steps + 1))
    )
    assert last < first / 2, (first, last)
    model, _ = load(out / "model")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", CASES)
def test_killed_runs_continue_exactly(folder: Path, whole: Any, case: str) -> None:
    expected, facts = losses(whole(case)), CASES[case]
    settings = settings_of(folder, case, f"{case}-killed")
    run, chance = write_run(folder, settings), random.Random(case)
    checkpoints = Path(settings["out"]) / "checkpoints"
    compared: dict[int, float] = {}

    def compare() -> None:
        for step, loss in losses(Path(settings["out"])).items():
            assert loss == pytest.approx(expected[step], abs=1e-6), f"step {step}"
            compared[step] = loss

    words: tuple[str, ...] = ()
    at = 0
    for _ in range(facts["kills"]):
        launch = Launch(run, facts["processes"], *words)
        at += chance.randint(8, 13)
        launch.wait_until(lambda at=at: launch.step() >= at)  # type: ignore[misc]  # noqa: B023
        launch.kill()
        compare()
        words = ("--resume",)
    for _ in range(facts["in_write"]):
        for _ in range(5):  # until the kill has hit the write itself
            launch = Launch(run, facts["processes"], *words)
            launch.wait_until(lambda: any(checkpoints.glob(".partial-*/*")), every=0.0005)
            launch.kill()
            compare()
            if list(checkpoints.glob(".partial-*")):
                break
        assert list(checkpoints.glob(".partial-*")), "no kill has hit a write"
    launch = Launch(run, facts["processes"], *words)
    launch.wait_until(lambda: launch.step() >= max(compared) + 8)
    launch.kill()
    compare()
    assert sorted(compared) == list(range(1, max(compared) + 1))
    kills = facts["kills"] + facts["in_write"] + 1
    print(f"{case}: {len(compared)} steps over {kills} kills equal the whole run's")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("deepspeed", [None, "scripts/deepspeed/zero2.json"], ids=["ddp", "zero2"])
def test_two_processes_have_the_losses_of_one(folder: Path, deepspeed: str | None) -> None:
    """1 x 4 = 2 x 2, with answers of unlike lengths: the loss is the mean over all tokens of a step."""
    data, curves = folder / "data" / "samples-0.jsonl", []
    for processes, name in ((0, "one"), (2, "two")):
        settings = little_settings(
            folder / f"{name}-{'zero2' if deepspeed else 'ddp'}", folder / "model", data,
            micro_batch_size=4 // max(1, processes), max_steps=10,
            deepspeed=deepspeed if processes else None,
        )  # fmt: skip
        Launch(write_run(folder, settings), processes).finish()
        curves.append(list(losses(Path(settings["out"])).values()))
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)

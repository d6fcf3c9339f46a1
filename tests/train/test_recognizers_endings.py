"""How the training of a recognizer ends that goes wrong, and what it takes to go on with one."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rgpt.errors import InputError
from rgpt.recognizers import load_recognizer, save_recognizer
from rgpt.train import checkpoints
from rgpt.train.recognizers import loop
from rgpt.train.recognizers.__main__ import main
from rgpt.train.recognizers.config import RunConfig
from rgpt.train.recognizers.data import Batch, Batches
from rgpt.train.recognizers.drawn import Scenes
from rgpt.train.recognizers.loop import fit, save_checkpoint
from tests.recognizers.tiny_recognizers import make
from tests.train.test_recognizers import SCENES, config, recipe_config


class OneWeight(torch.nn.Module):
    """Its loss is `loss(weight)`."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.weight, self.loss = torch.nn.Parameter(torch.ones(1)), loss

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": self.loss(self.weight)}


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    module = OneWeight(lambda weight: (weight.sum() * 0).sqrt())  # 0, with gradient 0 x infinity
    run = recipe_config(tmp_path, "clip")
    with pytest.raises(InputError, match="step 1: the gradient of weight is not finite"):
        fit(module, Batches([Scenes(count=3)], 1, 0), run)
    assert module.weight.isfinite().all()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    module = OneWeight(lambda weight: weight.sum())
    module.weight.data.fill_(torch.inf)
    with pytest.raises(InputError, match="weights weight are not finite"):
        save_checkpoint(tmp_path, module, torch.optim.AdamW(module.parameters()), 3)
    assert not (tmp_path / "checkpoints").exists()


def test_a_step_without_gradients_changes_nothing_and_a_run_of_them_fails(tmp_path: Path) -> None:
    """Neither by decay nor by momentum, as where no region has a name of the vocabulary."""
    seen: list[float] = []

    def loss(weight: torch.Tensor) -> torch.Tensor:
        seen.append(float(weight))
        return weight.sum() * (1.0 if len(seen) == 1 else 0.0)

    run = config(tmp_path, "clip", steps=4, weight_decay=0.5)
    module = OneWeight(loss)
    module.weight = torch.nn.Parameter(torch.ones(1, 1))  # of two dimensions, so that it decays
    fit(module, Batches([Scenes(count=3)], 1, 0), run)
    assert seen[1] < 1.0 and seen[1:] == [seen[1]] * 3
    with pytest.raises(InputError, match="nothing was learned"):
        fit(OneWeight(lambda weight: weight.sum() * 0), Batches([Scenes(count=3)], 1, 0), run)


class Begun:
    """A CLIP run of three steps from a recognizer on the disk, with checkpoints of steps 2 and 3."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        save_recognizer(make("clip-pooled"), folder / "base")
        self.config = recipe_config(folder, "clip")
        self.config.model, self.config.init = {}, str(folder / "base")
        self.config.steps, self.config.save_every = 3, 1

    def run(self, *words: str, **changes: Any) -> int:
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump({**asdict(self.config), **changes}))
        return main([str(path), *words])


@pytest.fixture
def begun(tmp_path: Path) -> Begun:
    begun = Begun(tmp_path)
    assert begun.run() == 0
    return begun


def test_going_on_is_with_the_same_settings_data_and_models(
    begun: Begun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert begun.run() == 2
    assert "which holds a run; add --resume" in capsys.readouterr().err
    assert begun.run("--resume", learning_rate=0.5) == 2
    assert "got another learning_rate" in capsys.readouterr().err
    save_recognizer(make("clip-pooled").apply(shifted), begun.folder / "base")
    assert begun.run("--resume") == 2
    said = capsys.readouterr().err
    assert "changed: init" in said and "--accept-changed-data" in said
    assert begun.run("--accept-changed-data") == 2
    assert begun.run("--resume", "--accept-changed-data", steps=4) == 0
    assert "going on after step 3, from checkpoint-3" in capsys.readouterr().out
    load_recognizer(begun.out)


def shifted(module: torch.nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data += 1


def test_a_damaged_checkpoint_is_passed_over_aloud(begun: Begun, capsys: pytest.CaptureFixture[str]) -> None:
    weights = begun.out / "checkpoints" / "checkpoint-3" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # of the same size
    weights.write_bytes(data)
    before = (begun.out / "model.safetensors").read_bytes()
    assert begun.run("--resume") == 0
    out = capsys.readouterr().out
    assert "checkpoint-3 is passed over: model.safetensors holds something else" in out
    assert "going on after step 2, from checkpoint-2" in out
    assert (begun.out / "model.safetensors").read_bytes() == before


def test_what_is_not_this_run_is_left_alone(begun: Begun, capsys: pytest.CaptureFixture[str]) -> None:
    other = begun.folder / "other"
    save_recognizer(make("clip-pooled"), other)
    assert begun.run("--out", str(other)) == 2
    assert "and no run.yaml; name another" in capsys.readouterr().err
    (begun.out / "run.yaml").write_text("- 1")
    assert begun.run("--resume") == 2
    (begun.out / "run.yaml").unlink()
    assert begun.run("--resume") == 2
    new = begun.folder / "new"
    assert begun.run("--resume", "--out", str(new)) == 0
    assert "holds no run yet" in capsys.readouterr().out


def test_a_full_disk_is_one_sentence(begun: Begun, capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert begun.run("--resume", steps=5) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "make room on the disk; checkpoint-3 is whole; go on with" in said
    assert checkpoints.newest(begun.out / "checkpoints", 1) == begun.out / "checkpoints" / "checkpoint-3"
    assert begun.run("--resume", steps=5) == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_signal_saves_and_leaves(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, number = Begun(tmp_path), getattr(signal, name)
    plain = loop.step_seed

    def asked(seed: int, step: int, process: int) -> int:
        if step == 1:
            os.kill(os.getpid(), number)
        return plain(seed, step, process)

    monkeypatch.setattr(loop, "step_seed", asked)
    assert begun.run(save_every=99) == 128 + number
    assert "after step 1: checkpoint-1 is whole; go on with" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_USE_FSDP", "true"),
        ("NVIDIA_TF32_OVERRIDE", "1"),
        ("WORLD_SIZE", "two"),
    ],
)
def test_the_environment_does_not_change_a_run(
    tmp_path: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert Begun(tmp_path).run() == 2
    assert f"{name} in the environment" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": -1.0},
        {"learning_rate": 0.0},
        {"momentum": 1.5},
        {"decay": -0.1},
        {"gradient_clip": -1.0},
        {"seed": -1},
        {"milestones": [1.5]},
        {"data": [{**SCENES, "scale": math.nan}]},
    ],
    ids=str,
)
def test_numbers_that_mean_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        RunConfig("clip", "o", **{"data": [SCENES], **changes})

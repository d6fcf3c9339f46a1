"""Training of recognizers: configs, and a few steps of every recipe on drawn scenes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rgpt.errors import InputError
from rgpt.recognizers import load_recognizer, save_recognizer
from rgpt.recognizers.frozen import Frozen
from rgpt.recognizers.rovit_detector import load_detector
from rgpt.train.recognizers.__main__ import main
from rgpt.train.recognizers.config import RunConfig, read_config
from rgpt.train.recognizers.data import Batches, open_data
from rgpt.train.recognizers.drawn import Scenes
from rgpt.train.recognizers.loop import fit, load_checkpoint, parameter_groups, save_checkpoint
from rgpt.train.recognizers.recipes import open_recipe
from rgpt.train.recognizers.regionclip_recipe import Proposals
from tests.recognizers.tiny_recognizers import CONFIGS, SAM, make

CONFIG_FOLDER = Path(__file__).parents[2] / "scripts" / "runs" / "recognizers"
SCENES: dict[str, Any] = {"kind": "scenes", "count": 6, "max_objects": 3}
CROPS = {**SCENES, "crop": True}


def config(tmp_path: Path, recipe: str, **more: Any) -> RunConfig:
    settings: dict[str, Any] = {"steps": 2, "batch_size": 2, "data": [SCENES], "learning_rate": 1e-3, **more}
    return RunConfig(recipe, str(tmp_path / "out"), **settings)


def test_rates() -> None:
    run = RunConfig("clip", "x", data=[SCENES], warmup=10, milestones=[350, 420], decay=0.1)
    assert run.rate(0) == pytest.approx(0.01) and run.rate(10) == 1.0 and run.rate(5) == pytest.approx(0.505)
    assert run.rate(350) == pytest.approx(0.1) and run.rate(420) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: clip\nout: x\ndata: [{kind: scenes}]\nlerning_rate: 1.0", "lerning_rate"),
        ("recipe: magic\nout: x\ndata: [{kind: scenes}]", "recipe: expected one of"),
        ("recipe: clip\ndata: [{kind: scenes}]", "the key out"),
        ("recipe: clip\nout: x", "data: expected at least one"),
        ("recipe: clip\nout: x\ndata: [{kind: scenes}]\nlearning_rate: 1e-4", "write 1.0e-4"),
        ("recipe: clip\nout: x\ndata: [{kind: scenes}]\nsteps: 0", "steps"),
        ("recipe: clip\nout: x\ndata: [{kind: scenes}]\nsteps: many", "expected int, got 'many'; correct it"),
        ("- a", "keys and values"),
    ],
)
def test_wrong_configs(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(path)


@pytest.mark.parametrize("path", sorted(CONFIG_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_reads(path: Path) -> None:
    run = read_config(path)
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ") and f"scripts/runs/recognizers/{path.name}" in first
    assert run.steps >= max(run.milestones, default=0)


def test_processes_that_do_not_see_one_another_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun on a CPU whose accelerate was not told so: each would train a copy into the same folder."""
    run = recipe_config(tmp_path, "regionspot")
    monkeypatch.setattr(os, "environ", {**os.environ, "WORLD_SIZE": "2"})
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 1)
    with pytest.raises(InputError, match="the 2 that were started to work together, got 1"):
        fit(open_recipe(run), Batches([Scenes(count=6)], 2, 0), run)
    assert not (tmp_path / "out").exists()


def test_decay_leaves_norms_and_biases_alone() -> None:
    groups = parameter_groups(make("rovit").tower, 0.1)  # type: ignore[arg-type]
    assert all(p.dim() >= 2 for p in groups[0]["params"]) and groups[1]["weight_decay"] == 0.0
    sizes = {tuple(p.shape) for p in groups[1]["params"]}
    assert (4, 4, 24) in sizes  # the positions


def recipe_config(tmp_path: Path, recipe: str) -> RunConfig:
    rovit, clip = tmp_path / "rovit", tmp_path / "clip"
    if recipe == "clip":
        return config(tmp_path, recipe, model={"config": CONFIGS["clip-pooled"][1]}, data=[CROPS])
    if recipe == "regionspot":
        model = {"config": CONFIGS["regionspot"][1], "unit_gain": True, "cache": str(tmp_path / "tokens")}
        return config(tmp_path, recipe, model=model)
    if recipe == "regionclip":
        save_recognizer(make("clip-pooled-resnet"), clip)
        model = {"config": {**CONFIGS["regionclip"][1], "freeze_batch_norm": False}, "teacher": str(clip)}
        return config(tmp_path, recipe, model=model)
    if recipe == "regionclip-transfer":
        save_recognizer(make("regionclip"), clip)
        return config(tmp_path, recipe, init=str(clip), model={"names": ["circle", "red square"]})
    if recipe == "rovit":
        return config(tmp_path, recipe, model={"config": CONFIGS["rovit"][1], "bias": -5.0}, data=[CROPS])
    save_recognizer(make("rovit"), rovit)
    model = {"channels": 16, "fully_connected": 16, "rois": 32, "names": ["circle", "bar"], "masks": True}
    return config(tmp_path, recipe, init=str(rovit), model=model, data=[{**SCENES, "regions": "mask"}])


@pytest.mark.parametrize(
    "recipe", ["clip", "regionspot", "regionclip", "regionclip-transfer", "rovit", "rovit-detector"]
)
def test_two_steps_change_what_trains_and_nothing_else(tmp_path: Path, recipe: str) -> None:
    """Frozen modules stay bit-equal, the running means of their batch norms included."""
    run = recipe_config(tmp_path, recipe)
    module = open_recipe(run)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    frozen = [name for name, part in module.named_modules() if isinstance(part, Frozen)]
    if recipe == "clip":
        frozen = []  # the recipe that makes a CLIP trains all of it
    history = fit(module, Batches([open_data(settings) for settings in run.data], run.batch_size, 0), run)
    assert history[-1]["step"] == 2
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert changed and changed <= trained
    held = [name for name in state if any(name.startswith(f"{part}.") for part in frozen)]
    assert bool(held) == (recipe in ("regionspot", "regionclip", "rovit-detector"))
    assert all(torch.equal(module.state_dict()[name], state[name]) for name in held)
    assert not any(part.module.training for part in module.modules() if isinstance(part, Frozen) and held)
    if recipe == "regionspot":
        assert all(".head." in name for name in trained)
        assert list((tmp_path / "tokens").glob("*/*.safetensors"))
    module.save(tmp_path / "out")
    again = load_recognizer(tmp_path / "out")
    assert again.kind == module.recognizer.kind
    if recipe == "rovit-detector":
        expected = module.detector.eval().propose([Scenes()[0].image])[0].as_boxes()  # type: ignore[union-attr]
        torch.testing.assert_close(
            load_detector(tmp_path / "out").propose([Scenes()[0].image])[0].as_boxes(), expected
        )


def test_the_tiny_configurations_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each as it is but for its steps; later ones build on what earlier ones wrote."""
    monkeypatch.chdir(tmp_path)
    names = ("clip", "sam", "regionspot", "regionclip", "regionclip_transfer", "rovit", "rovit_detector")
    assert main(["--steps", "1", *(str(CONFIG_FOLDER / f"tiny_{name}.yaml") for name in names)]) == 0
    folders = (tmp_path / "runs" / "recognizers").iterdir()
    made = {p.name: load_recognizer(p) for p in folders if p.name != "sam"}
    assert [made[name].kind for name in ("regionspot", "regionclip", "rovit")] == [
        "regionspot", "regionclip", "rovit",
    ]  # fmt: skip
    assert capsys.readouterr().out.count("loss") == len(names)


@pytest.mark.parametrize(("recipe", "chance"), [("regionspot", "dropout"), ("rovit", "cropped positions")])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, recipe: str, chance: str) -> None:
    """Three steps in one go, or a checkpoint after the second and a new process for the third: the same
    weights, whatever is drawn at random."""
    run = recipe_config(tmp_path, recipe)
    run.steps, run.save_every = 3, 2
    batches = Batches([open_data(settings) for settings in run.data], 2, 0)
    straight = open_recipe(run)
    fit(straight, batches, run)
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "checkpoint-3")  # that of step 2 is left
    resumed = open_recipe(run)
    assert fit(resumed, batches, run, resume=True)[-1]["step"] == 3
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_checkpoints_hold_optimizer_and_weights(tmp_path: Path) -> None:
    def fresh() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        return layer, torch.optim.AdamW(layer.parameters(), 0.1)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.AdamW) -> None:
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    straight = fresh()
    for _ in range(4):
        step(*straight)
    first = fresh()
    for _ in range(2):
        step(*first)
    save_checkpoint(tmp_path, *first, 2)
    second = fresh()
    assert load_checkpoint(tmp_path / "checkpoints" / "checkpoint-2", *second) == 2
    for _ in range(2):
        step(*second)
    assert torch.equal(second[0].weight, straight[0].weight)
    with pytest.raises(InputError, match="a whole state of this very run"):
        load_checkpoint(tmp_path / "nowhere", *second)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, batch: Any) -> dict[str, torch.Tensor]:
            return {"loss": self.weight.sum() * float("nan")}

    with pytest.raises(InputError, match="step 1: the loss is nan"):
        fit(Broken(), Batches([Scenes(count=3)], 1, 0), config(tmp_path, "clip"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("recipe: rovit-detector\nout: x\ndata: [{kind: scenes}]")
    assert main([str(path)]) == 2
    assert "init must name" in capsys.readouterr().err


def test_proposals_to_learn_from(tmp_path: Path) -> None:
    """A network of proposals is used with its settings of training; what looks pictures up is refused."""
    from safetensors.torch import save_file
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "rpn.safetensors")
    example, cpu = Scenes()[0], torch.device("cpu")
    proposals = Proposals(f"rpn:{tmp_path / 'rpn.safetensors'}", most=7, nms=0.5)
    proposals.source.model.transform.min_size = (64,)  # type: ignore[union-attr]
    found = proposals(example, cpu)
    assert len(found) == 7 and proposals.source.model.rpn.nms_thresh == 0.5  # type: ignore[union-attr]
    assert Proposals("data", 1)(example, cpu) is example.regions
    assert len(Proposals("grid", 1)(example, cpu)) > 20
    for name in ("json:x", "gt", "magic:y"):
        with pytest.raises(InputError, match="proposals"):
            Proposals(name, 1)


def two_processes(folder: Path, runs: list[RunConfig]) -> subprocess.CompletedProcess[str]:
    """The training command on two CPU processes."""
    from dataclasses import asdict

    import yaml

    paths = []
    for number, run in enumerate(runs):
        paths.append(folder / f"{number}.yaml")
        paths[-1].write_text(yaml.safe_dump(asdict(run)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [*command, "-m", "rgpt.train.recognizers", *map(str, paths)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        cwd=CONFIG_FOLDER.parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_contrast_is_with_the_texts_of_all_processes(tmp_path: Path) -> None:
    """Two processes with three pictures each learn what one process with six learns."""

    def run(out: str, size: int) -> RunConfig:
        model = {"config": CONFIGS["rovit"][1], "sampler": None, "bias": -1.0}
        data = [{**SCENES, "crop": True, "caption": "mixed"}]
        own: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1, "steps": 3, "log_every": 1}
        return RunConfig("rovit", str(tmp_path / out), model=model, data=data, batch_size=size, **own)

    done = two_processes(tmp_path, [run("two", 3)])
    assert done.returncode == 0, done.stderr[-2000:]
    one = run("one", 6)
    fit(open_recipe(one), Batches([open_data(d) for d in one.data], 6, one.seed), one)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / out / "losses.jsonl").read_text().splitlines()]
        for out in ("two", "one")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # the second and third follow from the gradients
    assert losses[0][2] < 0.9 * losses[0][0]


@pytest.mark.slow
def test_two_processes_train_and_one_writes(tmp_path: Path) -> None:
    """Also recipes whose step leaves a head without gradient: a detector's for masks, SAM's."""
    save_recognizer(make("rovit"), tmp_path / "rovit")
    runs = [
        recipe_config(tmp_path, "regionspot"),
        *(
            replace(recipe_config(tmp_path, recipe), out=str(tmp_path / f"{recipe}-out"))
            for recipe in ("clip", "regionclip")
        ),
        RunConfig("sam", str(tmp_path / "sam"), model={"config": SAM}, data=[SCENES], steps=3, batch_size=2),
        RunConfig(
            "rovit-detector",
            str(tmp_path / "detector"),
            init=str(tmp_path / "rovit"),
            model={"channels": 16, "fully_connected": 16, "rois": 16, "names": ["circle", "bar"]},
            data=[SCENES],
            steps=3,
            batch_size=1,
        ),
    ]
    done = two_processes(tmp_path, runs)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("loss") == len(runs)
    assert load_recognizer(tmp_path / "out").kind == "regionspot"
    load_detector(tmp_path / "detector")


def test_a_finished_run_has_no_step_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    spec = {**CONFIGS["regionspot"][1], "head": {"feedforward": 32}}
    values = {
        "recipe": "regionspot",
        "out": str(tmp_path / "out"),
        "model": {"config": spec},
        "batch_size": 1,
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**values, "data": [SCENES], "steps": 2, "save_every": 1}))
    assert main([str(path)]) == 0
    assert main([str(path), "--steps", "1", "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("no step was left")

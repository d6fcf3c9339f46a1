"""Proposals on photographs: what ships is small, says where and not what, and goes to disk and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from torchvision.ops import box_iou

from rgpt.data.scenes import draw_scene
from rgpt.errors import InputError
from rgpt.recognizers import object_proposals, propose
from rgpt.recognizers.object_proposals import (
    ARCHITECTURE,
    SHIPPED,
    ObjectProposals,
    Settings,
    load_proposals,
    save_proposals,
)
from rgpt.recognizers.proposals import windows
from rgpt.train.recognizers.__main__ import main


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fetched file with random weights in it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tower") / "tower.pth"
    # The published file has the layers in this order, under names of its own.
    layers = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    torch.save({f"published.{number}": value for number, value in enumerate(layers.values())}, path)
    return path


@pytest.fixture(autouse=True)
def fetched(tower: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_proposals, "fetch", lambda pinned: tower)


def small(**changes: int) -> ObjectProposals:
    torch.manual_seed(1)
    return object_proposals.fresh(**{"image_size": 128, "width": 32, "convolutions": 1, **changes})


@pytest.mark.parametrize("size", [(128, 96), (60, 200), (500, 333), (3, 2), (1, 1)])
def test_boxes_lie_on_the_picture_surest_first(size: tuple[int, int]) -> None:
    found = small().eval()(Image.new("RGB", size, "grey"))
    boxes, (width, height) = found.as_boxes(), size
    assert len(found) <= 300 and (found.height, found.width) == (height, width)
    assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    assert found.scores is not None and torch.equal(found.scores, found.scores.sort(descending=True).values)


def test_a_few_steps_find_the_objects_of_a_picture() -> None:
    scene = draw_scene(3)
    image, truth = scene.image, torch.tensor([shown.box.xyxy for shown in scene.objects])
    network = small(image_size=max(image.size)).train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 2e-3)
    first = None
    for _ in range(60):
        loss = sum(network.losses([image], [truth]).values())
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 2
    best = box_iou(truth, network.eval()(image).subset(range(10)).as_boxes()).amax(1)
    assert (best > 0.5).float().mean() > 0.7, best


def test_only_what_stands_on_the_tower_is_trained_and_saved(tmp_path: Path) -> None:
    network = small()
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == set(network.own_state()) and not any("network" in name for name in trained)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train().losses([Image.new("RGB", (128, 128))], [torch.tensor([[1.0, 1, 50, 50]])])
    # Batch statistics of the tower stay what they were, in training too.
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    save_proposals(network, tmp_path / "out")
    image = draw_scene(1).image
    again, straight = load_proposals(tmp_path / "out")(image), network.eval()(image)
    assert (again.scores[:20] - straight.scores[:20]).abs().max() < 0.01  # type: ignore[index]
    named = propose(image, f"photo:{tmp_path / 'out'}", most=5)
    assert torch.equal(named.as_boxes(), again.as_boxes()[:5]) and named.source == "photo"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "sam"}, "names no proposals"),
        ({"tower": "other==1"}, "names no proposals"),
        ({"width": 64}, "size mismatch"),
        ({"convolutions": 2}, "of other layers"),
        ({"colour": 1}, "unexpected keyword"),
        (None, "a JSON object"),
    ],
)
def test_another_folder_is_one_sentence(tmp_path: Path, change: dict[str, object] | None, said: str) -> None:
    save_proposals(small(), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change} if change else []))
    with pytest.raises(InputError, match=said) as refusal:
        load_proposals(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_run_of_the_recipe_is_a_source(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = {"recipe": "proposals", "out": str(out), "steps": 2, "batch_size": 1, "log_every": 1}
    run |= {
        "model": {"image_size": 128, "width": 32, "convolutions": 1, "training_size": 160},
        "data": [{"kind": "scenes"}],
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    assert main([str(tmp_path / "run.yaml")]) == 0
    assert (out / "run.yaml").is_file() and len((out / "losses.jsonl").read_text().splitlines()) == 2
    assert len(propose(draw_scene(2).image, f"photo:{out}"))
    for wrong in ({"width": 0}, {"image_size": 64}, {"width": 40}, {"width": "wide"}, {"tower": "x"}):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({**run, "model": wrong}))
        assert main([str(tmp_path / "run.yaml")]) == 2


def test_windows_cover_the_picture() -> None:
    boxes = windows(300, 400)
    assert boxes[0].tolist() == [0, 0, 400, 300] and 200 < len(boxes) <= 320
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 400.01).all() and (boxes[:, 3] <= 300.01).all()


@pytest.mark.skipif(not (SHIPPED / "config.json").is_file(), reason="nothing ships")
def test_what_ships_fits_the_settings_of_its_run() -> None:
    run = yaml.safe_load(
        (Path(__file__).parents[2] / "scripts/runs/recognizers/photo_proposals.yaml").read_text()
    )
    config = json.loads((SHIPPED / "config.json").read_text())
    run["model"].pop("training_size")
    assert {key: config[key] for key in run["model"]} == run["model"]
    assert Settings(**run["model"]) == load_proposals().settings
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 16 * 2**20

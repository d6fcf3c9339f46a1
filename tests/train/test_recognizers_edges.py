"""Edges of training recognizers: what is refused, what is cut off, what is drawn anew."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from transformers import CLIPTokenizer

from rgpt.errors import InputError
from rgpt.recognizers import load_recognizer, save_recognizer
from rgpt.recognizers.loading import build_recognizer
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.regionclip_detector import LVIS, load_transfer
from rgpt.train import checkpoints
from rgpt.train.recognizers.config import read_config
from rgpt.train.recognizers.data import Batch, Batches, open_data
from rgpt.train.recognizers.drawn import Scenes
from rgpt.train.recognizers.example import Example
from rgpt.train.recognizers.loop import (
    fit,
    load_checkpoint,
    parameter_groups,
    save_checkpoint,
)
from rgpt.train.recognizers.recipes import open_recipe
from rgpt.train.recognizers.records import Captions
from rgpt.train.record import cut_log
from tests.recognizers.tiny_recognizers import CONFIGS, make, picture, some_regions
from tests.train.test_recognizers import recipe_config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("scenes", "data: expected entries of keys and values"),
        ({"kind": "films"}, "data: expected kind"),
        ({"kind": "scenes", "sale": 2}, "data of kind scenes"),
    ],
)
def test_wrong_data(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_data(settings)


def test_every_epoch_draws_a_caption_anew(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "1.png")
    path = tmp_path / "captions.jsonl"
    path.write_text(json.dumps({"image": "1.png", "captions": list("abcdef")}) + "\n")
    source = open_data({"kind": "captions", "path": str(path)})
    batches = Batches([source], 1, 0)
    said = [batches(step).examples[0].caption for step in range(12)]
    assert len(set(said)) > 2 and said == [batches(step).examples[0].caption for step in range(12)]
    assert source[0].caption in "abcdef"


def test_a_large_data_set_is_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects365 has more pictures than the scenes that need no shuffling."""
    monkeypatch.setattr("rgpt.train.recognizers.data.SCENES", 10)

    class Numbers(Captions):
        def __init__(self) -> None:
            self.name, self.names = "numbers", ()

        def __len__(self) -> int:
            return 10

        def drawn(self, index: int, epoch: int) -> Example:
            return Example(Image.new("RGB", (index + 1, 1)), None)  # type: ignore[arg-type]

    batches = Batches([Numbers()], 10, 0)
    first, second = ([e.image.width for e in batches(step).examples] for step in (0, 1))
    assert sorted(first) == sorted(second) == list(range(1, 11))
    assert first != sorted(first) and first != second


@pytest.mark.parametrize("recipe", ["clip", "regionspot", "regionclip", "regionclip-transfer", "rovit"])
def test_a_misspelt_key_of_the_model_is_refused(tmp_path: Path, recipe: str) -> None:
    run = recipe_config(tmp_path, recipe)
    run.model["gama"] = 2.0
    with pytest.raises(InputError, match=f"model of recipe {recipe}: expected keys .*, got also gama"):
        open_recipe(run)


def test_teachers_that_do_not_fit(tmp_path: Path) -> None:
    run = recipe_config(tmp_path, "regionclip")
    wider = {**CONFIGS["regionclip"][1]["clip"], "embed_dim": 12}
    run.model["config"] = {**run.model["config"], "clip": wider}
    with pytest.raises(InputError, match="expected the student's own architecture"):
        open_recipe(run)
    save_recognizer(make("rovit"), tmp_path / "rovit")
    run.model["teacher"] = str(tmp_path / "rovit")
    with pytest.raises(InputError, match="expected a clip or regionclip, got a rovit"):
        open_recipe(run)


def test_pictures_without_regions_are_a_step_like_any_other(tmp_path: Path) -> None:
    run = recipe_config(tmp_path, "regionclip")
    run.model["image_text"] = False
    recipe = open_recipe(run)
    empty = Example(Image.new("RGB", (50, 40)), RegionSet((), 40, 50))
    losses = recipe(Batch((empty, empty), "none", ["a", "b"], 0))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert float(total.detach()) == 0.0


def test_proposals_are_drawn_for_each_picture(tmp_path: Path) -> None:
    """One draw shared by all pictures of a batch is a flaw of the published code."""
    recipe = open_recipe(recipe_config(tmp_path, "regionclip"))
    boxes = torch.tensor([[float(i), 0.0, i + 1.0, 9.0] for i in range(150)])
    many = RegionSet.of_boxes(boxes, 10, 150)
    recipe.proposals = lambda example, device: many  # type: ignore[assignment]
    example, generator = Example(Image.new("RGB", (150, 10)), many), torch.Generator().manual_seed(0)
    one, other = (recipe.boxes(example, generator) for _ in range(2))  # type: ignore[operator]
    assert len(one) == len(other) == 100 and one.regions != other.regions


def test_frozen_stages_keep_their_running_means(tmp_path: Path) -> None:
    """Also where the norms that train are no constants."""
    spec = {**CONFIGS["regionclip"][1], "freeze_batch_norm": False, "freeze_at": 2}
    clip: Any = build_recognizer("regionclip", spec)
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    clip.train()
    clip.feature_map(torch.randn(2, 3, 64, 64))
    moved = {name for name, value in clip.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all("layer2" in name or "layer3" in name for name in moved)


def test_names_to_train_on_may_be_a_file(tmp_path: Path) -> None:
    names = tmp_path / "base.txt"
    names.write_text("circle\nred square\n")
    for recipe in ("regionclip-transfer", "rovit-detector"):
        run = recipe_config(tmp_path, recipe)
        run.model["names"] = str(names)
        assert open_recipe(run).names == ["circle", "red square"]


def test_tokens_of_mask_prompts_are_others(tmp_path: Path) -> None:
    run = recipe_config(tmp_path, "regionspot")
    example = Scenes(regions="mask", count=1)[0]
    plain = open_recipe(run).cache.path(example.image, example.regions)  # type: ignore[union-attr]
    run.model["config"] = {**run.model["config"], "dense_masks": True}
    dense = open_recipe(run).cache.path(example.image, example.regions)  # type: ignore[union-attr]
    assert plain != dense


def test_the_last_checkpoint_stays_until_the_next_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), 0.1)
    save_checkpoint(tmp_path, layer, optimizer, 2)

    def cut_off(source: Path, target: Path) -> None:
        raise OSError("the machine stops")

    monkeypatch.setattr(os, "replace", cut_off)
    with pytest.raises(OSError, match="the machine stops"):
        save_checkpoint(tmp_path, layer, optimizer, 4)
    folder = tmp_path / "checkpoints"
    assert checkpoints.newest(folder, 1) == folder / "checkpoint-2"
    monkeypatch.undo()
    for step in (4, 6):
        save_checkpoint(tmp_path, layer, optimizer, step)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-4", "checkpoint-6"]
    assert load_checkpoint(folder / "checkpoint-6", layer, optimizer) == 6


def test_losses_of_another_run_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    cut_log(path, 0)
    path.write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in (50, 100, 150)) + '{"step": 2')
    cut_log(path, 100)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [50, 100]
    cut_log(path, 0)
    assert path.read_text() == ""


def test_a_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), 0.1)
    save_checkpoint(tmp_path, layer, optimizer, 2)
    saved = tmp_path / "checkpoints" / "checkpoint-2"
    with pytest.raises(InputError, match="a whole state of this very run"):
        load_checkpoint(saved, torch.nn.Linear(3, 4), optimizer)
    (saved / "optimizer.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="a whole state of this very run"):
        load_checkpoint(saved, layer, optimizer)


def test_two_data_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    """The second would be read with the names of the first."""
    with pytest.raises(InputError, match="got scenes more than once; give each entry its own name"):
        Batches([Scenes(count=3), Scenes(count=5)], 1, 0)


def test_a_mirrored_picture_has_no_caption_of_sides() -> None:
    example = Scenes(count=1)[0]
    assert example.flipped().caption == example.caption
    told = replace(example, caption="A dog on the Left of a cat")
    assert told.flipped().caption == "" and replace(told, caption="bright").flipped().caption == "bright"


def test_a_transferred_regionclip_is_found_again(tmp_path: Path) -> None:
    run = recipe_config(tmp_path, "regionclip-transfer")
    recipe: Any = open_recipe(replace(run, model={**run.model, "setting": "lvis"}))
    torch.nn.init.normal_(recipe.detector.box_deltas.weight, std=0.1)
    recipe.eval().save(tmp_path / "out")
    loaded = load_transfer(tmp_path / "out")
    assert loaded.settings == LVIS
    image = Scenes(count=1)[0].image
    proposals = RegionSet.of_boxes(
        torch.tensor([[5.0, 5, 40, 40], [20, 20, 60, 70]]), image.height, image.width
    )
    vocabulary = loaded.recognizer.vocabulary(["circle", "bar"])
    one, other = (made.detect([image], [proposals], vocabulary)[0] for made in (recipe.detector, loaded))
    assert len(one.boxes) and torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)
    (tmp_path / "out" / "detector.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="expected settings and weights that fit"):
        load_transfer(tmp_path / "out")
    with pytest.raises(InputError, match="a folder of the recipe regionclip-transfer"):
        load_transfer(tmp_path / "clip")


def test_the_detectors_backbone_does_not_decay(tmp_path: Path) -> None:
    recipe: Any = open_recipe(recipe_config(tmp_path, "rovit-detector"))
    decayed, plain = parameter_groups(recipe, 0.1)
    backbone = {id(p) for p in recipe.detector.tower.parameters()}
    assert backbone <= {id(p) for p in plain["params"]}
    assert not backbone & {id(p) for p in decayed["params"]} and decayed["params"]


def test_a_rovit_learns_with_a_text_tower_of_its_own(tmp_path: Path) -> None:
    """The published form: texts come from a transformer that projects into the visual width."""
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {word: i for i, word in enumerate([*words, *(f"{word}</w>" for word in words[2:])])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    tokenizer.save_pretrained(tmp_path / "words")
    run = recipe_config(tmp_path, "rovit")
    text = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": len(vocabulary), "projection_dim": run.model["config"]["width"],
        "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    run.model["config"] = {**run.model["config"], "text": text}
    with pytest.raises(InputError, match="rovit text tower"):
        open_recipe(run)
    run.model |= {"tokenizer": str(tmp_path / "words"), "train_text": True}
    recipe: Any = open_recipe(run)
    before = {name: p.detach().clone() for name, p in recipe.recognizer.text.named_parameters()}
    fit(recipe, Batches([open_data(run.data[0])], 2, 0), run)
    moved = [n for n, p in recipe.recognizer.text.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > 5
    recipe.eval().save(tmp_path / "out")
    image = picture()
    one, other = (
        made.recognize([image], [some_regions()], ["circle", "bar"])[0].logits
        for made in (recipe.recognizer, load_recognizer(tmp_path / "out"))
    )
    torch.testing.assert_close(one, other)
    with pytest.raises(InputError, match="tokenizer 'nowhere"):
        open_recipe(replace(run, model={**run.model, "tokenizer": "nowhere/at-all/x"}))


@pytest.mark.parametrize("rate", [math.nan, math.inf])
def test_a_rate_that_is_no_number(tmp_path: Path, rate: float) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"recipe": "clip", "out": "o", "learning_rate": rate}))
    with pytest.raises(InputError, match=r"learning_rate.*a finite number"):
        read_config(tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_text("recipe: clip\nout: o\nout: p\n")
    with pytest.raises(InputError, match="'out' twice"):
        read_config(tmp_path / "run.yaml")

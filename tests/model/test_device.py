"""Where a model runs and in which numbers: the same options and the same sentences at every door."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.model import load
from rgpt.model.bases import PACKAGED
from rgpt.model.device import device_of, pretrained_options
from rgpt.placement import NAMES, add_placement, placement
from rgpt.regions import Box
from tests.model.test_bases import little_adapter
from tests.model.tiny_models import make_picture

PARSERS = {
    "chat": "rgpt.commands.chat:build_parser",
    "serve": "rgpt.commands.serve:build_parser",
    "app": "app.main:build_parser",
    "eval": "eval.run:build_parser",
    "bounds": "eval.photo_bounds:build_parser",
    "judge": "eval.judge:build_parser",
    "recap": "data_recipes.recap.__main__:parser",
}
NEEDED = {
    "eval": ["shapes"],
    "bounds": ["--data", "d"],
    "judge": ["mdvp_bench", "--gt", "g", "--predictions", "p", "--judge", "local:m", "--out", "o"],
    "recap": ["run", "in", "--backend", "rgpt:tiny", "--out", "o"],
}


@pytest.mark.parametrize("door", PARSERS)
def test_every_command_that_opens_a_model_has_them(door: str) -> None:
    module, _, function = PARSERS[door].partition(":")
    parser = getattr(importlib.import_module(module), function)()
    words = ["--device", "cuda:1", "--dtype", "bfloat16", "--bits", "4"]
    options = parser.parse_args([*NEEDED.get(door, []), *words])
    assert placement(options) == {"device": "cuda:1", "dtype": "bfloat16", "bits": 4}
    assert placement(parser.parse_args(NEEDED.get(door, []))) == {}


@pytest.mark.parametrize("words", [["--bits", "3"], ["--dtype", "float8"]])
def test_other_numbers_are_refused_by_the_parser(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_placement(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(words)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "cpu:x", "CUDA", ""])
def test_a_device_that_is_not_here_is_told_before_the_model(name: str) -> None:
    with pytest.raises(InputError, match=r"the device '.*' cannot be used here \(.*\): give one of cpu"):
        load("a model that does not exist either", device=name)


def test_what_from_pretrained_is_told() -> None:
    assert device_of("cpu") == "cpu" and device_of("auto") == "auto"
    assert pretrained_options("cpu") == ({"dtype": torch.float32}, "cpu")
    assert pretrained_options("cpu", "bfloat16") == ({"dtype": "bfloat16"}, "cpu")
    spread, moved_to = pretrained_options("auto", "float32")
    assert spread == {"dtype": "float32", "device_map": "auto"} and moved_to is None
    small, moved_to = pretrained_options("cpu", bits=4)
    assert (small["device_map"], small["dtype"], moved_to) == ({"": "cpu"}, "auto", None)
    with pytest.raises(InputError, match="float8"):
        pretrained_options("cpu", "float8")
    assert NAMES == ("device", "dtype", "bits")


def test_a_model_in_parts_answers_like_a_whole_one(tmp_path: Path) -> None:
    """The library's hooks, with layers on the disk in place of a second GPU, which is not to be had here."""
    names = ["model.vision_tower", "model.refinement", "model.connector", "lm_head"]
    names += [f"model.language_model.{part}" for part in ("embed_tokens", "norm", "rotary_emb")]
    whole = ChatSession.from_pretrained("tiny", device="cpu")
    device_map: dict[str, Any] = dict.fromkeys(names, "cpu")
    for number in range(len(whole.model.model.language_model.layers)):
        device_map[f"model.language_model.layers.{number}"] = "disk" if number else "cpu"
    parts = ChatSession.from_pretrained("tiny", device_map=device_map, offload_folder=str(tmp_path))
    spread = ChatSession.from_pretrained("tiny", device="auto")
    found = []
    for session in (whole, parts, spread):
        session.set_image(make_picture(1, 96, 96))
        session.add_region(Box(10, 10, 60, 60))
        answers = [session.ask(question) for question in ("What is <region1>?", "Where is it?")]
        found.append((answers, session.rank("What is <region1>?", ["circle", "square"])))
    assert found[0] == found[1] == found[2]


def test_a_layer_on_its_base_is_spread_too(tmp_path: Path) -> None:
    layer = little_adapter(tmp_path / "adapter", PACKAGED["tiny"])
    whole, processor = load(layer, device="cpu")
    spread, _ = load(layer, device="auto")
    batch = processor(images=make_picture(1, 96, 96), text="<image>\nWhat is it?\n")
    with torch.no_grad():
        assert torch.equal(whole(**batch).logits, spread(**batch).logits)

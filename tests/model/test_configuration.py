"""The configuration derives what follows, refuses what does not fit, and survives a round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, CLIPVisionConfig, ResNetConfig

from rgpt.errors import InputError
from rgpt.model import RegionGPTConfig
from tests.model.tiny_models import RESNET, VIT, make_config


def test_the_default_is_the_paper() -> None:
    config = RegionGPTConfig()
    assert config.vision_config.model_type == "clip_vision_model"
    assert (config.vision_grid, config.refined_grid, config.merge_grid, config.image_tokens) == (
        24,
        96,
        24,
        576,
    )
    assert config.vision_hidden_size == 1024 and config.image_size == 336
    assert config.vision_feature_layer == -2 and config.vision_feature_select_strategy == "default"
    assert config.refinement == "deconv"
    assert config.region_projector == "shared"
    assert config.text_config.hidden_size == 4096 and config.text_config.max_position_embeddings == 4096


def test_the_spatialrgpt_profile_sets_defaults_only() -> None:
    config = RegionGPTConfig(profile="spatialrgpt")
    assert config.vision_config.model_type == "siglip_vision_model"
    assert (config.merge_grid, config.refined_grid, config.region_projector) == (27, 108, "linear")
    assert RegionGPTConfig(profile="spatialrgpt", region_projector="shared").region_projector == "shared"


def test_the_paper_model_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(RegionGPTConfig())

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    channels, width = 1024, 4096
    assert f"{count(model.model.vision_tower) / 1e6:.0f}M" == "304M"
    assert f"{(count(model.model.language_model) + count(model.lm_head)) / 1e9:.2f}B" == "6.74B"
    assert count(model.model.refinement) == 2 * (channels * channels * 4 + channels) + 2 * channels
    assert count(model.model.connector) == channels * width + width + width * width + width


@pytest.mark.parametrize(
    ("layer", "channels"), [(None, 40), (-1, 40), (-2, 24), (-3, 16)], ids=["last", "-1", "-2", "-3"]
)
def test_channels_of_a_pyramid_follow_the_layer(layer: int | None, channels: int) -> None:
    config = make_config("resnet+llama", vision_feature_layer=layer)
    assert config.vision_hidden_size == channels


@pytest.mark.parametrize("refinement, factor", [("deconv", 4), ("residual", 4), ("bilinear", 4), ("none", 1)])
def test_the_refined_grid_follows_the_refinement(refinement: str, factor: int) -> None:
    config = make_config(refinement=refinement)
    assert config.refined_grid == 4 * factor


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"merge_gird": 3}, ["merge_gird", "merge_grid"]),
        ({"refinement_residual": True}, ["refinement_residual", "refinement"]),
        ({"region_token_id": 160}, ["region_token_id", "160"]),
        ({"region_token_id": -1}, ["region_token_id", "-1"]),
        ({"region_token_id": 100, "image_token_id": 100}, ["both 100"]),
        ({"merge_grid": 17}, ["17", "16"]),
        ({"merge_grid": 0}, ["merge_grid is 0"]),
        ({"vision_feature_layer": -5}, ["-5", "3 layers", "-4 to 3"]),
        ({"text_config": {"model_type": "lama"}}, ["'lama'"]),
        ({"vision_config": ResNetConfig(**RESNET)}, ["vision_grid"]),
        ({"vision_config": ResNetConfig(**RESNET), "vision_feature_layer": 1}, ["vision_hidden_size"]),
        ({"vision_config": CLIPVisionConfig(**{**VIT, "image_size": [28, 35]})}, ["image_size", "square"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        make_config(**changes)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    "changes",
    [{"merge_grid": "24"}, {"profile": "papre"}, {"vision_feature_layer": 1.5}, {"refinement": True}],
    ids=str,
)
def test_wrong_types_are_refused(changes: dict[str, Any]) -> None:
    # @strict checks types only while annotations are real types: this also guards the imports of that file.
    with pytest.raises(Exception, match=next(iter(changes))):
        make_config(**changes)


def test_round_trip(tmp_path: Path, kind: str) -> None:
    config = make_config(kind, merge_grid=3)
    config.use_cache = False  # as a trainer leaves it behind
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, RegionGPTConfig)
    for name in RegionGPTConfig.__annotations__:
        ours, theirs = getattr(config, name), getattr(again, name)
        if name.endswith("_config"):
            ours, theirs = ours.to_dict(), theirs.to_dict()
            ours.pop("_name_or_path", None), theirs.pop("_name_or_path", None)
        assert ours == theirs, name

"""A timm network's stages as one tower: shapes, grids, registration, the way through a whole RegionGPT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from rgpt.errors import InputError
from rgpt.model import RegionGPTForConditionalGeneration
from rgpt.model.pyramid_tower import PyramidTower, PyramidTowerConfig
from tests.model.tiny_models import make_model

SMALL = {"architecture": "lcnet_035", "stages": [2, 3, 4], "channels": [48, 88, 176], "image_size": 64}


def small_tower(**changes: object) -> PyramidTower:
    torch.manual_seed(0)
    return PyramidTower(PyramidTowerConfig(**{**SMALL, **changes})).eval()


@pytest.mark.parametrize("patch_size", [8, 16, 32])
def test_all_stages_lie_on_one_grid(patch_size: int) -> None:
    tower = small_tower(patch_size=patch_size)
    with torch.no_grad():
        features = tower(torch.randn(2, 3, 64, 64), output_hidden_states=True).last_hidden_state
    assert features.shape == (2, 312, 64 // patch_size, 64 // patch_size)
    assert tower.config.hidden_size == 312


def test_each_stage_is_normalised_by_itself() -> None:
    tower = small_tower()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = tower(pixels).last_hidden_state
        stage = tower.network(pixels)[1]  # the one whose grid is the tower's
    cells = stage.flatten(2).transpose(1, 2)
    centred = cells - cells.mean(-1, keepdim=True)
    normalised = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(features[:, 48:136].flatten(2).transpose(1, 2), normalised, atol=1e-5)


def test_the_library_opens_what_it_saves(tmp_path: Path) -> None:
    tower = small_tower()
    tower.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), PyramidTowerConfig)
    again = AutoModel.from_pretrained(tmp_path).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(pixels).last_hidden_state, tower(pixels).last_hidden_state)


def test_in_a_regiongpt_it_needs_no_layer_and_states_its_grid(tmp_path: Path) -> None:
    model = make_model(vision_config=PyramidTowerConfig(**SMALL), vision_feature_layer=None)
    assert (model.config.vision_grid, model.config.vision_hidden_size) == (4, 312)
    model.save_pretrained(tmp_path)
    again = RegionGPTForConditionalGeneration.from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = [m.eval().model.encode(pixels) for m in (model, again)]
    assert maps[0].shape == (1, 312, 16, 16)
    assert torch.equal(*maps)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": [48]}, "stages names 3 stages but channels 1"),
        ({"channels": [24, 40, 80]}, "lcnet_035 have"),
        ({"stages": [], "channels": []}, "stages names 0 stages"),
        ({"image_size": 60}, "must be a multiple of patch_size 16"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PyramidTower(PyramidTowerConfig(**{**SMALL, **changes}))

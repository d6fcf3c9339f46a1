"""Refinement, pooling, merging and connector against a reference anyone can check by eye, and their laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rgpt.model.feature_map import DeconvRefinement, as_map
from rgpt.model.projection import merge_patches, pool_regions
from rgpt.regions import area_weights, square_padding
from tests.model.tiny_models import PICTURE_SIZE, make_model


def plain_gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def plain_deconv(x: Tensor, layer: torch.nn.ConvTranspose2d) -> Tensor:
    """Every input cell writes its own 2 x 2 block of output cells."""
    blocks = torch.einsum("bchw,cokl->bohkwl", x, layer.weight)
    b, o, h, _, w, _ = blocks.shape
    return blocks.reshape(b, o, 2 * h, 2 * w) + layer.bias[:, None, None]


def plain_refine(x: Tensor, refinement: Any, kind: str) -> Tensor:
    if kind == "none":
        return x
    if kind == "bilinear":
        return F.interpolate(x, scale_factor=4, mode="bilinear")
    y = plain_deconv(x, refinement.deconv_1)
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    y = y * refinement.norm.weight[:, None, None] + refinement.norm.bias[:, None, None]
    y = plain_deconv(plain_gelu(y), refinement.deconv_2)
    if kind == "residual":
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3) + y
    return plain_gelu(y)


def plain_connector(x: Tensor, connector: Any) -> Tensor:
    hidden = plain_gelu(x @ connector.linear_1.weight.T + connector.linear_1.bias)
    return hidden @ connector.linear_2.weight.T + connector.linear_2.bias


def plain_pool(refined: Tensor, mask: Tensor) -> Tensor:
    """[C, G, G], [G, G] -> [C]"""
    return (refined * mask).sum((1, 2)) / mask.sum()


def plain_merge(refined: Tensor, side: int) -> Tensor:
    """[C, G, G] -> [side * side, C]: token (i, j) averages the cells that its window touches."""
    grid = refined.shape[-1]
    edges = [(i * grid // side, -((i + 1) * grid // -side)) for i in range(side)]
    return torch.stack([refined[:, a:b, c:d].mean((1, 2)) for a, b in edges for c, d in edges])


@torch.no_grad()
def test_refinement_stays_half_under_autocast() -> None:
    """Its maps are the largest of the model: a bias in float32 must not widen them."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert DeconvRefinement(8)(torch.randn(1, 8, 3, 3)).dtype == torch.bfloat16


@pytest.mark.parametrize("refinement", ["deconv", "residual", "bilinear", "none"])
@pytest.mark.parametrize("merge_grid", [1, 2, 3, 4])
@pytest.mark.parametrize("projector", ["shared", "linear"])
@torch.no_grad()
def test_the_image_path_is_the_formula(kind: str, refinement: str, merge_grid: int, projector: str) -> None:
    model = make_model(kind, refinement=refinement, merge_grid=merge_grid, region_projector=projector).model
    if refinement == "residual":  # zero at the start: give the correction something to do
        torch.nn.init.normal_(model.refinement.deconv_2.weight, std=0.2)
    size, grid = PICTURE_SIZE[kind], model.config.refined_grid
    pixels = torch.randn(2, 3, size, size)
    masks = torch.rand(2, 3, grid, grid) * (torch.rand(2, 3, grid, grid) > 0.6)
    index = torch.tensor([4, 0, 0, 2])
    out = model.get_image_features(pixels, masks, index)

    layer = model.config.vision_feature_layer
    tower = model.vision_tower(pixels, output_hidden_states=True)
    coarse = tower.last_hidden_state if layer is None else tower.hidden_states[layer]
    if coarse.ndim == 3:
        coarse = coarse[:, 1:] if kind != "siglip+qwen2" else coarse
        coarse = torch.stack([row.T.reshape(-1, 4, 4) for row in coarse])
    refined = plain_refine(coarse, model.refinement, refinement)
    tokens = [plain_connector(plain_merge(picture, merge_grid), model.connector) for picture in refined]
    pooled = torch.stack([plain_pool(refined[i // 3], masks[i // 3, i % 3]) for i in index.tolist()])
    if projector == "shared":
        regions = plain_connector(pooled, model.connector)
    else:
        regions = pooled @ model.region_projector.weight.T + model.region_projector.bias

    assert (out.pooler_output - torch.stack(tokens)).abs().max() <= 1e-5
    assert (out.region_features - regions).abs().max() <= 1e-5


@pytest.mark.parametrize("grid", [1, 5, 16, 96])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_constant_map_pools_to_the_constant(grid: int, dtype: torch.dtype) -> None:
    constant = torch.randn(6).to(dtype)
    masks = torch.rand(1, 3, grid, grid)
    masks[0, 1] = 0
    masks[0, 1, 0, 0] = 1e-7  # a region of one pixel in a huge picture
    pooled = pool_regions(constant[None, :, None, None].expand(1, 6, grid, grid), masks)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    assert pooled.dtype == dtype
    assert (pooled[0] - constant).abs().max() <= tolerance * constant.abs().max()


@pytest.mark.parametrize("grid", [2, 7, 16])
def test_two_disjoint_halves_average_to_the_whole_by_area(grid: int) -> None:
    refined, whole = torch.randn(1, 6, grid, grid), torch.rand(grid, grid)
    share = torch.rand(grid, grid)
    left, right = whole * share, whole * (1 - share)
    a, b, both = pool_regions(refined, torch.stack([left, right, whole])[None])[0]
    areas = left.sum(), right.sum()
    torch.testing.assert_close((areas[0] * a + areas[1] * b) / sum(areas), both, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("height, width", [(1, 40), (30, 40), (40, 31), (37, 3), (96, 96)])
@pytest.mark.parametrize("grid", [1, 5, 24])
def test_both_laws_hold_from_the_picture_on_at_any_aspect(height: int, width: int, grid: int) -> None:
    """Pixels in, pooled vectors out: a constant map gives the constant, halves average by their pixels."""
    generator = np.random.default_rng(height * width)
    whole = generator.random((height, width)) < 0.7
    left = whole & (generator.random((height, width)) < 0.3)
    parts = [left, whole & ~left, whole]
    side, offset = square_padding(height, width)
    weights = torch.from_numpy(np.stack([area_weights(part, side, offset, grid) for part in parts]))
    refined = torch.randn(1, 6, grid, grid)
    a, b, both = pool_regions(refined, weights[None])[0]
    pixels = [int(part.sum()) for part in parts]
    torch.testing.assert_close((pixels[0] * a + pixels[1] * b) / pixels[2], both, atol=1e-5, rtol=1e-5)
    constant = pool_regions(torch.full((1, 6, grid, grid), 3.5), weights[None])
    torch.testing.assert_close(constant, torch.full_like(constant, 3.5))


def test_padding_rows_pool_to_zero_and_pass_no_gradient() -> None:
    refined = torch.randn(1, 6, 4, 4, requires_grad=True)
    pooled = pool_regions(refined, torch.zeros(1, 2, 4, 4))
    assert pooled.abs().max() == 0
    pooled.sum().backward()
    assert refined.grad is not None and refined.grad.abs().max() == 0


def test_pooling_names_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\).*\(1, 6, 8, 8\)"):
        pool_regions(torch.zeros(1, 6, 8, 8), torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize("side, grid", [(4, 2), (4, 3), (16, 5), (96, 24), (108, 27), (7, 7)])
def test_merging_by_either_road(side: int, grid: int) -> None:
    refined = torch.randn(2, 3, side, side)
    expected = torch.stack([plain_merge(picture, grid) for picture in refined])
    torch.testing.assert_close(merge_patches(refined, grid), expected, atol=1e-5, rtol=1e-5)


def test_a_fresh_residual_refinement_is_plain_upsampling() -> None:
    model = make_model(refinement="residual").model
    coarse = torch.randn(2, 16, 4, 4)
    refined = model.refinement(coarse)
    torch.testing.assert_close(refined, coarse.repeat_interleave(4, 2).repeat_interleave(4, 3))
    torch.testing.assert_close(merge_patches(refined, 4), coarse.flatten(2).transpose(1, 2))


def test_a_fresh_model_keeps_the_scale_of_features() -> None:
    model = make_model(refinement="deconv").model
    weights = [
        model.refinement.deconv_1.weight,
        model.refinement.deconv_2.weight,
        model.connector.linear_1.weight,
    ]
    assert all(abs(weight.std().item() / 16**-0.5 - 1) < 0.1 for weight in weights)


def test_the_correction_may_be_negative() -> None:
    refinement = DeconvRefinement(8, residual=True)
    assert (refinement(torch.zeros(1, 8, 3, 3)) < -0.01).any()


@pytest.mark.parametrize(
    "strategy, tokens", [("default", 17), ("default", 20), ("default", 16), ("full", 16)]
)
def test_tokens_become_rows_of_a_map(strategy: str, tokens: int) -> None:
    features = torch.arange(float(tokens)).reshape(1, tokens, 1)
    laid_out = as_map(features, strategy=strategy, grid=4)
    assert laid_out.flatten().tolist() == list(range(tokens - 16, tokens))


@pytest.mark.parametrize(
    "shape, strategy, words",
    [
        ((1, 17, 8), "full", "17 tokens"),
        ((1, 9, 8), "default", "9 tokens"),
        ((1, 8, 3, 3), "full", r"\(3, 3\)"),
    ],
)
def test_a_map_of_another_size_is_named(shape: tuple[int, ...], strategy: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        as_map(torch.zeros(shape), strategy=strategy, grid=4)

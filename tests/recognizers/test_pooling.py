"""Geometry and pooling: exact weights, and the three ways of pooling where they must agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rgpt.model.projection import pool_regions
from rgpt.recognizers.clip import grown
from rgpt.recognizers.geometry import Geometry
from rgpt.recognizers.pooling import mask_average, roi_average, roi_features
from rgpt.recognizers.region_set import RegionSet, pad_sets
from rgpt.regions import Box, Mask, region_weights
from tests.recognizers.tiny_recognizers import picture


def test_mask_average_is_the_chat_models_pooling() -> None:
    """Two implementations, siblings that do not import one another, on a square picture."""
    rng = np.random.default_rng(0)
    mask = rng.random((40, 40)) > 0.7
    feature = torch.randn(6, 5, 5)
    regions = RegionSet((Mask(mask), Box(3, 4, 20, 33)), 40, 40)
    weights = regions.weights(Geometry.squash(40, 40, 64), 5, 5)
    for region, row in zip(regions.regions, weights, strict=True):
        # A box with fractional corners would differ: here it covers fractions of pixels, there whole ones.
        np.testing.assert_allclose(row.numpy(), region_weights(region, 40, 40, 5), atol=1e-6)
    expected = pool_regions(feature[None], weights[None])[0]
    torch.testing.assert_close(mask_average(feature, weights), expected)


def test_a_box_on_cell_borders_pools_alike() -> None:
    """Mask average = RoIAlign's mean with one sample a cell."""
    feature = torch.randn(4, 8, 8)
    boxes = torch.tensor([[8.0, 16.0, 40.0, 48.0]])
    regions = RegionSet.of_boxes(boxes, 64, 64)
    masked = mask_average(feature, regions.weights(Geometry.squash(64, 64, 64), 8, 8))
    found, other = (roi_features(feature, boxes, size, 1 / 8).mean((2, 3)) for size in (4, 7))
    torch.testing.assert_close(masked, found, atol=1e-6, rtol=1e-5)
    assert (masked - other).abs().max() > 1e-4  # another grid, legitimately


@pytest.mark.parametrize(
    ("box", "mean"),
    [
        ((0, 0, 64, 64), 1.875),  # samples .5, 1.5, 2.5 and 3.5, the last one clamped to the border, 3
        ((16, 0, 32, 16), 1.5),  # one cell: aligned it would be 1
        ((32, 0, 64, 64), 2.75),  # 2.25, 2.75, and two clamped
        ((16, 0, 20, 16), 1.125),  # a quarter of a cell wide, not made a whole one
    ],
)
def test_the_roi_mean_of_the_released_detector(box: tuple[int, ...], mean: float) -> None:
    """Worked out by hand from F-VLM's `compute_grid_positions`: x + (i + .5) w / n in cells of 16 pixels,
    read between neighbours with floor(x) for the left one; here n = 4, and the map is its column number."""
    columns = torch.arange(4.0).expand(1, 4, 4)
    found = roi_average(columns, torch.tensor([box], dtype=torch.float32), 4, 1 / 16)
    assert found.item() == pytest.approx(mean)


@pytest.mark.parametrize("make", [
    lambda h, w: Geometry.squash(h, w, 32),
    lambda h, w: Geometry.longest_side(h, w, 64),
    lambda h, w: Geometry.short_side(h, w, 48, 80),
])  # fmt: skip
@pytest.mark.parametrize(("height", "width"), [(40, 50), (50, 40), (7, 90)])
def test_geometry_there_and_back(make, height: int, width: int) -> None:
    geometry = make(height, width)
    boxes = torch.tensor([[0.0, 0.0, width, height], [1.5, 2.0, 6.0, 6.5]])
    there = geometry.to_model(boxes)
    torch.testing.assert_close(geometry.to_original(there), boxes)
    extent = torch.tensor([geometry.content_width, geometry.content_height])
    torch.testing.assert_close(there[0, 2:], extent.float())
    pixels = geometry.pixels(picture(0, width, height), (0, 0, 0), (1, 1, 1))
    assert pixels.shape == (3, geometry.canvas_height, geometry.canvas_width)
    assert not pixels[:, geometry.content_height :].any() and not pixels[:, :, geometry.content_width :].any()
    cells = geometry.canvas_height * geometry.canvas_width / 16
    whole = RegionSet((Box(0, 0, width, height),), height, width).weights(geometry, 4, 4).sum() * cells
    assert float(whole) == pytest.approx(geometry.content_height * geometry.content_width, rel=1e-5)


def test_weights_of_a_box_as_box_and_as_mask() -> None:
    box = Box(5, 10, 30, 22)
    geometry = Geometry.longest_side(40, 50, 64)
    regions = RegionSet((box, Mask(box.to_mask(40, 50))), 40, 50)
    as_box, as_mask = regions.weights(geometry, 8, 8)
    torch.testing.assert_close(as_box, as_mask, atol=1e-5, rtol=1e-5)
    assert regions.as_masks().shape == (2, 40, 50) and RegionSet((), 4, 5).as_masks().shape == (0, 4, 5)


def test_a_speck_keeps_a_weight() -> None:
    mask = np.zeros((400, 500), bool)
    mask[399, 499] = True
    weights = RegionSet((Mask(mask),), 400, 500).weights(Geometry.squash(400, 500, 32), 2, 2)
    assert weights[0, 1, 1] > 0 and weights[0].sum() == weights[0, 1, 1]


def test_padding() -> None:
    padded, valid = pad_sets([torch.ones(2, 3), torch.zeros(0, 3), torch.ones(1, 3)])
    assert padded.shape == (3, 2, 3) and valid.tolist() == [[True, True], [False, False], [True, False]]
    assert pad_sets([torch.zeros(0, 3)])[0].shape == (1, 0, 3)


@pytest.mark.parametrize(
    ("box", "context", "expected"),
    [
        ((10, 10, 20, 20), 1.0, (10, 10, 20, 20)),
        ((10.2, 10.7, 10.4, 10.9), 1.0, (10, 10, 11, 11)),
        ((10, 10, 20, 20), 2.0, (5, 5, 25, 25)),
        ((0, 0, 10, 10), 3.0, (0, 0, 20, 20)),
        ((49.9, 39.9, 50, 40), 1.0, (49, 39, 50, 40)),
    ],
)
def test_grown(box, context: float, expected) -> None:
    assert grown(box, context, 50, 40) == expected


def test_boxes_without_area_are_dropped() -> None:
    boxes = torch.tensor([[0.0, 0, 5, 5], [90, 0, 99, 9], [4, 4, 4, 9]])
    kept = RegionSet.of_boxes(boxes, 40, 50, torch.tensor([0.1, 0.2, 0.3]))
    assert len(kept) == 1 and kept.scores is not None and kept.scores.tolist() == pytest.approx([0.1])

"""Laws of the area weights, and a second, plainer implementation that must agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rgpt.errors import InputError
from rgpt.regions import (
    RLE,
    Box,
    Mask,
    Point,
    Polygon,
    Scribble,
    area_weights,
    box_shares,
    mask_shares,
    region_weights,
    square_padding,
)

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))
grids = st.integers(1, 12)


def supersampled(mask: np.ndarray, side: int, offset_xy: tuple[int, int], grid: int) -> np.ndarray:
    """The same by brute force: pad, repeat every pixel `grid` times, average blocks of `side` x `side`."""
    left, top = offset_xy
    square = np.zeros((side, side))
    square[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    fine = square.repeat(grid, axis=0).repeat(grid, axis=1)  # [side*grid, side*grid]
    return fine.reshape(grid, side, grid, side).mean(axis=(1, 3))


@settings(deadline=None)
@given(masks, grids, st.data())
def test_agrees_with_supersampling_at_any_aspect_offset_and_side(mask, grid, data):
    side = data.draw(st.integers(max(mask.shape), max(mask.shape) + 5))
    offset = (
        data.draw(st.integers(0, side - mask.shape[1])),
        data.draw(st.integers(0, side - mask.shape[0])),
    )
    ours = area_weights(mask, side, offset, grid)
    assert ours.dtype == np.float32 and ours.shape == (grid, grid)
    assert np.allclose(ours, supersampled(mask, side, offset, grid), atol=1e-6)


@given(masks, grids)
def test_weights_times_cell_area_sum_to_the_mask_area(mask, grid):
    side, offset = square_padding(*mask.shape)
    assert np.isclose(
        area_weights(mask, side, offset, grid).sum() * (side / grid) ** 2, mask.sum(), rtol=1e-5
    )


@given(masks.filter(np.any), grids, st.floats(-5, 5))
def test_pooling_a_constant_map_gives_the_constant(mask, grid, value):
    side, offset = square_padding(*mask.shape)
    weights = area_weights(mask, side, offset, grid).astype(np.float64)
    assert np.isclose((weights * value).sum() / weights.sum(), value)


@given(masks, grids)
def test_weights_are_additive_and_flip_with_the_mask(mask, grid):
    side, (left, top) = square_padding(*mask.shape)
    other_left = side - mask.shape[1] - left
    whole = area_weights(np.ones_like(mask), side, (left, top), grid)
    parts = area_weights(mask, side, (left, top), grid) + area_weights(~mask, side, (left, top), grid)
    assert np.allclose(parts, whole, atol=1e-6)
    flipped = area_weights(np.ascontiguousarray(mask[:, ::-1]), side, (other_left, top), grid)
    assert np.allclose(flipped, area_weights(mask, side, (left, top), grid)[:, ::-1], atol=1e-6)


@pytest.mark.parametrize("height, width", [(480, 640), (640, 427), (1, 3000), (2669, 4000)])
def test_one_pixel_is_never_lost_and_padding_has_weight_zero(height, width):
    mask = np.zeros((height, width), bool)
    mask[height // 2, width - 1] = True
    side, (left, top) = square_padding(height, width)
    weights = area_weights(mask, side, (left, top), 24)
    assert (weights > 0).sum() >= 1
    assert np.isclose(weights.sum() * (side / 24) ** 2, 1)
    everything = area_weights(np.ones_like(mask), side, (left, top), 24)
    assert np.isclose(everything.sum() * (side / 24) ** 2, height * width, rtol=1e-6)
    assert everything[0].sum() == 0 if top >= side / 24 else everything[0].sum() > 0


def test_a_box_on_cell_borders_is_exactly_its_cells():
    weights = area_weights(Box(8, 16, 24, 32).to_mask(32, 32), 32, (0, 0), 4)
    expected = np.zeros((4, 4), np.float32)
    expected[2:4, 1:3] = 1
    assert np.array_equal(weights, expected)


points = st.tuples(st.floats(-9, 40), st.floats(-9, 40))
drawn = st.one_of(
    st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), *[st.floats(0.1, 30)] * 4),
    st.lists(st.lists(points, min_size=3, max_size=9), min_size=1, max_size=3).map(Polygon),
    st.builds(Scribble, st.lists(points, min_size=1, max_size=6), st.floats(0.01, 20)),
    st.builds(Point, st.floats(0, 22), st.floats(0, 17), st.none() | st.floats(0.01, 40)),
    hnp.arrays(bool, (18, 23)).filter(np.any).map(RLE.from_mask),
)


@given(drawn, st.integers(1, 40))
def test_without_a_mask_the_bits_are_those_of_the_mask(region, grid):
    """Keys of earlier turns are found by these bits, whatever kind of region the same pixels come as."""
    try:
        mask = region.to_mask(18, 23)
    except InputError:
        with pytest.raises(InputError):
            region_weights(region, 18, 23, grid)
        return
    side, offset = square_padding(18, 23)
    expected = area_weights(mask, side, offset, grid)
    assert np.allclose(expected, supersampled(mask, side, offset, grid), atol=1e-6)
    for same in (region, Mask(mask), RLE.from_mask(mask)):
        assert np.array_equal(region_weights(same, 18, 23, grid), expected)


@given(drawn)
def test_rectangles_are_disjoint_and_are_the_region(region):
    try:
        found = region.rectangles(18, 23)
    except InputError:
        return
    painted = np.zeros((18, 23), int)
    for x1, y1, x2, y2 in found:
        assert 0 <= x1 < x2 <= 23 and 0 <= y1 < y2 <= 18
        painted[y1:y2, x1:x2] += 1
    assert np.array_equal(painted, region.to_mask(18, 23))


@pytest.mark.parametrize(
    "size, expected", [((3, 8), (8, (0, 2))), ((8, 3), (8, (2, 0))), ((5, 5), (5, (0, 0)))]
)
def test_square_padding_centres_the_picture(size, expected):
    assert square_padding(*size) == expected


@pytest.mark.parametrize(
    "box", [(0, 0, 96, 96), (0, 0, 1, 1), (3, 5, 40, 61), (95, 95, 96, 96), (10, 2, 12, 90)]
)
@pytest.mark.parametrize("grid", [48, 24, 7])
def test_a_box_covers_what_its_mask_covers(box: tuple[int, ...], grid: int) -> None:
    side = 96
    edges = np.linspace(0, side, grid + 1)
    shares = box_shares(np.array(box, np.float32), edges, edges)
    assert shares.dtype == np.float32
    assert np.allclose(shares, area_weights(Box(*box).to_mask(side, side), side, (0, 0), grid), atol=1e-5)


def test_shares_of_any_boxes_sum_to_their_areas() -> None:
    corners = np.random.default_rng(0).uniform(0, 48, (50, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    edges = np.arange(49, dtype=np.float32)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    assert np.allclose(box_shares(boxes, edges, edges).sum((1, 2)), areas, rtol=1e-4, atol=1e-3)
    assert not box_shares(np.zeros((2, 6, 4), np.float32), edges, edges).any()


@given(masks, st.integers(1, 5), st.integers(1, 5), st.floats(0.3, 3), st.floats(0.3, 3))
def test_cells_need_be_neither_square_nor_within_the_picture(mask, g, h, down, across) -> None:
    rows, columns = np.arange(g + 1) * down - 1, np.arange(h + 1) * across - 1
    places = np.argwhere(mask)
    pixels = np.concatenate([places[:, ::-1], places[:, ::-1] + 1], axis=1).astype(float)
    expected = box_shares(pixels, rows, columns).sum(axis=0)
    assert np.allclose(mask_shares(mask, rows, columns), expected, atol=1e-5)


def test_what_a_model_sees_is_what_it_sees_of_the_padded_picture() -> None:
    weights = region_weights(Box(0, 0, 8, 4), 4, 8, 4)
    assert weights.tolist() == [[0] * 4, [1] * 4, [1] * 4, [0] * 4]
    with pytest.raises(InputError, match="8 x 4"):
        region_weights(Box(9, 9, 10, 10), 4, 8, 4)

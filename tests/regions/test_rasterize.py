"""Polygons to pixels: far vertices, slivers, several rings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgpt.regions import Box, Polygon
from rgpt.regions.rasterize import clip_ring

H, W = 40, 50


def rectangle(x1, y1, x2, y2):
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def test_a_rectangle_as_polygon_is_the_box():
    assert np.array_equal(Polygon(rectangle(5, 6, 20, 30)).to_mask(H, W), Box(5, 6, 20, 30).to_mask(H, W))


def test_rings_are_united_not_cut_out():
    outer, inner = rectangle(5, 5, 30, 30), rectangle(10, 10, 20, 20)
    assert np.array_equal(Polygon([outer, inner]).to_mask(H, W), Polygon(outer).to_mask(H, W))
    apart = Polygon([rectangle(0, 0, 4, 3), rectangle(10, 10, 14, 13)])
    assert apart.to_mask(H, W).sum() == 24


@pytest.mark.parametrize("far", [1e3, 1e9, 1e200, 1e308])
def test_vertices_far_away_cost_nothing_and_cut_correctly(far):
    covering = Polygon([(-far, -far), (far, -far), (far, far), (-far, far)])
    assert covering.to_mask(H, W).all()
    half = Polygon([(-far, -far), (20, -far), (20, far), (-far, far)])
    assert np.array_equal(half.to_mask(H, W), Box(0, 0, 20, H).to_mask(H, W))


@pytest.mark.parametrize(
    "ring, pixel",
    [
        ([(3.1, 3.1), (3.2, 3.1), (3.2, 3.2)], (3, 3)),
        ([(7, 8), (7, 8), (7, 8)], (8, 7)),
        ([(W - 0.2, H - 0.2), (W + 9, H - 0.2), (W + 9, H + 9)], (H - 1, W - 1)),
    ],
)
def test_a_sliver_keeps_one_pixel(ring, pixel):
    assert np.argwhere(Polygon(ring).to_mask(H, W)).tolist() == [list(pixel)]


@given(st.lists(st.tuples(st.floats(-30, 80), st.floats(-30, 80)), min_size=3, max_size=7))
def test_a_clipped_ring_stays_inside_the_rectangle(ring):
    assert all(-1e-9 <= x <= W + 1e-9 and -1e-9 <= y <= H + 1e-9 for x, y in clip_ring(ring, 0, 0, W, H))


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 40)), min_size=3, max_size=7))
def test_clipping_leaves_an_inner_ring_alone(ring):
    assert np.array_equal(clip_ring(ring, 0, 0, W, H), ring)

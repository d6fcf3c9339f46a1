"""Regions validate themselves, and their masks, boxes and JSON agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Mask, Point, Polygon, Scribble, region_from_json

H, W = 40, 50


@st.composite
def whole_boxes(draw: st.DrawFn, height: int = H, width: int = W) -> Box:
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return Box(x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height)))


@given(whole_boxes())
def test_box_to_mask_to_box_is_the_identity(box):
    mask = box.to_mask(H, W)
    assert Mask(mask).bounds(H, W) == box
    assert mask.sum() == box.area
    assert RLE.from_mask(mask).bounds(H, W) == box


@given(whole_boxes())
def test_coco_box_there_and_back(box):
    assert Box.from_coco(box.to_coco()) == box


@pytest.mark.parametrize("x, y", [(0, 0), (10, 20), (W - 4, H - 3)])
def test_a_coco_box_of_4_by_3_has_12_pixels(x, y):
    assert Box.from_coco([x, y, 4, 3]).to_mask(H, W).sum() == 12


@given(
    st.floats(-60, 60), st.floats(-60, 60), st.floats(1e-3, 100), st.floats(1e-3, 100)
)  # boxes anywhere: inside, outside, larger than the picture, thinner than a pixel
def test_a_box_that_touches_the_picture_has_pixels_and_any_other_is_refused(x, y, w, h):
    box = Box(x, y, x + w, y + h)
    if box.x2 > 0 and box.y2 > 0 and box.x1 < W and box.y1 < H:
        mask = box.to_mask(H, W)
        assert mask.any()
        tight, cut = Mask(mask).bounds(H, W), box.bounds(H, W)
        assert all(abs(a - b) <= 1 for a, b in zip(tight.xyxy, cut.xyxy, strict=True))
    else:
        with pytest.raises(InputError, match="nothing of it inside"):
            box.to_mask(H, W)


@pytest.mark.parametrize(
    "box, pixel",
    [
        (Box(3.1, 5.1, 3.2, 5.2), (5, 3)),
        (Box(W - 0.1, H - 0.1, W, H), (H - 1, W - 1)),
        (Box(-5, -5, 0.1, 0.1), (0, 0)),
    ],
)
def test_a_box_smaller_than_a_pixel_takes_the_pixel_at_its_centre(box, pixel):
    assert np.argwhere(box.to_mask(H, W)).tolist() == [list(pixel)]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Box(math.nan, 0, 1, 1), "x1 to be a finite number"),
        (lambda: Box(0, 0, math.inf, 1), "x2 to be a finite number"),
        (lambda: Box(0, 0, "9", 1), "got '9'"),
        (lambda: Box(5, 0, 2, 1), "expected x1 < x2, got x1 = 5 and x2 = 2"),
        (lambda: Box(0, 3, 2, 3), "expected y1 < y2, got y1 = 3 and y2 = 3"),
        (lambda: Box.from_coco([1, 2, 3]), "four numbers"),
        (lambda: Box.from_coco([1, 2, -3, 4]), "x1 < x2"),
        (lambda: Polygon([(0, 0), (5, 5)]), "at least 3 points, got 2"),
        (lambda: Polygon([]), "at least 3 points, got 0"),
        (lambda: Polygon([[(0, 0), (1, 0), (1, 1)], [(0, 0), (1, 1)]]), "at least 3 points"),
        (lambda: Polygon([(0, 0), (5, math.nan), (2, 2)]), "y of point 1"),
        (lambda: Polygon([(0, 0), (5, 5, 5), (2, 2)]), r"point 1 to be \[x, y\]"),
        (lambda: Polygon([1, 2, 3, 4, 5, 6]), r"point 0 to be \[x, y\]"),
        (lambda: Polygon("abc"), "a list of"),
        (lambda: Polygon([(i, 0) for i in range(100_001)]), "at most 100000 points, got 100001"),
        (lambda: Polygon.from_coco([[1, 2, 3, 4, 5, 6, 7]]), "an even count"),
        (lambda: Mask(np.zeros((4, 5), bool)), "got an empty mask"),
        (lambda: Mask(np.ones((4, 5, 3), bool)), r"shape \[4, 5, 3\]"),
        (lambda: Mask(np.ones((4, 5), np.float32)), "probability > 0.5"),
        (lambda: Mask(np.zeros((0, 5), bool)), "at least 1"),
        (lambda: Scribble([], 3), "at least 1 point, got 0"),
        (lambda: Scribble([(1, 1)], 0), "width above 0, got 0"),
        (lambda: Scribble([(1, 1)], math.inf), "width to be a finite number"),
        (lambda: Point(1, 2, -1), "radius above 0"),
        (lambda: Point(True, 2), "got True"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(make, words):
    with pytest.raises(InputError, match=words) as caught:
        make()
    message = str(caught.value)
    assert "expected" in message and "got" in message and ";" in message
    assert message.endswith(".") and "\n" not in message and len(message) < 250


@pytest.mark.parametrize(
    "region, words",
    [
        (Box(W, 0, W + 5, 5), "box .50, 0, 55, 5.*50 x 40 picture"),
        (Box(-9, -9, 0, 0), "nothing of it inside"),
        (Polygon([(60, 0), (70, 0), (65, 9)]), "polygon"),
        (Polygon([(-1, 60), (-1, -60), (-60, 0)]), "polygon"),
        (Polygon([(W, 0), (W + 5, 0), (W, 5)]), "polygon"),
        (Scribble([(-20, -20), (-30, -30)], 8), "scribble"),
        (Point(W, 3), "point .50, 3"),
        (Point(3, -0.01), "point"),
        (Mask(np.ones((W, H), bool)), "expected the size of the picture, 50 x 40, got 40 x 50"),
        (RLE((H, W + 1), [0, H * (W + 1)]), "got 51 x 40"),
    ],
)
def test_regions_outside_the_picture_and_masks_of_another_size_are_refused(region, words):
    for use in (region.check_inside, region.to_mask, region.bounds):
        with pytest.raises(InputError, match=words):
            use(H, W)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (2.5, 5), (True, 5), (20_000, 20_000)])
def test_impossible_picture_sizes_are_refused(size):
    with pytest.raises(InputError, match="picture size"):
        Box(0, 0, 1, 1).to_mask(*size)


finite_points = st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
regions = st.one_of(
    whole_boxes(),
    st.lists(finite_points, min_size=3, max_size=8).map(Polygon),
    st.lists(st.lists(finite_points, min_size=3, max_size=5), min_size=2, max_size=3).map(Polygon),
    st.builds(Scribble, st.lists(finite_points, min_size=1, max_size=6), st.floats(0.01, 30)),
    st.builds(Point, st.floats(0, W - 1), st.floats(0, H - 1), st.none() | st.floats(0.01, 20)),
    whole_boxes().map(lambda box: RLE.from_mask(box.to_mask(H, W))),
    whole_boxes().map(lambda box: RLE.from_mask(box.to_mask(H, W), compressed=False)),
)


@given(regions)
def test_json_there_and_back(region):
    assert region_from_json(region.to_json()) == region


@given(whole_boxes())
def test_a_mask_comes_back_from_json_as_an_rle_of_the_same_pixels(box):
    mask = Mask(box.to_mask(H, W))
    assert np.array_equal(region_from_json(mask.to_json()).to_mask(H, W), mask.array)


@given(regions)
def test_a_region_has_pixels_inside_its_bounds_or_is_refused_by_every_method(region):
    try:
        region.check_inside(H, W)
    except InputError:
        with pytest.raises(InputError):
            region.to_mask(H, W)
        return
    mask = region.to_mask(H, W)
    assert mask.shape == (H, W) and mask.dtype == bool and mask.any()
    bounds = region.bounds(H, W)
    assert np.array_equal(mask & bounds.to_mask(H, W), mask)


def test_regions_are_values():
    box = Box(1, 2, 3, 4)
    with pytest.raises(AttributeError):
        box.x1 = 9
    array = np.ones((3, 3), bool)
    mask = Mask(array)
    array[:] = False
    assert mask.array.all()
    with pytest.raises(ValueError):
        mask.array[0, 0] = False
    assert mask == Mask(np.ones((3, 3), np.uint8)) and hash(mask) == hash(Mask(np.ones((3, 3), bool)))
    assert mask != Mask(np.eye(3, dtype=bool))
    assert len({box, Box(1.0, 2.0, 3.0, 4.0), Polygon([(0, 0), (1, 0), (1, 1)])}) == 2


def test_to_mask_gives_an_array_of_ones_own():
    mask = Mask(np.ones((3, 3), bool))
    mask.to_mask(3, 3)[:] = False
    assert mask.array.all()


def test_one_ring_and_a_list_of_one_ring_are_the_same_polygon():
    ring = [(0, 0), (9, 0), (9, 9)]
    assert Polygon(ring) == Polygon([ring]) == Polygon(np.array(ring))


def test_a_disc_has_about_the_area_of_a_disc_and_scales_with_the_picture():
    assert abs(Point(20, 20, 10).to_mask(40, 40).sum() - math.pi * 100) < 8
    assert Point(20, 20).radius_in(1000, 2000) == 20
    assert Point(20, 20).radius_in(40, 50) == 2


def test_a_stroke_is_every_pixel_within_half_its_width():
    strokes = Scribble([[(5, 5), (30, 20), (45, 3)], [(10, 35)]], 6)
    y, x = np.mgrid[:H, :W] + 0.5
    along = np.linspace(0, 1, 2001)[:, None, None]
    near = (x - 10) ** 2 + (y - 35) ** 2 <= 9
    for (ax, ay), (bx, by) in [((5, 5), (30, 20)), ((30, 20), (45, 3))]:
        distance = np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)).min(axis=0)
        near |= distance <= 3
    assert (strokes.to_mask(H, W) != near).sum() <= 2  # rounding of the sampled reference


def test_the_thinnest_stroke_has_no_gaps():
    mask = Scribble([(0, 0), (W, H)], 1e-6).to_mask(H, W)
    assert mask.any(axis=0).all() and mask.any(axis=1).all()

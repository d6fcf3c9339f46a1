"""Picture and regions move together: the mask of the moved region is the moved mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Frame, Mask, Point, Polygon, Scribble, iou

H, W = 12, 20
RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (H, W, 3), dtype=np.uint8))
BLOB = RNG.random((H, W)) > 0.7

whole_boxes = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h),
    st.integers(-4, W - 1),
    st.integers(-4, H - 1),
    st.integers(5, 12),
    st.integers(5, 12),
)


def moved_mask(mask: np.ndarray, scale_y: int, scale_x: int) -> np.ndarray:
    """Resize by whole factors, pad to a square, flip - on the bare array."""
    mask = mask.repeat(scale_y, axis=0).repeat(scale_x, axis=1)
    height, width = mask.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), bool)
    square[top : top + height, left : left + width] = mask
    return square[:, ::-1]


@settings(deadline=None)
@given(whole_boxes, st.integers(1, 4), st.integers(1, 4))
def test_resize_then_pad_then_flip_moves_every_mask_exactly(box, scale_y, scale_x):
    frame = Frame(PICTURE, {3: box, 5: Mask(box.to_mask(H, W)), 8: RLE.from_mask(BLOB)})
    moved = frame.resize(H * scale_y, W * scale_x).pad_to_square().flip_horizontal()
    assert moved.image.size == (moved.width, moved.height) and moved.height == moved.width
    assert [type(region) for region in moved.regions.values()] == [Box, Mask, RLE]
    before, after = frame.masks(), moved.masks()
    for number in (3, 5, 8):
        assert np.array_equal(after[number], moved_mask(before[number], scale_y, scale_x)), number


SHAPES = {
    "polygon": Polygon([(2, 2), (15, 3), (11, 10)]),
    "polygon past the border": Polygon([(-5, 2), (15, -4), (30, 10), (3, 30)]),
    "rings": Polygon([[(1, 1), (6, 1), (3, 7)], [(10, 4), (18, 4), (14, 11)]]),
    "scribble": Scribble([(3, 3), (10, 8), (17, 4)], 3),
    "scribble past the border": Scribble([(-3, 3), (30, 8)], 5),
    "point": Point(9.5, 6.5, 4),
    "point at the corner": Point(0.5, 0.5, 5),
}


@pytest.mark.parametrize("name", SHAPES)
def test_drawn_shapes_move_like_their_pixels(name):
    large = Frame(PICTURE, [SHAPES[name]]).resize(H * 20, W * 20)  # so that one pixel of rounding is little
    moved = large.pad_to_square().flip_horizontal()
    expected = moved_mask(large.masks()[1], 1, 1)
    assert iou(Mask(moved.masks()[1]), Mask(expected)) > 0.97


@pytest.mark.parametrize("region", [*SHAPES.values(), Box(-3, 2, 7.25, 9), Mask(BLOB), RLE.from_mask(BLOB)])
def test_flipping_twice_is_the_identity(region):
    frame = Frame(PICTURE, [region]).flip_horizontal().flip_horizontal()
    assert np.array_equal(np.asarray(frame.image), np.asarray(PICTURE))
    assert np.array_equal(frame.masks()[1], region.to_mask(H, W))


@given(whole_boxes)
def test_crop_takes_picture_and_mask_of_the_same_place(box):
    cut = box.bounds(H, W)
    x1, y1, x2, y2 = (int(value) for value in cut.xyxy)
    frame = Frame(PICTURE, {1: box, 2: RLE.from_mask(box.to_mask(H, W))}).crop(cut)
    assert np.array_equal(np.asarray(frame.image), np.asarray(PICTURE)[y1:y2, x1:x2])
    assert all(mask.all() for mask in frame.masks().values())


def test_what_lies_outside_a_crop_is_refused_by_number_or_dropped():
    frame = Frame(PICTURE, {4: Box(0, 0, 3, 3), 7: Box(10, 5, 15, 9), 9: Mask(Box(0, 0, 2, 2).to_mask(H, W))})
    with pytest.raises(InputError, match=r"^<region4>: box"):
        frame.crop(Box(8, 4, 16, 10))
    assert set(frame.crop(Box(8, 4, 16, 10), drop_outside=True).regions) == {7}


@pytest.mark.parametrize("box", [Box(0.5, 0, 5, 5), Box(-1, 0, 5, 5), Box(0, 0, W + 1, 5)])
def test_a_crop_must_be_whole_pixels_inside(box):
    with pytest.raises(InputError, match="crop: expected whole-pixel corners"):
        Frame(PICTURE).crop(box)


def test_padding_is_filled_and_does_not_uncover_what_lay_outside():
    tall = Frame(PICTURE, [Box(-9, -9, 40, 40), SHAPES["polygon past the border"]]).pad_to_square((1, 2, 3))
    pixels = np.asarray(tall.image)
    assert (pixels[:4] == (1, 2, 3)).all() and (pixels[-4:] == (1, 2, 3)).all()
    for mask in tall.masks().values():
        assert not mask[:4].any() and not mask[-4:].any() and mask[4:-4].any()
    assert tall.masks()[1][4:-4].all()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7)])
@pytest.mark.parametrize("at", [(0, 0), (H - 1, W - 1), (5, 3)])
def test_shrinking_never_loses_a_mask(size, at):
    mask = np.zeros((H, W), bool)
    mask[at] = True
    assert Frame(PICTURE, [Mask(mask), RLE.from_mask(mask)]).resize(*size).masks()[1].sum() == 1


def test_a_list_is_numbered_from_one_and_a_bad_region_is_named():
    assert set(Frame(PICTURE, [Box(0, 0, 1, 1), Box(1, 1, 2, 2)]).regions) == {1, 2}
    with pytest.raises(InputError, match=r"^<region2>: box .* nothing of it inside"):
        Frame(PICTURE, [Box(0, 0, 1, 1), Box(90, 90, 92, 92)])

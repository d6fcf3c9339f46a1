"""Regions drawn on a picture: colours, outlines, and numbers that never cover one another."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rgpt.errors import InputError
from rgpt.regions import PALETTE, Box, Point, Polygon, Scribble, color_of, draw_regions, place_labels
from rgpt.regions.draw import write_beside

SIZE = 200


def overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


@st.composite
def anchors(draw: st.DrawFn):
    x1, y1 = draw(st.integers(0, SIZE - 1)), draw(st.integers(0, SIZE - 1))
    return x1, y1, draw(st.integers(x1 + 1, SIZE)), draw(st.integers(y1 + 1, SIZE))


@settings(deadline=None)
@given(st.lists(anchors(), min_size=1, max_size=30))
def test_labels_stay_inside_and_apart(boxes):
    places = place_labels(boxes, [(20, 16)] * len(boxes), SIZE, SIZE)
    assert all(x1 >= 0 and y1 >= 0 and x2 <= SIZE and y2 <= SIZE for x1, y1, x2, y2 in places)
    assert all(overlap(a, b) == 0 for a, b in combinations(places, 2))


def test_labels_of_equal_regions_are_apart():
    places = place_labels([(50, 50, 60, 60)] * 40, [(20, 16)] * 40, SIZE, SIZE)
    assert all(overlap(a, b) == 0 for a, b in combinations(places, 2))


def test_far_more_labels_than_fit_are_placed_inside():
    places = place_labels([(10, 10, 60, 60)] * 300, [(20, 16)] * 300, SIZE, SIZE)
    assert all(x1 >= 0 and y1 >= 0 and x2 <= SIZE and y2 <= SIZE for x1, y1, x2, y2 in places)


def test_a_label_sits_above_its_region_or_on_its_tip():
    assert place_labels([(50, 50, 90, 90)], [(20, 16)], SIZE, SIZE) == [(50, 34, 70, 50)]
    assert place_labels([(50, 50, 90, 90)], [(20, 16)], SIZE, SIZE, [(70, 50)]) == [(70, 34, 90, 50)]


def test_too_many_labels_or_too_small_a_picture_still_gives_places():
    assert len(place_labels([(0, 0, 10, 10)] * 9, [(8, 8)] * 9, 10, 10)) == 9
    assert draw_regions(Image.new("RGB", (3, 2)), {1: Box(0, 0, 3, 2), 12: Point(1, 1)}).size == (3, 2)


def test_a_drawn_region_shows_tint_inside_outline_at_its_edge_and_nothing_outside():
    grey = Image.new("RGB", (100, 100), (128, 128, 128))
    drawn = np.asarray(draw_regions(grey, {2: Box(30, 30, 70, 70)})).astype(int)
    assert tuple(drawn[45, 30]) == color_of(2) == tuple(drawn[69, 69])
    inside = drawn[60, 60]
    assert not np.array_equal(inside, (128, 128, 128)) and not np.array_equal(inside, color_of(2))
    assert (drawn[75:] == 128).all() and (drawn[:, 75:] == 128).all()
    assert np.asarray(grey).max() == 128  # the source is not painted on


def test_a_region_at_the_border_is_outlined_there_too():
    drawn = draw_regions(Image.new("RGB", (100, 100)), {1: Box(0, 0, 100, 100)})
    assert all(drawn.getpixel(xy) == color_of(1) for xy in [(99, 50), (50, 99), (0, 50), (50, 0)])


def test_a_small_region_stays_visible_on_a_large_one_whatever_the_order():
    small, large = Box(40, 40, 60, 60), Box(0, 0, 100, 100)
    for regions in ({1: small, 2: large}, {2: large, 1: small}):
        assert draw_regions(Image.new("RGB", (100, 100)), regions).getpixel((40, 50)) == color_of(1)


def test_a_number_keeps_its_colour_and_colours_differ():
    assert color_of(3) == PALETTE[2] and color_of(1 + len(PALETTE)) == color_of(1)
    distances = [np.abs(np.subtract(a, b)).sum() for a, b in combinations(PALETTE, 2)]
    assert min(distances) > 90


def test_every_kind_of_region_and_of_picture_can_be_drawn():
    regions = {
        1: Polygon([(5, 5), (50, 9), (30, 60)]),
        2: Scribble([(5, 80), (90, 85)], 6),
        7: Point(70, 30),
    }
    for mode in ("L", "RGBA", "RGB"):
        assert draw_regions(Image.new(mode, (100, 100)), regions).mode == "RGB"
    assert draw_regions(Image.new("RGB", (9, 9)), {}).size == (9, 9)


def test_a_region_outside_is_named():
    with pytest.raises(InputError, match=r"^<region4>: point"):
        draw_regions(Image.new("RGB", (9, 9)), {4: Point(10, 10)})


def test_lines_stand_beside_the_picture_in_the_colours_of_their_regions():
    picture = Image.new("RGB", (60, 50), (9, 9, 9))
    assert write_beside(picture, {}) is picture
    lines = {7: "7 cat 0.50", 2: "2 " + "dog " * 40, 3: "3 ü", 14: "14 sheep"}
    drawn = write_beside(picture, lines)
    assert drawn.crop((0, 0, 60, 50)).tobytes() == picture.tobytes()
    assert drawn.height == 50 and drawn.width > 60
    beside = drawn.crop((60, 0, drawn.width, 50))
    colours = {colour for _, colour in beside.getcolors(1_000_000)}
    assert {color_of(n) for n in lines} <= colours and color_of(5) not in colours


@pytest.mark.parametrize("count", [0, 1, 7, 200])
def test_however_many_lines_none_is_written_into_the_picture(count):
    image = Image.new("RGB", (160, 120), (9, 9, 9))
    lines = {i: f"{i} a very long name of a thing that goes on and on 0.99" for i in range(1, count + 1)}
    found = write_beside(image, lines)
    assert found.crop((0, 0, 160, 120)).tobytes() == image.tobytes()
    assert (found.width > 160) == (count > 0) and found.height == 120

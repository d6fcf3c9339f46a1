"""Canvas values become regions, or one clear sentence; conversations are values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.drawing import MAX_POINTS, MAX_REGIONS, read_regions
from app.session import Conversation, Picture, as_plain_text, check_question, fill_question
from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Point, Polygon, Scribble

PICTURE = Picture(Image.new("RGB", (40, 30)), token="here")


def value(*regions: object, picture: str = "here") -> dict:
    return {"picture": picture, "regions": list(regions), "last_id": 99}


def box(*xyxy: object, number: object = 1) -> dict:
    return {"id": number, "kind": "box", "box": list(xyxy)}


def brush(*strokes: dict, number: int = 1) -> dict:
    return {"id": number, "kind": "brush", "strokes": list(strokes)}


def stroke(width: object, *points: object) -> dict:
    return {"width": width, "points": list(points)}


TRIANGLE = [[2, 2], [20, 2], [2, 20]]


@pytest.mark.parametrize(
    ("drawn", "region"),
    [
        (box(2, 3, 10, 12.5), Box(2, 3, 10, 12.5)),
        (box(-5, -5, 100, 100), Box(0, 0, 40, 30)),
        ({"id": 1, "kind": "polygon", "points": TRIANGLE}, Polygon(TRIANGLE)),
        (
            {"id": 1, "kind": "polygon", "points": [[-9, 2], [20, 2], [2, 99]]},
            Polygon([[0, 2], [20, 2], [2, 30]]),
        ),
        ({"id": 1, "kind": "point", "point": [3, 4]}, Point(3, 4)),
        ({"id": 1, "kind": "point", "point": [40, 30]}, Point(39.5, 29.5)),
        (brush(stroke(4, [5, 5], [15, 5])), Scribble([[(5, 5), (15, 5)]], 4)),
        (brush(stroke(4, [5, 5]), stroke(4, [9, 9])), Scribble([[(5, 5)], [(9, 9)]], 4)),
    ],
)
def test_a_drawn_region_becomes_a_value_inside_the_picture(drawn, region):
    assert read_regions(value(drawn), PICTURE) == {1: region}


def test_strokes_of_several_widths_become_their_union():
    first, second = stroke(4, [5, 5], [15, 5]), stroke(8, [30, 20])
    union = read_regions(value(brush(first, second)), PICTURE)[1]
    assert isinstance(union, RLE)
    alone = [read_regions(value(brush(s)), PICTURE)[1].to_mask(30, 40) for s in (first, second)]
    assert np.array_equal(union.to_mask(30, 40), alone[0] | alone[1])


@pytest.mark.parametrize(
    ("drawn", "told"),
    [
        ("not a region", "whole"),
        (box(1, 1, 5, 5, number=0), "whole"),
        (box(1, 1, 5, 5, number=True), "whole"),
        (box(1, 1, 5, 5, number="1"), "whole"),
        (box(1, 1, 5, 5, number=10**30), "whole"),
        (box(1, 1, 5), "4 finite numbers"),
        (box(1, 1, 5, "5"), "4 finite numbers"),
        (box(1, 1, 5, True), "4 finite numbers"),
        (box(1, 1, float("nan"), 5), "4 finite numbers"),
        (box(1, 1, float("inf"), 5), "4 finite numbers"),
        (box(1, 1, 10**400, 5), "4 finite numbers"),
        (box(5, 1, 1, 5), "x1 < x2"),
        (box(50, 1, 60, 5), "inside"),
        ({"id": 1, "kind": "circle", "circle": []}, "kind"),
        ({"id": 1, "kind": ["box"], "box": []}, "kind"),
        ({"id": 1, "kind": "box", "box": [1, 1, 5, 5], "bbox": []}, "exactly"),
        ({"id": 1, "kind": "box"}, "exactly"),
        ({"id": 1, "kind": "polygon", "points": [[1, 1], [5, 5]]}, "at least 3"),
        ({"id": 1, "kind": "polygon", "points": "abc"}, "no points"),
        ({"id": 1, "kind": "polygon", "points": [[1, 1]] * (MAX_POINTS + 1)}, "more than"),
        ({"id": 1, "kind": "point", "point": {"x": 1}}, "2 finite numbers"),
        (brush(), "1 to"),
        (brush("stroke"), "width and points"),
        (brush(stroke(0, [5, 5])), "wide"),
        (brush(stroke(41, [5, 5])), "wide"),
        (brush(stroke(4)), "no points"),
    ],
)
def test_what_the_canvas_never_sends_is_refused(drawn, told):
    with pytest.raises(InputError, match=told):
        read_regions(value(drawn), PICTURE)


@pytest.mark.parametrize("wrong", ["text", 5, [], {"regions": "x"}, {"regions": {}}])
def test_a_value_of_another_form_is_refused(wrong):
    with pytest.raises(InputError, match="reload"):
        read_regions(wrong, PICTURE)


def test_caps_and_double_numbers():
    with pytest.raises(InputError, match="more than the"):
        read_regions(value(*(box(1, 1, 5, 5, number=n + 1) for n in range(MAX_REGIONS + 1))), PICTURE)
    with pytest.raises(InputError, match="differ"):
        read_regions(value(box(1, 1, 5, 5), box(1, 1, 6, 6)), PICTURE)


def test_brush_work_is_bounded():
    large = Picture(Image.new("RGB", (1000, 1000)), token="here")
    zigzag = stroke(500, *([0, 0], [1000, 1000]) * (MAX_POINTS // 2))
    with pytest.raises(InputError, match="fewer strokes"):
        read_regions(value(brush(zigzag)), large)
    # The same corners again and again, closer than the brush can tell apart: thinned away.
    still = stroke(500, *([500, 500], [501, 501]) * (MAX_POINTS // 2))
    assert len(read_regions(value(brush(still)), large)[1].points[0]) == 2


def test_regions_of_another_picture_are_left_out():
    assert read_regions(value(box(1, 1, 5, 5), picture="other"), PICTURE) == {}
    assert read_regions(value(box(1, 1, 5, 5)), None) == {}
    assert read_regions(None, PICTURE) == {}


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "kind", "box", "points", "point", "strokes", "width"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.lists(junk | st.builds(lambda b: {"id": 1, "kind": "box", "box": b}, junk), max_size=3))
@settings(max_examples=150, deadline=None)
def test_whatever_the_page_sends_the_answer_is_regions_or_an_input_error(regions):
    try:
        found = read_regions(value(*regions), PICTURE)
    except InputError:
        return
    for region in found.values():
        assert region.to_mask(PICTURE.height, PICTURE.width).any()


# ------------------------------------------------------------------ questions


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        (None, "empty"),
        ("half \udc00 of it", "half a character"),
        ("x" * 5000, "5000 characters"),
        ("What is <region9>?", "<region9> is not on the picture, which has <region1>"),
        ("Compare <region1>, <region7> and <region8>", "<region7>, <region8> is not"),
        ("<region00000000000000000000>", None),
    ],
)
def test_questions_that_cannot_be_asked(question, told):
    regions = {1: Box(1, 1, 5, 5)}
    if told is None:
        assert check_question(question, Conversation(PICTURE), regions) == question
        return
    with pytest.raises(InputError, match=told):
        check_question(question, Conversation(PICTURE), regions)


def test_a_question_needs_a_picture_and_is_stripped():
    with pytest.raises(InputError, match="no picture"):
        check_question("Hello", Conversation(), {})
    assert check_question("  Hello ", Conversation(PICTURE), {}) == "Hello"


@pytest.mark.parametrize(
    ("template", "numbers", "filled"),
    [
        ("What is {region}?", [], "What is <region1>?"),
        ("What is {region}?", [4], "What is <region4>?"),
        ("What is {region}?", [2, 5], "What is <region5>?"),
        ("{region} or {other}?", [], "<region1> or <region2>?"),
        ("{region} or {other}?", [3], "<region3> or <region4>?"),
        ("{region} or {other}?", [1, 2, 7], "<region2> or <region7>?"),
        (
            "Which of {regions} fits “{text}”?",
            [1, 2, 7],
            "Which of <region1>, <region2>, <region7> fits “it”?",
        ),
        ("Which of {regions} fits “{text}”?", [2], "Which of <region2>, <region3> fits “it”?"),
        ("Describe the picture.", [1], "Describe the picture."),
    ],
)
def test_example_questions_are_about_the_regions_that_are_there(template, numbers, filled):
    assert fill_question(template, numbers, "it") == filled


# ------------------------------------------------------------------ conversations


def test_a_turn_keeps_its_regions_and_a_retry_uses_them():
    first, second = {1: Box(1, 1, 5, 5)}, {2: Box(2, 2, 6, 6)}
    talk = Conversation(PICTURE).asked("a <region1>", first).answered("one", "done")
    talk = talk.asked("b <region2>", second).answered("two", "done")
    first.clear()  # what the caller does with its dict afterwards is not the turn's business
    again = talk.retried(0)
    assert [t.question for t in again.turns] == ["a <region1>"]
    assert again.turns[0].regions == {1: Box(1, 1, 5, 5)}
    assert again.waiting and not talk.waiting
    assert [t.answer for t in talk.turns] == ["one", "two"]


def test_messages_come_in_pairs_so_that_an_index_finds_its_turn():
    talk = Conversation(PICTURE).asked("a", {}).answered("", "stopped").asked("b", {}).answered("yes", "done")
    talk = talk.asked("c", {})
    assert [m["role"] for m in talk.messages()] == ["user", "assistant"] * 2 + ["user"]
    assert talk.messages()[1]["content"] == "(stopped, no answer)"
    assert [t.question for t in talk.history()] == ["b"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("What is <region1>?", "What is <region1>?"),
        ("<img src=x onerror=y>", "&lt;img src=x onerror=y>"),
        ("<region1 onclick=y>", "&lt;region1 onclick=y>"),
        ("<REGION1><regionx></region1>", "&lt;REGION1>&lt;regionx>&lt;/region1>"),
        ("a < b & c; &lt;b&gt;", "a &lt; b & c; &amp;lt;b&amp;gt;"),
    ],
)
def test_the_chat_gets_no_markup_but_mentions(text, shown):
    assert as_plain_text(text) == shown
    assert Conversation().asked(text, {}).messages() == [{"role": "user", "content": shown}]


def test_a_turn_whose_event_was_lost_does_not_block_the_next():
    talk = Conversation(PICTURE).asked("a", {}).asked("b", {})
    assert [t.status for t in talk.turns] == ["stopped", "running"]

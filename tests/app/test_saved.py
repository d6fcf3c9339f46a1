"""What is exported comes back the same; what is damaged is told in one sentence."""

from __future__ import annotations

import copy
import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.drawing import add_mask, read_regions, shapes, to_canvas
from app.engine import Answering, ModelEngine
from app.saved import LOSSLESS_PIXELS, from_json, to_csv, to_json
from app.session import Conversation, Picture, Table, question_for_each
from app.visits import Visits
from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Mask, Point, Polygon, Region, Scribble
from tests.model.tiny_models import make_model, make_processor

WIDTH, HEIGHT = 40, 30


def noise(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def corner_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[0, 0] = mask[20:, 3:9] = True
    return mask


REGIONS: dict[int, Region] = {
    1: Box(1, 2, 5, 6.5),
    2: Polygon([(2, 2), (20, 2), (2, 20)]),
    3: Polygon([[(2, 2), (20, 2), (2, 20)], [(30, 20), (39, 20), (39, 29)]]),
    4: Point(3, 4),
    7: Point(3, 4, 2.5),
    8: Scribble([[(5, 5), (15, 5)], [(9, 9)]], 4),
    9: RLE.from_mask(corner_mask()),
    12: Mask(corner_mask()[:, ::-1]),
}


def talk() -> Conversation:
    said = Conversation(Picture(noise())).asked("a “<region3>” <b>", REGIONS).answered("ü\n2", "done")
    said = said.asked("Whole?", {}).answered("", "stopped")
    table = Table(
        "Size of <region>?",
        {1: REGIONS[1], 9: REGIONS[9]},
        {1: 'one, "1"', 9: "=2"},
        "done",
        {9: "dog 87%, cat 5%"},
    )
    return Conversation(said.picture, said.turns, table)


def exported(**changes: object) -> dict:
    return json.loads(json.dumps(to_json(talk(), REGIONS, "small", last_id=15))) | changes


def same(a: Region, b: Region) -> bool:
    return np.array_equal(a.to_mask(HEIGHT, WIDTH), b.to_mask(HEIGHT, WIDTH))


def test_a_round_trip_changes_nothing_but_the_token():
    before = talk()
    after, drawn, last_id = from_json(json.dumps(to_json(before, REGIONS, "small", 15)).encode())
    assert after.picture.token != before.picture.token
    assert after.picture.image.tobytes() == before.picture.image.tobytes()
    assert last_id == 15 and sorted(drawn) == sorted(REGIONS)
    assert all(same(drawn[n], REGIONS[n]) for n in REGIONS)
    assert [(t.question, t.answer, t.status) for t in after.turns] == [
        (t.question, t.answer, t.status) for t in before.turns
    ]
    assert all(same(after.turns[0].regions[n], REGIONS[n]) for n in REGIONS)
    assert (after.table.question, after.table.answers) == (before.table.question, before.table.answers)
    assert after.table.notes == before.table.notes == {9: "dog 87%, cat 5%"}
    # And once more: a fixed point.
    again = to_json(after, drawn, "small", last_id)
    assert again == to_json(*[*from_json(json.dumps(again).encode())[:2]], "small", last_id)


def test_a_number_means_in_every_turn_what_it_meant_there():
    """Redrawn under its number after two turns and a table: all keep what they were asked with."""
    old, new = REGIONS[2], REGIONS[1]
    said = Conversation(Picture(noise())).asked("<region1>?", {1: old}).answered("a", "done")
    said = said.asked("<region1>!", {1: rebuilt(old)}).answered("b", "done")
    said = said.asked("And <region1>?", {1: new}).answered("c", "done")
    table = Table("Size of <region>?", {1: old}, {1: "large"}, "done")
    before = Conversation(said.picture, said.turns, table)
    after, drawn, _ = from_json(json.dumps(to_json(before, {1: new}, "small")).encode())
    assert [same(turn.regions[1], old) for turn in after.turns] == [True, True, False]
    assert same(after.turns[2].regions[1], new) and same(drawn[1], new) and same(after.table.regions[1], old)
    (row,) = csv.DictReader(io.StringIO(to_csv(after, drawn)))
    assert [float(row[key]) for key in ("x1", "y1", "x2", "y2")] == list(old.bounds(HEIGHT, WIDTH).xyxy)

    model = make_model()
    processor = make_processor(model.config)
    answers = []
    for talk in (before, after):
        answering = Answering(ModelEngine(model, processor, "small"))
        talk = talk.asked("<region1> again?", drawn)
        answering.check(talk)
        answers.append("".join(answering.stream(talk)))
    assert answers[0] == answers[1] and answers[0]


def rebuilt(region: Region) -> Region:
    """The same pixels as another value."""
    return RLE.from_mask(region.to_mask(HEIGHT, WIDTH))


def test_a_photograph_is_saved_small_and_nearly_the_same():
    large = Picture(Image.effect_noise((1600, 1200), 20).convert("RGB").resize((1600, 1200)))
    assert large.width * large.height > LOSSLESS_PIXELS
    saved = to_json(Conversation(large), {}, "small")
    after, _, _ = from_json(json.dumps(saved).encode())
    difference = np.abs(np.asarray(after.picture.image).astype(int) - np.asarray(large.image))
    assert after.picture.image.size == (1600, 1200) and difference.mean() < 3


def test_version_1_goes_onto_a_picture_of_the_same_size():
    old = exported(version=1, picture={"width": WIDTH, "height": HEIGHT})
    del old["drawn"], old["last_id"], old["table"]
    content = json.dumps(old).encode()
    after, drawn, last_id = from_json(content, Picture(noise()))
    assert len(after.turns) == 2 and drawn == {} and last_id == 12 and after.table is None
    with pytest.raises(InputError, match="open the picture first"):
        from_json(content)
    with pytest.raises(InputError, match="picture is 40 x 30, this one is 30 x 40"):
        from_json(content, Picture(noise(30, 40)))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["format"], "other", "no conversation"),
        (["version"], 3, "version 3"),
        (["picture"], [], "picture is not an object"),
        (["picture", "data"], 5, "not base64 text"),
        (["picture", "data"], "%%%", "not base64"),
        (["picture", "data"], "é", "not base64"),
        (["picture", "data"], "AAAA", "expected a picture"),
        (["picture", "width"], 41, "41 x 30"),
        (["picture"], None, "turns but no picture"),
        (["turns"], {}, "turns are not a list"),
        (["turns"], [{}] * 501, "at most 500"),
        (["turns", 0], "text", "turn 1 is not an object"),
        (["turns", 0, "question"], None, "question of turn 1 is not text"),
        (["turns", 1, "answer"], "x" * 60_000, "answer of turn 2 is not text"),
        (["turns", 1, "question"], "half \ud800", "question of turn 2 is not text"),
        (["turns", 0, "regions"], [], "regions of turn 1"),
        (["turns", 0, "regions", "0"], {"box": [1, 1, 2, 2]}, "numbers are 1 to 9999"),
        (["turns", 0, "regions", "²"], {"box": [1, 1, 2, 2]}, "numbers are 1 to 9999"),
        (["turns", 0, "regions", "1"], {"box": [90, 1, 99, 2]}, "turn 1, <region1>.*inside"),
        (["turns", 0, "regions", "1"], {"bbox": [1, 1, 2, 2]}, "turn 1, <region1>.*exactly one"),
        (["drawn", "9"], {"mask": {"size": [9999, 9999], "counts": [0, 99980001]}}, "size of the picture"),
        (
            ["drawn", "8"],
            {"scribble": {"points": [[0, 0], [40, 30]] * 40_000, "width": 400}},
            "rows of pixels",
        ),
        (["drawn", "2"], {"polygon": [[0, 0], [40, 30], [0, 30]] * 90_000}, "at most 100000 points"),
        (["turns", 1, "question"], "<region5>?", "turn 2 mentions <region5> but has no such region"),
        (["last_id"], -1, "last_id"),
        (["last_id"], 10**12, "last_id"),
        (["table"], [], "table is not an object"),
        (["table", "answers", "1"], 5, "the table is not text"),
    ],
)
def test_damage_is_told_in_one_sentence(path, value, told):
    damaged = exported()
    place = damaged
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError, match=told) as caught:
        from_json(json.dumps(damaged).encode())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


junk = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})
)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_replaced_the_answer_is_a_conversation_or_an_input_error(data):
    value = copy.deepcopy(EXPORTED)
    place, key = {"root": value}, "root"
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans() | st.just(True)):
        place = place[key]
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
    place[key] = data.draw(junk)
    try:
        read, _, _ = from_json(json.dumps(value).encode())
    except InputError:
        return
    assert read.messages() is not None


EXPORTED = exported()


def test_csv_has_a_row_a_region_and_survives_commas_and_quotes():
    rows = list(csv.DictReader(io.StringIO(to_csv(talk()))))
    assert [row["region"] for row in rows] == ["1", "9"]
    assert rows[0]["answer"] == 'one, "1"' and rows[0]["question"] == "Size of <region1>?"
    assert [float(rows[0][k]) for k in ("x1", "y1", "x2", "y2")] == [1, 2, 5, 6.5]
    assert [float(rows[1][k]) for k in ("x1", "y1", "x2", "y2")] == [0, 0, 9, 30]
    assert [(row["answer"], row["likeliest"]) for row in rows] == [
        ('one, "1"', ""),
        ("'=2", "dog 87%, cat 5%"),  # no formula
    ]
    assert to_csv(Conversation()).count("\n") == 1


# ------------------------------------------------------------------ the canvas


def test_what_goes_to_the_canvas_comes_back_the_same():
    picture = Picture(noise())
    entries = to_canvas(REGIONS, picture)
    assert {e["kind"] for e in entries} == {"box", "polygon", "point", "brush", "mask"}
    read = read_regions({"picture": picture.token, "regions": entries}, picture)
    assert sorted(read) == sorted(REGIONS) and all(same(read[n], REGIONS[n]) for n in REGIONS)
    assert len(picture.masks) == 4
    to_canvas(REGIONS, picture)
    assert len(picture.masks) == 4  # known masks keep their names


@pytest.mark.parametrize("name", ["m2", "", None, 5, ["m1"], "__class__"])
def test_a_mask_of_another_picture_cannot_be_named(name):
    mine, other = Picture(noise()), Picture(noise())
    add_mask(mine, Mask(corner_mask()))
    assert add_mask(other, Mask(corner_mask())) == "m1"
    value = {"picture": mine.token, "regions": [{"id": 1, "kind": "mask", "mask": name}]}
    with pytest.raises(InputError, match="does not belong"):
        read_regions(value, mine)


def test_the_page_is_shown_a_small_copy_of_a_mask():
    picture = Picture(Image.new("RGB", (2000, 1000)))
    mask = np.zeros((1000, 2000), dtype=bool)
    mask[250:500, 500:1500] = True
    shape = shapes(picture, [add_mask(picture, Mask(mask))])["m1"]
    assert shape["bounds"] == [500, 250, 1500, 500] and shape["size"] == [320, 640]
    assert sum(shape["runs"]) == 320 * 640 and sum(shape["runs"][1::2]) == pytest.approx(320 * 640 / 8)
    first = shapes(picture, [add_mask(picture, Mask(~mask))])["m2"]
    assert first["runs"][0] == 0


# ------------------------------------------------------------------ tables and reloads


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("", "Describe <region>."),
        (None, "Describe <region>."),
        ("Size of <region>?", "Size of <region>?"),
        ("Size of <region7>?", "Size of <region>?"),
        ("Is <region2> as large as <region2>?", "Is <region> as large as <region>?"),
        ("Describe the picture.", None),
        ("<region1> or <region2>?", None),
        ("<region> or <region2>?", None),
        ("<region>" + "x" * 5000, None),
    ],
)
def test_the_question_for_each_region(text, asked):
    if asked is None:
        with pytest.raises(InputError):
            question_for_each(text)
    else:
        assert question_for_each(text) == asked


def test_visits_are_found_by_their_token_only_and_make_room():
    visits = Visits(most=2)
    talks = [Conversation(Picture(noise())) for _ in range(3)]
    for one in talks:
        assert visits.keep(one) is one
    assert visits.find(talks[0].picture.token) is None
    assert [visits.find(one.picture.token) for one in talks[1:]] == talks[1:]
    for wrong in (None, 5, "", [], "0" * 32):
        assert visits.find(wrong) is None
    newer = talks[1].asked("again?", {})
    visits.keep(newer)
    assert visits.find(newer.picture.token) is newer
    visits.drop(newer.picture.token)
    assert visits.find(newer.picture.token) is None
    assert visits.keep(Conversation()).picture is None


def test_visits_are_bounded_in_bytes_and_in_time():
    few = Visits(most_bytes=4 * WIDTH * HEIGHT)
    first, second = Conversation(Picture(noise())), Conversation(Picture(noise()))
    few.keep(first)
    few.keep(second)
    assert few.find(first.picture.token) is None and few.find(second.picture.token) is second
    short = Visits(seconds=-1.0)
    short.keep(first)
    assert short.find(first.picture.token) is None

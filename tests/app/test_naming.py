""" "Find all" with a recognizer: found, named, listed, saved; and the options that ask for it."""

from __future__ import annotations

import base64
import csv
import io
import json
import string
from types import SimpleNamespace

import gradio as gr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.drawing import MAX_REGIONS, read_regions, to_canvas
from app.files import FileHandlers
from app.handlers import Handlers, table_update
from app.main import main
from app.masks import MOST_FOUND, MaskHandlers
from app.naming import RegionNamer, names_text, read_names
from app.saved import from_json, to_csv, to_json
from app.session import Conversation, Label, Picture, Table
from rgpt.errors import InputError
from rgpt.recognizers.proposals import best
from rgpt.recognizers.region_set import RegionSet
from rgpt.regions import RLE, Box
from tests.app.conftest import drawing
from tests.app.fake_namer import Thirds
from tests.app.tiny_sam import save_tiny_sam
from tests.app.watched import WatchedEngine
from tests.recognizers.tiny_recognizers import make

WIDTH, HEIGHT = 48, 36


@pytest.fixture
def toasts(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: said.append(message))
    return said


def start() -> Conversation:
    return Conversation(Picture(drawing((WIDTH, HEIGHT))))


def on_canvas(talk: Conversation, found: dict, first: int = 1) -> dict:
    """The canvas value after the page has numbered what was found."""
    entries = [{"id": n, "kind": "mask", "mask": name} for n, name in enumerate(found["masks"], first)]
    return {"picture": talk.picture.token, "regions": entries, "last_id": first + len(entries) - 1}


def press(namer, talk: Conversation, names: object = "sky, cat", drawn: object = None) -> dict:
    empty = {"picture": talk.picture.token, "regions": []}
    return MaskHandlers(None, namer).everything(drawn or empty, talk, names)["found"]


def named(talk: Conversation, names: str = "sky, cat") -> tuple[Conversation, dict]:
    """(conversation, canvas value) after one press."""
    return talk, on_canvas(talk, press(Thirds(), talk, names))


# ------------------------------------------------------------------ the list of names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("dog", ["dog"]),
        (" dog ,cat,, traffic   light,", ["dog", "cat", "traffic light"]),
        ("dog\ncat, dog\r\n", ["dog", "cat"]),
        ("runs/secret.txt", ["runs/secret.txt"]),  # a name, not a file of the server's
    ],
)
def test_names_stand_between_commas_or_lines(text, names):
    assert read_names(text) == names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no names to choose among"),
        (" ,\n, ", "no names to choose among"),
        (None, "could not be read"),
        ("a\ud800", "could not be read"),
        ("x" * 101, "101 characters, more than the 100"),
        (",".join(map(str, range(2001))), "2001 names, more than the 2000"),
    ],
)
def test_a_bad_list_of_names_is_one_sentence(text, says, toasts):
    namer = Thirds()
    assert press(namer, start(), text)["masks"] == {} and namer.asked == []
    assert len(toasts) == 1 and says in toasts[0] and toasts[0].count(". ") == 0


@given(st.lists(st.text(string.ascii_letters + " ,_()", min_size=1), max_size=9))
@settings(max_examples=50, deadline=None)
def test_the_text_box_gives_back_the_names_it_was_given(names):
    clean = [" ".join(name.replace(",", " ").split()) for name in names]
    expected = list(dict.fromkeys(filter(None, clean)))
    if expected:
        assert read_names(names_text(names), 9) == expected


def test_a_long_vocabulary_of_the_operator_is_not_refused():
    class Many(Thirds):
        names = tuple(f"name {number}" for number in range(2500))

    namer = Many()
    assert press(namer, start(), names_text(namer.names))["masks"]
    assert len(namer.asked[0]) == 2500


# ------------------------------------------------------------------ found, named, listed


def test_what_is_found_has_a_name_and_a_score_and_a_box_stays_a_box():
    talk = start()
    found = press(Thirds(), talk)
    assert [shape["label"] for shape in found["masks"].values()] == [["sky", 0.875], ["cat", 0.125]]
    regions = read_regions(on_canvas(talk, found), talk.picture)
    assert isinstance(regions[1], RLE) and regions[2] == Box(16.25, 2, 32, 33.5)
    assert found["masks"]["m2"]["bounds"] == [16.25, 2, 32, 33.5]


def test_another_list_of_names_names_the_same_regions_anew():
    talk, drawn = named(start())
    again = press(Thirds(), talk, "dog", drawn)
    assert list(again["masks"]) == ["m1", "m2"]
    assert [label.name for label in talk.picture.labels.values()] == ["dog", "dog"]


def test_names_are_those_of_the_last_press(toasts):
    class OnlyOne(Thirds):
        def everything(self, picture, names):
            return super().everything(picture, names)[1:]

    talk, drawn = named(start())
    press(OnlyOne(), talk, "dog", drawn)
    assert talk.picture.labels == {"m2": Label("dog", 0.125)}
    press(Thirds(), talk, "", drawn)  # refused: nothing changes
    assert talk.picture.labels == {"m2": Label("dog", 0.125)} and len(toasts) == 1


def test_the_table_lists_what_the_page_has_numbered():
    talk, drawn = named(start())
    drawn["regions"].append({"id": 9, "kind": "box", "box": [1, 1, 5, 5]})  # drawn by hand: no name
    shown = MaskHandlers(None, Thirds()).listed(drawn, talk)["table"]
    assert shown["named"] == [[1, "sky", 0.875], [2, "cat", 0.125]] and "question" not in shown
    header, *rows = csv.reader(io.StringIO(shown["csv"]))
    assert header == ["region", "x1", "y1", "x2", "y2", "name", "score"]
    assert rows == [
        ["1", "0", "0", "16", "36", "sky", "0.8750"],
        ["2", "16.25", "2", "32", "33.5", "cat", "0.1250"],
    ]


def test_a_question_for_each_region_stands_beside_the_names():
    talk, drawn = named(start())
    regions = read_regions(drawn, talk.picture) | {9: Box(1, 1, 5, 5)}
    table = Table("What is <region>?", regions, {1: "a, b", 9: "c"}, "stopped")
    talk = Conversation(talk.picture, (), table)
    rows = list(csv.DictReader(io.StringIO(to_csv(talk))))
    assert [(row["region"], row["name"], row["question"], row["answer"]) for row in rows] == [
        ("1", "sky", "What is <region1>?", "a, b"),
        ("2", "cat", "", ""),
        ("9", "", "What is <region9>?", "c"),
    ]
    shown = table_update(talk)["table"]
    assert shown["rows"] == [[1, "a, b", ""], [9, "c", ""]] and len(shown["named"]) == 2


def test_a_new_chat_keeps_the_names_only():
    do = Handlers(WatchedEngine(), [], start)
    talk, drawn = named(start())
    table = Table("What is <region>?", read_regions(drawn, talk.picture), {1: "a"}, "done")
    _, talk, messages, shown = do.new_chat(Conversation(talk.picture, (), table), drawn)
    assert talk.table is None and messages == []
    assert [row[0] for row in shown["table"]["named"]] == [1, 2] and "rows" not in shown["table"]


def test_nothing_found_is_a_sentence(toasts):
    namer = SimpleNamespace(name="nobody", names=("dog",), everything=lambda picture, names: [])
    talk = start()
    assert press(namer, talk)["masks"] == {} and talk.picture.labels == {}
    assert toasts == ["“Find all” found nothing here; draw regions yourself."]


@pytest.mark.parametrize(("error", "says"), [(MemoryError(), "thirds failed"), (InputError("Bad."), "Bad.")])
def test_a_failing_recognizer_does_not_cover_the_page(error, says, toasts):
    class Broken(Thirds):
        def everything(self, picture, names):
            raise error

    assert press(Broken(), start())["masks"] == {}
    assert len(toasts) == 1 and toasts[0].startswith(says)


def test_the_best_are_kept_and_a_full_canvas_is_told(toasts):
    class Grid(Thirds):
        def everything(self, picture, names):
            return [(Box(x, 0, x + 1.0, 9), Label("bar", 1 - x / 100)) for x in range(40)]

    talk = start()
    found = press(Grid(), talk)
    assert [label[1] for label in (shape["label"] for shape in found["masks"].values())] == [
        1 - x / 100 for x in range(MOST_FOUND)
    ]
    full = on_canvas(talk, {"masks": ["m1"] * MAX_REGIONS})
    assert press(Grid(), talk, drawn=full)["masks"] == {} and "50 regions already" in toasts[0]


# ------------------------------------------------------------------ files


def test_names_survive_export_and_import():
    talk, drawn = named(start())
    content = json.dumps(to_json(talk, read_regions(drawn, talk.picture), "fake")).encode()
    back, regions, _ = from_json(content)
    assert [back.picture.label(region) for region in regions.values()] == list(talk.picture.labels.values())
    # On the page, too, the box is known by its label's mask.
    assert [entry["mask"] for entry in to_canvas(regions, back.picture)] == list(back.picture.labels)
    assert to_csv(back, regions) == to_csv(talk, read_regions(drawn, talk.picture))


def test_the_saved_picture_has_the_names_beside_it():
    talk, drawn = named(start())
    do = FileHandlers(Handlers(WatchedEngine(), [], start))

    def saved() -> Image.Image:
        parcel = json.loads(do.overlay(drawn, talk))
        return Image.open(io.BytesIO(base64.b64decode(parcel["base64"])))

    with_names = saved()
    talk.picture.labels.clear()
    assert saved().size == (WIDTH, HEIGHT) and with_names.width > WIDTH + 40


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([], "labels are not an object"),
        ({"7": {"name": "a", "score": 1}}, "labels are not an object"),
        ({"1": {"name": "a", "score": 1.5}}, "label of <region1> has no score"),
        ({"1": {"name": "a", "score": True}}, "label of <region1> has no score"),
        ({"1": {"name": "a", "score": float("nan")}}, "label of <region1> has no score"),
        ({"1": {"name": 3, "score": 1}}, "label of <region1> is not text"),
        ({"1": "a"}, "label of <region1> has no score"),
    ],
)
def test_damaged_labels_are_refused(labels, says):
    talk, drawn = named(start())
    value = to_json(talk, read_regions(drawn, talk.picture), "fake") | {"labels": labels}
    with pytest.raises(InputError, match=says):
        from_json(json.dumps(value).encode())


def test_without_names_files_are_as_before():
    talk = start()
    assert "labels" not in to_json(talk, {1: Box(1, 1, 5, 5)}, "fake")
    assert to_csv(talk, {1: Box(1, 1, 5, 5)}).strip() == "region,x1,y1,x2,y2,question,answer"


def test_a_reload_brings_the_names_back():
    do = Handlers(WatchedEngine(), [], start)
    talk, drawn = named(start())
    do.visits.keep(talk)
    canvas, arrived, _, _, table = FileHandlers(do).arrive(json.dumps(drawn), Conversation())
    assert [shape["label"] for shape in canvas["found"]["masks"].values()] == [["sky", 0.875], ["cat", 0.125]]
    assert table["table"]["named"] == [[1, "sky", 0.875], [2, "cat", 0.125]]
    # Its own from here: naming anew in one tab does not rename the other's.
    press(Thirds(), arrived, "dog", canvas["value"])
    assert talk.picture.labels["m1"].name == "sky"


# ------------------------------------------------------------------ the real ones, tiny


def test_the_namer_is_name_everything_and_asks_the_source_once_a_picture():
    from rgpt.recognizers import name_everything

    asked = []

    def source(image, image_id=None) -> RegionSet:
        asked.append(image)
        boxes = (Box(2, 3, 20, 30), Box(25, 5, 47, 33), Box(0, 0, 48, 36))
        return best(RegionSet(boxes, image.height, image.width), 3)

    recognizer = make("clip-crop")
    namer, picture = RegionNamer(recognizer, source, ("dog", "cat"), "clip-crop"), start().picture
    for names in (["dog", "cat"], ["ship"]):
        found = namer.everything(picture, names)
        expected = name_everything(picture.image, recognizer, names, source)
        assert found and [region for region, _ in found] == [one.region for one in expected]
        assert [label.name for _, label in found] == [one.names[0][0] for one in expected]
        assert [label.score for _, label in found] == pytest.approx([one.score for one in expected])
    assert len(asked) == 3  # once by the namer, twice by ours
    for _ in range(namer.KEPT + 2):
        namer.everything(start().picture, ["ship"])
    assert len(namer._found) == namer.KEPT


# ------------------------------------------------------------------ options


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models on disk."""
    from rgpt.recognizers import save_recognizer

    root = tmp_path_factory.mktemp("named")
    save_tiny_sam(root / "sam")
    save_tiny_sam(root / "sam2", "sam2")
    (root / "two.json").write_text('{"1": [{"box": [1, 1, 5, 5]}], "2": []}')
    save_recognizer(make("clip-crop"), root / "clip")
    return root


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--vocabulary", "a"], "--vocabulary: expected a recognizer"),
        (["--proposals", "sam:x"], "--proposals: expected a recognizer"),
        (["--recognizer", "clip-crop@{0}/clip"], "neither --sam nor --proposals"),
        (["--recognizer", "clip-crop@{0}/clip", "--proposals", "gt"], "gt, which needs them given"),
        (["--recognizer", "clip-crop@{0}/clip", "--proposals", "sum:x"], "one of gt, photo"),
        (["--recognizer", "{0}/clip", "--proposals", "sam:{0}/none"], "hub id of a sam model"),
        (["--recognizer", "{0}/clip", "--proposals", "sam:{0}/sam2"], "a checkpoint of type sam2"),
        (
            ["--recognizer", "{0}/clip", "--proposals", "grounding-dino:{0}/sam?a."],
            "a checkpoint of type sam",
        ),
        (["--recognizer", "{0}/clip", "--proposals", "json:{0}/two.json"], "those of 2"),
        (["--recognizer", "", "--sam", "{0}/sam"], "recognizer"),
        (["--recognizer", "clip-crop@{0}/clip", "--sam", "{0}/none"], "SamModel"),
        (["--recognizer", "klip@{0}/clip", "--sam", "{0}/sam"], "regionspot@"),
        (["--recognizer", "regionspot@{0}/none", "--sam", "{0}/sam"], "recognizer.json"),
        (["--recognizer", "regionspot@{0}/clip", "--sam", "{0}/sam"], "expected a regionspot"),
        (["--recognizer", "{0}/clip", "--sam", "{0}/sam", "--vocabulary", ""], "at least one name"),
        (["--recognizer", "{0}/clip", "--sam", "{0}/sam", "--vocabulary", "x.txt"], "an existing file"),
        (["--recognizer", "{0}/clip", "--sam", "{0}/sam", "--vocabulary", "b" * 101], "101 characters"),
    ],
)
def test_bad_options_are_one_sentence_before_the_model(arguments, says, folders, capsys, monkeypatch):
    from app.engine import ModelEngine

    monkeypatch.setattr(ModelEngine, "load", lambda name: pytest.fail("the model was loaded"))
    assert main([argument.format(folders) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("app: ") and says in error


def test_options_open_a_recognizer_over_the_apps_sam(folders):
    from app.main import build_parser
    from app.options import open_tools

    arguments = ["--sam", f"{folders}/sam", "--recognizer", f"{folders}/clip", "--vocabulary", "dog,cat,dog"]
    tools = open_tools(build_parser().parse_args(arguments))
    namer, segmenter = tools["namer"], tools["segmenter"]
    assert namer.source == segmenter.propose and namer.name == "clip" and namer.names == ("dog", "cat")
    assert open_tools(build_parser().parse_args([])) == {"segmenter": None, "namer": None}
    only = [*arguments[2:4], "--proposals", f"sam:{folders}/sam"]
    tools = open_tools(build_parser().parse_args(only))
    assert tools["segmenter"] is None and len(tools["namer"].names) == 80

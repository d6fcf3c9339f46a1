"""Every format out is the one that came in: the same objects to the digit, each with its answers."""

from __future__ import annotations

import csv
import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from rgpt.annotate.questions import Question, make_questions
from rgpt.annotate.records import Annotated, Answer
from rgpt.annotate.report import write_report
from rgpt.annotate.review import review_queue, worth
from rgpt.annotate.sources import Source, images_beside, kind_of, open_source
from rgpt.annotate.table import plain_cell
from rgpt.annotate.writing import write_result
from rgpt.data.schema import read_jsonl
from rgpt.errors import InputError
from rgpt.model.calibration import Calibration
from tests.annotate import folders

NAMES = ("cat", "dog", "=SUM(1)", "<b>bird</b>")
CAPTION = '-1 "wild" <script>cat</script>\non a mat'


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def questions_of(folder: Path) -> list[Question]:
    schema = folder / "schema.json"
    colours = {"enum": ["red", "blue"], "description": "What colour is <region>?"}
    schema.write_text(json.dumps({"properties": {"colour": colours, "occluded": {"type": "boolean"}}}))
    return make_questions(["caption", "name", "attributes", "What is <region> for?"], NAMES, schema)


def answered(source: Source) -> list[Annotated]:
    """Every object with an answer of each kind; the second is a bird, and unsure."""
    found = []
    for picture in source.pictures():
        for number, target in enumerate(picture.targets):
            shares = (("cat", 0.9), ("dog", 0.1)) if number == 0 else (("<b>bird</b>", 0.4), ("dog", 0.3))
            answers = {
                "caption": Answer(CAPTION, 0.8),
                "name": Answer(shares[0][0], shares[0][1], shares),
                "colour": Answer("red", 0.7, (("red", 0.7), ("blue", 0.3))),
                "occluded": Answer(False, 0.6, (("No.", 0.6), ("Yes.", 0.4))),
                "answer": Answer(problem="empty answer"),
            }
            found.append(Annotated(picture.name, target, answers))
    return found


def opened(path: Path, scratch: Path) -> Source:
    return open_source(path, kind_of(path, None), images_beside(path), scratch)


@pytest.mark.parametrize("kind", folders.MAKERS)
def test_the_same_objects_come_out(kind: str, tmp_path: Path, scratch: Path) -> None:
    source = opened(folders.MAKERS[kind](tmp_path / "in"), scratch)
    assert source.kind == kind and source.total == 2
    result = write_result(tmp_path / "out", source, questions_of(tmp_path), answered(source), "m", {})
    written = {
        "coco": "annotations.json", "label-studio": "tasks.json", "cvat": "annotations.xml",
        "voc": "Annotations", "yolo": "data.yaml", "jsonl": "samples.jsonl",
    }[kind]  # fmt: skip
    (scratch / "again").mkdir()
    images = source.images
    if kind == "yolo":  # labels are looked for beside their pictures
        images = shutil.copytree(images, result / "images")
    again = open_source(result / written, kind, images, scratch / "again")
    before = [target for picture in source.pictures() for target in picture.targets]
    after = [target for picture in again.pictures() for target in picture.targets]
    labels = [t.label for t in before] if kind != "yolo" else ["cat", "<b>bird</b>"]  # all it can hold
    assert [(t.key, t.region, t.box) for t in after] == [(t.key, t.region, t.box) for t in before]
    assert [t.label for t in after] == labels
    rows = [json.loads(line) for line in (result / "objects.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [t.key for t in before]
    assert all(row["answers"]["occluded"]["value"] is False for row in rows)


def results(tmp_path: Path, scratch: Path, make: Callable[[Path], Path]) -> Path:
    source = opened(make(tmp_path / "in"), scratch)
    return write_result(tmp_path / "out", source, questions_of(tmp_path), answered(source), "m", {})


def test_coco_gains_members_and_loses_nothing(tmp_path: Path, scratch: Path) -> None:
    result = results(tmp_path, scratch, folders.coco)
    before = json.loads((tmp_path / "in" / "instances.json").read_text())
    after = json.loads((result / "annotations.json").read_text())
    new = {"caption", "names", "attributes"}
    for old, now in zip(before["annotations"], after["annotations"], strict=True):
        assert {k: v for k, v in now.items() if k not in new} == {
            k: v for k, v in old.items() if k not in new
        }
    first, second, third = after["annotations"]
    assert first["names"] == [{"name": "cat", "share": 0.9}, {"name": "dog", "share": 0.1}]
    assert second["attributes"] == {"occluded": False, "colour": "red"}
    assert third.keys() == before["annotations"][2].keys()  # no region: as it was
    read = COCO(result / "annotations.json")
    assert read.loadAnns([7])[0]["caption"] == CAPTION and read.annToMask(read.loadAnns([9])[0]).sum() > 300


def test_label_studio_gets_a_prediction(tmp_path: Path, scratch: Path) -> None:
    result = results(tmp_path, scratch, folders.label_studio)
    (before,) = json.loads((tmp_path / "in" / "export.json").read_text())
    (task,) = json.loads((result / "tasks.json").read_text())
    assert task["annotations"] == before["annotations"] and task["data"] == before["data"]
    (prediction,) = task["predictions"]
    assert prediction["score"] == 0.4 and prediction["model_version"] == "m"  # the least sure region's
    assert prediction["result"][:2] == before["annotations"][0]["result"]
    said: dict[str, dict[str, Any]] = {"r1": {}, "p1": {}}
    for row in prediction["result"][2:]:
        said[row["id"]][row["from_name"]] = row
    assert said["r1"]["caption"]["value"]["text"] == [CAPTION] and said["r1"]["caption"]["type"] == "textarea"
    assert (
        said["p1"]["name"]["value"]["choices"] == ["<b>bird</b>"] and "points" in said["p1"]["name"]["value"]
    )
    config = ElementTree.fromstring((result / "label-config.xml").read_text())
    controls = {element.get("name"): element for element in config}
    assert controls["caption"].tag == "TextArea" and controls["caption"].get("perRegion") == "true"
    assert [c.get("value") for c in controls["name"]] == list(NAMES)
    assert [c.get("value") for c in controls["occluded"]] == ["true", "false"]
    assert [c.get("value") for c in controls["outline"]] == ["dog"]


def test_cvat_declares_what_it_says(tmp_path: Path, scratch: Path) -> None:
    result = results(tmp_path, scratch, folders.cvat)
    root = ElementTree.parse(result / "annotations.xml").getroot()
    box = root.find("image/box")
    assert box is not None
    said = {a.get("name"): a.text for a in box.findall("attribute")}
    assert said == {
        "old": "kept", "caption": '-1 "wild" <script>cat</script> on a mat', "name": "cat", "colour": "red",
        "occluded": "false",
    }  # fmt: skip
    definition = json.loads((result / "labels.json").read_text())
    assert [label["name"] for label in definition] == ["cat", "dog"]
    declared = {a["name"]: a for a in definition[0]["attributes"]}
    assert list(declared) == ["old", "caption", "name", "colour", "occluded", "answer"]
    for attribute in declared.values():  # what CVAT's server requires of an attribute
        assert set(attribute) == {"name", "mutable", "input_type", "default_value", "values"}
        assert attribute["input_type"] in ("select", "radio", "checkbox", "number", "text")
        assert attribute["default_value"] in attribute["values"]
    assert said["name"] in declared["name"]["values"] and declared["occluded"]["input_type"] == "checkbox"
    in_meta = root.findall("meta/task/labels/label")[1].findall("attributes/attribute")
    assert [a.findtext("name") for a in in_meta] == ["caption", "name", "colour", "occluded", "answer"]


def test_our_samples_gain_turns(tmp_path: Path, scratch: Path) -> None:
    result = results(tmp_path, scratch, folders.jsonl)
    (sample,) = read_jsonl(result / "samples.jsonl")
    assert sample.turns[0] == ("Hello?", "Hello.") and sample.image is not None and sample.image.is_file()
    assert ("What is <region2>?", "<b>bird</b>") in sample.turns and len(sample.turns) == 1 + 2 * 4


def test_people_get_a_table_and_a_report(tmp_path: Path, scratch: Path) -> None:
    result = results(tmp_path, scratch, folders.coco)
    with open(result / "objects.csv", encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["object"] for row in rows] == ["9", "7"]  # least certain first
    assert all(cell[:1] not in ("=", "+", "-", "@") for row in rows for cell in row.values())
    assert rows[0]["caption"] == f"'{CAPTION}"
    page = (result / "report.html").read_text()
    assert "<script>" not in page and "<b>bird" not in page and page.count("data:image/jpeg") == 2
    assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\t=1", "  =1", "\r=1", "＝1"])
def test_a_formula_becomes_text(cell: str) -> None:
    assert plain_cell(cell) == f"'{cell}" and plain_cell("a cat, 1-2") == "a cat, 1-2"


def item(label: str, name: str, share: float, other: str = "", problem: str = "") -> Annotated:
    target = folders_target(label)
    others = {"name": Answer(other)} if other else {}
    return Annotated("a", target, {"name": Answer(name, share, ((name, share),), problem)}, others)


def folders_target(label: str) -> Any:
    from rgpt.annotate.records import Target
    from rgpt.regions import Box

    return Target(label, Box(0, 0, 1, 1), Box(0, 0, 1, 1), label)


def test_the_queue_begins_with_what_is_wrong() -> None:
    sure, unsure = item("cat", "cat", 0.9), item("cat", "dog", 0.2)
    differing, broken = item("cat", "cat", 0.99, other="dog"), item("cat", "", 1.0, problem="empty answer")
    same = item("cat", "cat", 0.95, other="Cat.")
    assert review_queue([sure, same, differing, unsure, broken]) == [broken, differing, unsure, sure, same]


def test_what_a_queue_is_worth() -> None:
    queue = [item("cat", "dog" if k < 3 else "cat", 0.1 + 0.05 * k) for k in range(10)]
    found = worth(queue, ["cat", "dog"])
    assert found is not None
    assert found[0] == 10 and found[1:] == pytest.approx((0.3, 1 / 0.3, 0.0))
    assert worth(queue, ["bird", "fish"]) is None  # no label is among the names: nobody knows


def test_the_report_shows_how_sure_is_how_right(tmp_path: Path, scratch: Path) -> None:
    source = opened(folders.coco(tmp_path / "in"), scratch)
    fitted = Calibration(1.4, 100, 20, 0.14, 0.04, ((0.3, 0.25, 50), (0.8, 0.85, 50)))
    queue = review_queue(answered(source))
    for calibration, told in (({"name": fitted}, "calibration error 0.040"), ({}, "Nobody has calibrated")):
        write_report(tmp_path / "r.html", source, questions_of(tmp_path), queue, "m", calibration)
        assert told in (tmp_path / "r.html").read_text()


def test_an_object_there_twice_is_refused(tmp_path: Path, scratch: Path) -> None:
    path = folders.coco(tmp_path)
    value = json.loads(path.read_text())
    value["annotations"][1]["id"] = 7
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match="object 7: expected every object once"):
        opened(path, scratch)

"""OpenImages and people's own files: CSV, Label Studio, CVAT, COCO; the same boxes from every form."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from data_recipes import coco_format, runner
from rgpt.formats.size_claims import upright_size


@pytest.fixture
def voc(shared_data: Path) -> Path:
    return shared_data / "voc_multiformat"


def voc_truth(voc: Path) -> Counter:
    """(picture, name, rounded corners) from the XML files."""
    found: Counter = Counter()
    for path in (voc / "xml").glob("*.xml"):
        for item in ElementTree.parse(path).iter("object"):
            corners = tuple(int(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
            found[path.stem, item.findtext("name"), corners] += 1
    return found


def boxes_of(detections: list) -> Counter:
    return Counter(
        (item.image.stem, name, tuple(round(value) for value in region.xyxy))
        for item in detections
        for region, name in zip(item.regions, item.names, strict=True)
    )


def here(truth: Counter, voc: Path) -> Counter:
    there = {path.stem for path in (voc / "images").iterdir()}
    return Counter({key: count for key, count in truth.items() if key[0] in there})


def test_the_same_boxes_from_three_forms(convert, voc: Path) -> None:
    """COCO without a pixel added, OpenImages with decimal commas, and that same table as anybody's CSV."""
    truth, images = voc_truth(voc), voc / "images"
    arguments = ("--images", images, "--form", "detections", "--annotations")
    coco = convert("coco_format", *arguments, voc / "coco_instances.json")
    assert boxes_of(coco.detections) == truth and truth.total() == 16
    open_images = convert("openimages", *arguments, voc / "openimages.csv")
    assert boxes_of(open_images.detections) == here(truth, voc)
    assert open_images.report["dropped"] == {"picture file is missing": 5}
    table = convert("coco_format", *arguments, voc / "openimages.csv", "--coordinates", "fractions")
    assert boxes_of(table.detections) == here(truth, voc)


def test_openimages_labels_groups_and_header(convert, tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "ab12.jpg")
    (tmp_path / "classes.csv").write_text("LabelName,DisplayName\n/m/01yrx,Cat\n/m/0bt9lr,Dog\n")
    rows = [
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf",
        "ab12,x,/m/01yrx,1,0.1,0.5,0.2,0.6,0,0,0",
        "ab12,x,/m/0bt9lr,1,0.5,1.2,0,1,0,0,0",
        "ab12,x,/m/0bt9lr,1,0,1,0,1,0,0,1",
        "ab12,x,/m/unknown,1,0,1,0,1,0,0,0",
        "ab12,x,/m/01yrx,1,,1,0,1,0,0,0",
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    options = ("--annotations", tmp_path / "boxes.csv", "--images", tmp_path)
    out = convert("openimages", *options, "--classes", tmp_path / "classes.csv")
    assert boxes_of(out.detections) == {
        ("ab12", "Cat", (20, 20, 100, 60)): 1,
        ("ab12", "Dog", (100, 0, 200, 100)): 1,
    }
    assert out.report["regions_dropped"] == {
        "group of objects": 1, "label without a class name": 1, "box is not four numbers": 1,
    }  # fmt: skip
    assert out.report["repaired"] == {"box cut at the border": 1}


@pytest.mark.parametrize(
    ("header", "row", "more"),
    [
        ("image,label,x1,y1,x2,y2", "a.jpg,cat,10,20,40,30", []),
        (
            "FileName,width,height,Class,xmin,ymin,xmax,ymax",
            "a.jpg,100,50,cat,10,20,40,30",
            [],
        ),  # picture's size
        ("path,name,x,y,width,height", "a.jpg,cat,10,20,30,10", []),  # the box's size
        ("image,label,x,y,w,h,image_width,image_height", "a.jpg,cat,10,20,30,10,100,50", []),
        ("image,label,x1,y1,x2,y2", "a.jpg,cat,.1,.4,.4,.6", ["--coordinates", "fractions"]),
        ("image,label,x,y,w,h", 'a.jpg,cat,"10,0",40,30,20', ["--coordinates", "percent"]),
    ],
)
def test_tables_by_their_usual_columns(convert, tmp_path: Path, header: str, row: str, more: list) -> None:
    Image.new("RGB", (100, 50)).save(tmp_path / "a.jpg")
    (tmp_path / "boxes.csv").write_text(f"{header}\n{row}\n", encoding="utf-8-sig")
    out = convert("coco_format", "--annotations", tmp_path / "boxes.csv", "--images", tmp_path, *more)
    (sample,) = out.samples
    assert sample.regions[0].xyxy == pytest.approx((10, 20, 40, 30))
    assert sample.turns[0].answer == "cat" and "Answer the question" not in sample.turns[0].question


def test_rows_of_a_picture_need_not_stand_together(convert, tmp_path: Path) -> None:
    rows = ["image,label,x1,y1,x2,y2,width,height,note"]
    rows += [f"{'ab'[n % 2]}.jpg,thing {n},{n},0,{n + 5},9,50,50,{'red' if n == 3 else ''}" for n in range(9)]
    rows += ["a.jpg,broken,1,,3,4,50,50,", "a.jpg,,1,2,3,4,50,50,", "a.jpg,tiny,0,0,0.5,1,50,50,"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    out = convert(
        "coco_format", "--annotations", tmp_path / "t.csv", "--images", tmp_path,
        "--vocabulary", "My Parts", "--caption-key", "note",
    )  # fmt: skip
    assert out.report["read"] == 2 and out.report["tasks"] == {"classification": 8, "brief_caption": 1}
    assert {t.answer for s in out.samples for t in s.turns} == {
        "red",
        *(f"thing {n}" for n in range(9) if n != 3),
    }
    assert set(out.report["regions_dropped"]) == {
        "row with a missing or broken number", "object without a label",
        "box within the first pixel (if it is a fraction: --coordinates)",
    }  # fmt: skip
    guided = [t.question for s in out.samples for t in s.turns if "My Parts category names." in t.question]
    assert len(guided) == 2  # the first turn of each classification


def studio(kind: str, value: dict, **more) -> dict:
    return {"type": kind, "value": value, "id": "r", "original_width": 200, "original_height": 100, **more}


def test_label_studio(convert, tmp_path: Path) -> None:
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0}
    results = [
        studio("rectanglelabels", {**box, "rectanglelabels": ["Cat"]}, id="one"),
        studio("rectanglelabels", {**box, "rotation": 90, "rectanglelabels": ["Turned"]}),
        studio("polygonlabels", {"points": [[10, 10], [50, 10], [50, 50]], "polygonlabels": ["Poly"]}),
        studio("brushlabels", {"format": "rle", "rle": [1, 2], "brushlabels": ["B"]}),
        studio("textarea", {**box, "text": ["a sleeping cat"]}, id="one", from_name="said"),
        studio("rectanglelabels", {"x": 1, "rectanglelabels": ["Half"]}),
    ]
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/3/0a1b-a.jpg"}, "annotations": [
            {"was_cancelled": True, "result": results[:1]}, {"result": results}]},
        {"id": 2, "data": {"image": "/data/local-files/?d=deep/b.png"},
         "annotations": [{"result": results[:1]}]},
        {"id": 3, "data": {"image": "c.jpg"}, "annotations": []},
    ]  # fmt: skip
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    arguments = ("--annotations", tmp_path / "export.json", "--images", tmp_path, "--regions", "mask")
    out = convert("coco_format", *arguments, "--caption-key", "said")
    answers = {
        turn.answer: sample.regions[int(turn.question.partition("<region")[2].partition(">")[0]) - 1]
        for sample in out.samples
        if sample.image.name == "0a1b-a.jpg"
        for turn in sample.turns
    }
    assert set(answers) == {"a sleeping cat", "Turned", "Poly"}
    assert answers["a sleeping cat"].xyxy == (20, 20, 80, 60)
    # 60 x 40 pixels turned clockwise by 90 degrees around the corner (20, 20): to the left of it, and cut.
    assert answers["Turned"].bounds(100, 200).xyxy == pytest.approx((0, 20, 20, 80), abs=1)
    assert answers["Poly"].bounds(100, 200).xyxy == pytest.approx((20, 10, 100, 50), abs=1)
    assert out.report["regions_dropped"] == {"brushlabels is not read": 1, "result without its keys": 1}
    assert {s.image.name for s in out.samples} == {"0a1b-a.jpg", "b.png"}


CVAT = """<?xml version="1.0"?><annotations><version>1.1</version>
<image id="0" name="a.jpg" width="20" height="10">
 <box label="cat" xtl="1" ytl="2" xbr="5" ybr="8"><attribute name="said">red cat</attribute></box>
 <box label="dog" xtl="4" ytl="4" xbr="12" ybr="6" rotation="90"/>
 <polygon label="poly" points="1,1;9,1;9,9"/>
 <mask label="blob" rle="1, 2, 1, 2" left="10" top="3" width="3" height="2"/>
 <mask label="lie" rle="1, 2" left="10" top="3" width="3" height="2"/>
 <ellipse label="round" cx="3" cy="3" rx="1" ry="1"/><box label="half" xtl="1"/>
</image><image id="1" name="empty.jpg" width="20" height="10"/></annotations>"""


def test_cvat(convert, tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_text(CVAT)
    arguments = ("--annotations", tmp_path / "annotations.xml", "--images", tmp_path, "--regions", "mask")
    out = convert("coco_format", *arguments, "--form", "detections")
    (item,) = out.detections
    found = dict(zip(item.names, item.regions, strict=True))
    assert set(found) == {"cat", "dog", "poly", "blob"}
    assert found["cat"].xyxy == (1, 2, 5, 8)
    assert found["dog"].bounds(10, 20).xyxy == pytest.approx((7, 1, 9, 9), abs=1)  # around its centre (8, 5)
    expected = np.zeros((10, 20), dtype=bool)
    expected[3:5, 10:13] = [[False, True, True], [False, True, True]]  # runs go row by row
    assert np.array_equal(found["blob"].to_mask(10, 20), expected)
    assert out.report["regions_dropped"] == {
        "mask that cannot be read": 1, "ellipse is not read": 1, "box with a missing or broken number": 1,
    }  # fmt: skip
    said = convert("coco_format", *arguments, "--caption-key", "said")
    assert said.report["tasks"] == {"classification": 3, "brief_caption": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "a .csv, .xml or .json file"),
        ("a.json", "7", "neither list nor object"),
        ("a.csv", "picture,x1\n", "columns for"),
        ("a.csv", "image,x1,y1,x2,y2\n", "columns for a label"),
        ("a.xml", "<annotations><image", "whole XML"),
        ("a.xml", "<annotations><track id='0'/></annotations>", "one for video"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "plain XML"),
        ("a.json", "[]", "the source is empty"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, capsys, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    arguments = [
        "--annotations",
        str(tmp_path / name),
        "--images",
        str(tmp_path),
        "--out",
        str(tmp_path / "o"),
    ]
    assert runner.main(coco_format.RECIPE, arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_crowds_are_kept_where_programs_write_every_mask_as_one(convert, tmp_path: Path) -> None:
    mask = {"size": [4, 6], "counts": [4, 8, 12]}
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 1,
        "segmentation": mask,
        "said": "blue  part",
    }
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
        "annotations": [annotation], "categories": [{"id": 1, "name": "part"}],
    }  # fmt: skip
    (tmp_path / "x.json").write_text(json.dumps(content))
    arguments = ("--annotations", tmp_path / "x.json", "--images", tmp_path, "--regions", "mask")
    out = convert("coco_format", *arguments, "--caption-key", "said")
    assert out.samples[0].regions[0].area == 8 and out.samples[0].turns[0].answer == "blue part"


def test_a_sideways_picture_is_measured_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert upright_size(tmp_path / "a.jpg") == (30, 20)
    (tmp_path / "b.jpg").write_text("no picture")
    assert upright_size(tmp_path / "b.jpg") is None is upright_size(tmp_path / "none.jpg")

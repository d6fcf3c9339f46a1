"""OpenImages and own files: tables, Label Studio, CVAT, VOC, YOLO, COCO; the same boxes from every form."""

from __future__ import annotations

import importlib
import json
import re
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
    for more in ((), ("--coordinates", "fractions")):
        table = convert("coco_format", *arguments, voc / "openimages.csv", "--skip-missing-pictures", *more)
        assert boxes_of(table.detections) == here(truth, voc)
    xml = convert("coco_format", *arguments, voc / "xml", "--skip-missing-pictures")
    assert boxes_of(xml.detections) == here(truth, voc)


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
    rows += ["a.jpg,none,,,,,50,50,", "a.jpg,,1,2,3,4,50,50,", "a.jpg,tiny,0,0,0.5,1,50,50,"]
    for name in "ab":
        Image.new("RGB", (50, 50)).save(tmp_path / f"{name}.jpg")
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
        "object without a label",
        "box within the first pixel, as if in fractions",
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
    ]
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/3/0a1b-a.jpg"}, "annotations": [
            {"was_cancelled": True, "result": results[:1]}, {"result": results}]},
        {"id": 2, "data": {"image": "/data/local-files/?d=deep/b.png"},
         "annotations": [{"result": results[:1]}]},
        {"id": 3, "data": {"image": "c.jpg"}, "annotations": []},
    ]  # fmt: skip
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    (tmp_path / "deep").mkdir()
    for name in ("0a1b-a.jpg", "deep/b.png", "c.jpg"):
        Image.new("RGB", (200, 100)).save(tmp_path / name)
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
    assert out.report["regions_dropped"] == {"brushlabels is not read": 1}
    assert {s.image.name for s in out.samples} == {"0a1b-a.jpg", "b.png"}


CVAT = """<?xml version="1.0"?><annotations><version>1.1</version>
<image id="0" name="a.jpg" width="20" height="10">
 <box label="cat" xtl="1" ytl="2" xbr="5" ybr="8"><attribute name="said">red cat</attribute></box>
 <box label="dog" xtl="4" ytl="4" xbr="12" ybr="6" rotation="90"/>
 <polygon label="poly" points="1,1;9,1;9,9"/>
 <mask label="blob" rle="1, 2, 1, 2" left="10" top="3" width="3" height="2"/>
 <mask label="lie" rle="1, 2" left="10" top="3" width="3" height="2"/>
 <ellipse label="round" cx="3" cy="3" rx="1" ry="1"/><tag label="indoors"/>
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
        "mask that cannot be read": 1, "ellipse is not read": 1,
    }  # fmt: skip
    said = convert("coco_format", *arguments, "--caption-key", "said")
    assert said.report["tasks"] == {"classification": 3, "brief_caption": 1}


VOC = """<annotation><folder>any</folder><filename>a.png</filename><path>C:\\x\\a.png</path>
<size><width>100</width><height>80</height><depth>3</depth></size>
<object><name>cup</name><bndbox><ymin>20</ymin><xmin>10.0</xmin><xmax>40</xmax><ymax>60</ymax></bndbox>
<part><name>handle</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>
<object><name>jar</name><bndbox><xmin>80</xmin><ymin>60</ymin><xmax>50</xmax><ymax>20</ymax></bndbox></object>
</annotation>"""
TABLE = "image,label,x1,y1,x2,y2\na.png,cup,10,20,40,60\n"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (100, 80)).save(folder / "a.png")
    return folder


def boxes_from(convert, path: Path, images: Path, *more: object) -> dict[str, tuple]:
    """ "picture label" → corners."""
    out = convert("coco_format", "--annotations", path, "--images", images, "--form", "detections", *more)
    return {
        f"{item.image.resolve().relative_to(images).as_posix()} {name}": region.bounds(100, 100).xyxy
        for item in out.detections
        for region, name in zip(item.regions, item.names, strict=True)
    }


CUP = {"a.png cup": (10, 20, 40, 60)}


@pytest.mark.parametrize(
    "text",
    [
        TABLE,
        "\ufeff" + TABLE,
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        "sep=;\n" + TABLE.replace(",", ";"),
        TABLE.replace(",", ";").replace("10", "10,0"),
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("\n", "\r"),
        TABLE.replace("x1", "X 1").replace("image", '"Image Path"'),
        TABLE.replace("y2\n", "y2,note\n", 1).replace("60", "60," + "x" * 200_000),
        TABLE.replace("10,20,40,60", "40,60,10,20"),
        "image,label,x,y,w,h\na.png,cup,40,60,-30,-40\n",
        TABLE.replace("a.png", "C:\\data\\images\\a.png"),
        TABLE.replace("a.png", "https://host/x/a.png?sig=1.2"),
        TABLE + ",,,,,\n\n",
        TABLE + "a.png,,,,,\n",
        "image,label,x1,y1,x2,y2\na.png,cup,.1,.25,.4,.75\n",
        "image,label,x1,y1,x2,y2,image_width,image_height\na.png,cup,20,40,80,120,200,160\n",  # a larger copy
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_one_box_in_many_tables(convert, pictures: Path, text: str, encoding: str) -> None:
    (pictures.parent / "t.csv").write_bytes(text.encode(encoding))
    assert boxes_from(convert, pictures.parent / "t.csv", pictures) == CUP


def rectangle(*percent: float, kind: str = "rectanglelabels", **more) -> dict:
    value = dict(zip(("x", "y", "width", "height", "rotation"), percent, strict=False))
    if kind == "rectanglelabels":
        value[kind] = ["cup"]
    return studio(kind, value, **{"original_width": 100, "original_height": 80, **more})


@pytest.mark.parametrize(
    "results",
    [
        [rectangle(10, 25, 30, 50)],
        [rectangle(40, 75, -30, -50)],
        [rectangle(10, 25, 30, 50, 360)],
        [rectangle(40, 25, 40, 37.5, 90)],  # 40 x 30 pixels, turned around its first corner
        [rectangle(10, 25, 30, 50, original_width=None, original_height=None)],
        [rectangle(10, 25, 30, 50, original_width=200, original_height=160)],
        [rectangle(10, 25, 30, 50, kind="rectangle"), studio("labels", {"labels": ["cup"]})],
        [rectangle(10, 25, 30, 50, kind="rectangle"), studio("choices", {"choices": ["cup"]})],
    ],
)
def test_one_box_in_many_results(convert, pictures: Path, results: list) -> None:
    task = {"data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"result": results}]}
    (pictures.parent / "t.json").write_text(json.dumps([task]))
    assert boxes_from(convert, pictures.parent / "t.json", pictures) == CUP


@pytest.mark.parametrize(
    ("named", "data"),
    [
        ({"to_name": "right"}, {"left": "a.png", "right": "b.png"}),
        ({"to_name": "Right-1"}, {"left_1": "a.png", "right_1": "b.png"}),
        ({"to_name": "img2"}, {"picture_1": "a.png", "picture_2": "b.png"}),
        ({"to_name": "img", "source": "$right"}, {"left": "a.png", "right": "b.png"}),
        ({"to_name": "pages", "item_index": 1}, {"pages": ["a.png", "b.png"]}),
        ({"to_name": "img"}, {"said": "see a.png\nand b.png", "picture": "b.png?x=1.2"}),
        ({"to_name": "picture"}, {"text": "a.png", "picture": "b"}),
    ],
)
def test_the_picture_that_a_result_belongs_to(convert, pictures: Path, named: dict, data: dict) -> None:
    Image.new("RGB", (100, 80), "red").save(pictures / "b.png")
    task = {"data": data, "annotations": [{"result": [rectangle(10, 25, 30, 50, **named)]}]}
    (pictures.parent / "t.json").write_text(json.dumps([task]))
    assert boxes_from(convert, pictures.parent / "t.json", pictures) == {"b.png cup": (10, 20, 40, 60)}


def test_equal_names_in_two_folders_stay_two_pictures(convert, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for side in ("left", "right"):
        (images / side).mkdir(parents=True)
        Image.new("RGB", (100, 80)).save(images / side / "1.png")
    both = {"left/1.png cup": (10, 20, 40, 60), "right/1.png jar": (50, 20, 80, 60)}
    jar = rectangle(50, 25, 30, 50) | {
        "value": {"x": 50, "y": 25, "width": 30, "height": 50, "rectanglelabels": ["jar"]}
    }
    results = {"left": rectangle(10, 25, 30, 50), "right": jar}
    tasks = [
        {"data": {"image": f"/data/local-files/?d={side}/1.png"}, "annotations": [{"result": [result]}]}
        for side, result in results.items()
    ]
    shapes = {
        "left": '<box label="cup" xtl="40" ytl="60" xbr="10" ybr="20"/>',
        "right": '<box label="jar" xtl="50" ytl="20" xbr="80" ybr="60"/>',
    }
    cvat = "".join(
        f'<image id="{n}" name="1.png" subset="{side}">{shape}</image>'
        for n, (side, shape) in enumerate(shapes.items())
    )
    (tmp_path / "t.json").write_text(json.dumps(tasks))
    (tmp_path / "t.xml").write_text(f"<annotations>{cvat}</annotations>")
    (tmp_path / "t.csv").write_text(TABLE.replace("a.png", "left\\1.png") + "right\\1.png,jar,50,20,80,60\n")
    (tmp_path / "labels" / "left").mkdir(parents=True)
    (tmp_path / "labels" / "right").mkdir()
    (tmp_path / "labels" / "left" / "1.txt").write_text("0 0.25 0.5 0.3 0.5\n")
    (tmp_path / "labels" / "right" / "1.txt").write_text("1.0 .5 .25 .8 .25 .8 .75 .5 .75\n")
    (tmp_path / "data.yaml").write_text("names: [cup, jar]\n")
    for side, name in (("left", "cup"), ("right", "jar")):
        (tmp_path / "voc" / side).mkdir(parents=True)
        item = next(
            item for item in ElementTree.fromstring(VOC).iter("object") if item.findtext("name") == name
        )
        text = f"<annotation><filename>1</filename>{ElementTree.tostring(item, 'unicode')}</annotation>"
        (tmp_path / "voc" / side / "1.xml").write_text(text)
    for source in ("t.json", "t.xml", "t.csv", "data.yaml", "labels", "voc"):
        if source == "labels":
            (tmp_path / "labels" / "classes.txt").write_text("cup\njar\n")
        assert boxes_from(convert, tmp_path / source, images) == both, source


def test_voc_as_written_and_one_based(convert, pictures: Path) -> None:
    (pictures.parent / "a.xml").write_text(VOC)
    both = {"a.png cup": (10, 20, 40, 60), "a.png jar": (50, 20, 80, 60)}
    assert boxes_from(convert, pictures.parent / "a.xml", pictures) == both
    shifted = boxes_from(convert, pictures.parent / "a.xml", pictures, "--one-based")
    assert shifted == {name: tuple(value - 1 for value in box) for name, box in both.items()}


def test_the_name_of_a_voc_file_counts_where_its_filename_is_none(convert, pictures: Path) -> None:
    (pictures.parent / "voc").mkdir()
    (pictures.parent / "voc" / "a.xml").write_text(VOC.replace("<filename>a.png", "<filename>of another.jpg"))
    assert len(boxes_from(convert, pictures.parent / "voc", pictures)) == 2


@pytest.mark.parametrize("layout", ["images/train labels/train", "train/images train/labels", "train train"])
def test_where_yolo_has_its_labels(convert, tmp_path: Path, layout: str) -> None:
    images, labels = (tmp_path / part for part in layout.split())
    for folder in {images, labels}:
        folder.mkdir(parents=True)
    Image.new("RGB", (100, 80)).save(images / "a.jpeg")
    (labels / "a.txt").write_text("\ufeff1 0.25 0.5 0.3 0.5\n\n")
    (labels / "classes.txt").write_text("jar\ncup\n")
    (tmp_path / "data.yaml").write_text("names:\n  0: jar\n  1: cup\nkpt_shape: [1, 3]\n")
    (tmp_path / "README.roboflow.txt").write_text("No labels here.\n")
    expected = {"a.jpeg cup": (10, 20, 40, 60)}
    assert boxes_from(convert, tmp_path / "data.yaml", images) == expected
    assert boxes_from(convert, labels, images) == expected
    whole = boxes_from(convert, tmp_path / "data.yaml", tmp_path)
    assert whole == {f"{layout.split()[0]}/a.jpeg cup": (10, 20, 40, 60)}
    (labels / "a.txt").write_text("1 0.25 0.5 0.3 0.5 0.1 0.2 2\n")  # key points behind the box
    assert boxes_from(convert, tmp_path / "data.yaml", images) == expected


def turned(pictures: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 80)).save(pictures / "a.png", exif=exif)  # 80 x 100 upright
    return pictures


@pytest.mark.parametrize(
    ("row", "box"),
    [
        ("10,20,40,60,100,80", (20, 10, 60, 40)),  # as stored: moved
        ("10,20,40,60,80,100", (10, 20, 40, 60)),  # upright
        ("10,20,40,95,100,80", (10, 20, 40, 95)),  # below the stored frame, within the upright one
        ("10,20,40,60,160,200", (5, 10, 20, 30)),
    ],
)
def test_a_table_of_a_turned_picture(convert, pictures: Path, row: str, box: tuple) -> None:
    table = f"image,label,x1,y1,x2,y2,image_width,image_height\na.png,cup,{row}\n"
    (pictures.parent / "t.csv").write_text(table)
    assert boxes_from(convert, pictures.parent / "t.csv", turned(pictures)) == {"a.png cup": box}


def task_of(*results: dict, **data: str) -> str:
    return json.dumps([{"data": data or {"image": "a.png"}, "annotations": [{"result": list(results)}]}])


def cvat_of(shapes: str, **more: str) -> str:
    extra = "".join(f' {key}="{value}"' for key, value in more.items())
    return f'<annotations><image id="0" name="a.png"{extra}>{shapes}</image></annotations>'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "a .csv, .xml or .json file"),
        ("a.json", "7", "neither list nor object"),
        ("a.csv", "picture,x1\n", "columns for"),
        ("a.csv", "image,x1,y1,x2,y2\n", "columns for a label"),
        ("a.csv", TABLE.replace("label", "label,label"), "one column 'label'"),
        ("a.csv", TABLE.replace("10", ""), "row 2, x1: expected a number, got ''"),
        ("a.csv", TABLE.replace("10", "1_0"), "row 2, x1: expected a number, got '1_0'"),
        ("a.csv", TABLE.replace("60", "1e999"), "row 2, y2: expected a number"),
        ("a.csv", TABLE.replace("60", "60,7"), "row 2: expected 6 values"),
        ("a.csv", TABLE.replace(",60", ""), "row 2, y2: expected a number"),
        ("a.csv", TABLE.replace("a.png", ""), "row 2, picture"),
        ("a.csv", TABLE.replace("cup", '"cup'), "row 2: expected quotes in pairs"),
        ("a.csv", TABLE.replace("cup", '"cu\np"'), "row 2, label: expected one line"),
        ("a.csv", TABLE.replace("a.png", "b.png"), "row 2, picture 'b.png': expected a picture in"),
        ("a.csv", TABLE.encode("utf-16-le"), "zero bytes"),
        ("a.csv", TABLE.replace("cup", "Müll").encode("cp1252"), "line 2: expected UTF-8, got the byte 0xfc"),
        (
            "a.csv",
            TABLE.replace("a.png", "x/a.png") + TABLE.replace("a.png", "y/a.png")[24:],
            "a file for each name",
        ),
        ("a.xml", "<annotations><image", "whole XML"),
        ("a.xml", "<annotations><track id='0'/></annotations>", "one for video"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "plain XML"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>'.encode("utf-16"), "plain XML"),
        ("a.xml", cvat_of('<box label="half" xtl="1"/>'), "picture 'a.png', shape 1, ytl: expected a number"),
        ("a.xml", cvat_of('<polygon label="p" points="1,1;2;3,3"/>'), "shape 1, points: expected x,y"),
        ("a.xml", cvat_of("", task_id="1")[:-14] + cvat_of("", task_id="2")[13:], "it in the tasks 1 and 2"),
        ("a.xml", VOC.replace("<xmax>50</xmax>", ""), "object 2, xmax: expected a number"),
        ("a.xml", VOC.replace("bndbox", "box"), "object 1: expected a <bndbox>"),
        ("a.json", "[]", "the source is empty"),
        ("a.json", "[7]", "task 1: expected Label Studio's export"),
        ("a.json", '[{"image": "a.png", "label": [{"x": 1, "original_width": 5}]}]', "got JSON-MIN"),
        (
            "a.json",
            task_of(rectangle(10, 25, 30)),
            "task 1, result 1, height: expected a number, got nothing",
        ),
        (
            "a.json",
            task_of(rectangle(10, 25, 30, 5, to_name="x"), a="a.png", b="b.png"),
            "one of the data's pictures",
        ),
        ("a.json", task_of(image="data:image/png;base64,AA"), "the picture itself"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    pictures: Path, capsys, name: str, content: str | bytes, message: str
) -> None:
    path = pictures.parent / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    arguments = ["--annotations", path, "--images", pictures, "--out", pictures.parent / "o"]
    assert runner.main(coco_format.RECIPE, [*map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said
    assert {path.name for path in pictures.parent.iterdir()} == {name, "images"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 .5 .5 .1 .1", "class: expected one of 0 to 1"),
        ("cup .5 .5 .1 .1", "class: expected a number"),
        ("0 .5 .5 .1", "got 3 numbers"),
        ("0 .5 .5 .1 .1 .9", "got 5 numbers"),
        ("0 .5 .5 .1 x", "height: expected a number, got 'x'"),
        ("0 50 40 30 40", "x: expected a fraction of the picture, got 50"),
    ],
)
def test_a_broken_line_of_yolo_is_named(pictures: Path, capsys, line: str, message: str) -> None:
    labels = pictures.parent / "labels"
    labels.mkdir()
    (labels / "a.txt").write_text(f"0 .5 .5 .1 .1\n{line}\n")
    (labels / "classes.txt").write_text("cup\njar\n")
    arguments = ["--annotations", labels, "--images", pictures, "--out", pictures.parent / "o"]
    assert runner.main(coco_format.RECIPE, [*map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "labels 'a.txt', line 2" in said and message in said


@pytest.mark.parametrize("more", [["--coordinates", "percent"], ["--one-based"], ["--crowds", "drop"]])
def test_an_option_of_another_format_is_refused(pictures: Path, capsys, more: list) -> None:
    (pictures.parent / "a.json").write_text(task_of(rectangle(10, 25, 30, 50)))
    arguments = [
        "--annotations",
        pictures.parent / "a.json",
        "--images",
        pictures,
        "--out",
        pictures.parent / "o",
    ]
    assert runner.main(coco_format.RECIPE, [*map(str, arguments), *more]) == 2
    assert capsys.readouterr().err.startswith(more[0])


def test_what_became_of_regions_is_said_at_the_end(pictures: Path, capsys) -> None:
    rows = ["a.png,flat,10,20,10,60", "a.png,far,200,200,210,210", "a.png,,1,2,3,4", "a.png,cut,50,50,150,60"]
    (pictures.parent / "a.csv").write_text(TABLE + "\n".join(rows))
    arguments = [
        "--annotations",
        pictures.parent / "a.csv",
        "--images",
        pictures,
        "--out",
        pictures.parent / "o",
    ]
    assert runner.main(coco_format.RECIPE, [*map(str, arguments)]) == 0
    said = capsys.readouterr().out
    for reason in (
        "3 regions dropped",
        "box without extent",
        "box outside the picture",
        "object without a label",
    ):
        assert reason in said
    assert "1 box cut at the border" in said


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


@pytest.mark.parametrize(
    ("recipe", "table", "more"),
    [
        ("captions", "filepath\ttitle\na.png\ta Müll\n", ["--table", "t.tsv"]),
        ("openimages", "/m/1,Müll\n", ["--annotations", "boxes.csv", "--classes", "t.tsv"]),
    ],
)
def test_every_table_of_a_recipe_is_read_alike(
    convert, pictures: Path, capsys, recipe: str, table: str, more: list
) -> None:
    folder = pictures.parent
    (folder / "boxes.csv").write_text("ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/1,.1,.4,.25,.75\n")
    Image.new("RGB", (100, 80)).save(pictures / "a.jpg")
    given = [str(folder / word) if "." in word else word for word in more]
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        (folder / "t.tsv").write_bytes(table.encode(encoding))
        if encoding == "cp1252":
            options = [*given, "--images", str(pictures), "--out", str(folder / "o")]
            assert runner.main(importlib.import_module(f"data_recipes.{recipe}").RECIPE, options) == 2
            assert re.search("line [12]: expected UTF-8", capsys.readouterr().err)
        else:
            out = convert(recipe, *given, "--images", pictures)
            assert "Müll" in str(out.captions or out.detections)


def test_a_sideways_picture_is_measured_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert upright_size(tmp_path / "a.jpg") == (30, 20)
    (tmp_path / "b.jpg").write_text("no picture")
    assert upright_size(tmp_path / "b.jpg") is None is upright_size(tmp_path / "none.jpg")

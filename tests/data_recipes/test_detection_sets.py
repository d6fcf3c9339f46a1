"""COCO, LVIS, V3Det, Objects365: real files against pycocotools and against the files' own counts."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_recipes import geometry
from data_recipes.coco_layout import LayoutConverter
from data_recipes.objects import ObjectWriter
from data_recipes.runner import Made
from rgpt import prompts
from rgpt.errors import InputError
from rgpt.formats.coco import CocoFile, Geometry
from rgpt.formats.size_claims import Placement
from rgpt.regions import RLE, Box, Polygon

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
COCO = "coco_val2014_100/instances_val2014_100.json"


@pytest.fixture(scope="module")
def coco(shared_data: Path) -> dict[str, Any]:
    return json.loads((shared_data / COCO).read_text())


def layout(path: Path, pictures: list[dict], annotations: list[dict], names: dict[int, str]) -> Path:
    categories = [{"id": key, "name": name} for key, name in names.items()]
    # Categories first and annotations before pictures: files come in any order.
    content = {"categories": categories, "annotations": annotations, "images": pictures}
    path.write_text(json.dumps(content))
    return path


def test_instance_to_region_to_mask_to_area_is_pycocotools(coco: dict[str, Any]) -> None:
    """All 839 annotations, the 9 crowds in uncompressed RLE among them, through the recipe's own reader."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    names = {category["id"]: category["name"] for category in coco["categories"]}
    writer = ObjectWriter("coco", None, "samples", "mask", 16)
    reader = LayoutConverter(
        {str(key): name for key, name in names.items()}, Geometry(), writer, crowds="keep"
    )
    made, kinds = Made(), Counter()
    for annotation in coco["annotations"]:
        size = sizes[annotation["image_id"]]
        found = reader.labelled(annotation, Placement(size, size), made)
        assert found is not None and found.mask is not None, annotation["id"]
        kinds[type(found.mask)] += 1
        expected = coco_mask.frPyObjects(annotation["segmentation"], *size)
        expected = coco_mask.merge(expected) if isinstance(expected, list) else expected
        region = geometry.choose_region(found.box, found.mask, "mask", random.Random(0))
        mask = region.to_mask(*size)
        assert mask.sum() == coco_mask.area(expected), annotation["id"]
        assert np.array_equal(mask, coco_mask.decode(expected).astype(bool)), annotation["id"]
        x, y, w, h = annotation["bbox"]
        inside = (max(x, 0), max(y, 0), min(x + w, size[1]), min(y + h, size[0]))
        assert found.box.xyxy == pytest.approx(inside, abs=1e-9)
    assert kinds == {Polygon: 830, RLE: 9} and not made.regions_dropped


def test_coco_counts_names_and_prompts(convert, shared_data: Path, coco: dict[str, Any]) -> None:
    out = convert("coco", "--annotations", shared_data / COCO, "--images", "train2014")
    report = out.report
    assert (report["read"], report["records_kept"], report["regions_read"]) == (100, 100, 839)
    assert report["regions_dropped"] == {"crowd": 9} and report["regions"] == report["turns"] == 830
    names = {category["id"]: category["name"] for category in coco["categories"]}
    expected = Counter(names[a["category_id"]] for a in coco["annotations"] if not a["iscrowd"])
    assert Counter(turn.answer for sample in out.samples for turn in sample.turns) == expected
    guide = prompts.classification_guide("COCO-80")
    for sample in out.samples:
        assert sample.image is not None and sample.image.name.startswith("COCO_val2014_")
        assert [guide in turn.question for turn in sample.turns] == [True] + [False] * (len(sample.turns) - 1)
        assert len(sample.turns) == len(sample.regions) <= 16
    assert max(len(sample.regions) for sample in out.samples) > 10
    kinds = Counter(type(region) for sample in out.samples for region in sample.regions)
    assert 300 < kinds[Box] < 530 and kinds[Box] + kinds[Polygon] == 830


def test_the_region_asked_about_is_the_one_of_that_name(
    convert, shared_data: Path, coco: dict[str, Any]
) -> None:
    """From the written file back to the annotation: the box of <regionN> and the name that was answered."""
    arguments = ("--annotations", shared_data / COCO, "--images", "x", "--regions", "box")
    out = convert("coco", *arguments, "--turns", "5")
    names = {category["id"]: category["name"] for category in coco["categories"]}
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    left: dict[str, list] = {}
    for a in coco["annotations"]:
        if not a["iscrowd"]:
            (x, y, w, h), (width, height) = a["bbox"], sizes[a["image_id"]]
            corners = (max(x, 0), max(y, 0), min(x + w, width), min(y + h, height))
            left.setdefault(str(a["image_id"]), []).append((names[a["category_id"]], corners))
    for sample in out.samples:
        for question, answer in sample.turns:
            number = int(question.partition("<region")[2].partition(">")[0])
            corners = sample.regions[number - 1].xyxy
            objects = left[sample.id.split("-")[1]]
            (match,) = {o for o in objects if o[0] == answer and o[1] == pytest.approx(corners, abs=1e-6)}
            objects.remove(match)
    assert not any(left.values())


def test_detections_are_the_same_regions_with_names(convert, shared_data: Path) -> None:
    arguments = ("--annotations", shared_data / COCO, "--images", "x")
    out = convert("coco", *arguments, "--form", "detections", "--regions", "mask")
    assert len(out.detections) == 100 and not out.samples
    assert sum(len(item.regions) for item in out.detections) == 830
    for item in out.detections:
        for region in item.regions:
            region.check_inside(item.height, item.width)


def test_workers_change_nothing_on_real_data(convert, shared_data: Path) -> None:
    arguments = ("--annotations", shared_data / COCO, "--images", "x", "--seed", "3", "--limit", "50")
    one, two = (convert("coco", *arguments, "--workers", workers) for workers in (1, 2))
    assert (one.folder / "samples.jsonl").read_bytes() == (two.folder / "samples.jsonl").read_bytes()
    assert one.report | {"wall_seconds": 0} == two.report | {"wall_seconds": 0}


@pytest.mark.parametrize(
    ("annotation", "dropped", "repaired"),
    [
        ({"bbox": [-10, -10, 30, 30]}, None, "box cut at the border"),
        ({"bbox": [90, 40, 30, 30]}, None, "box cut at the border"),
        ({"bbox": [100, 0, 10, 10]}, "box outside the picture", None),
        ({"bbox": [10, 10, 0, 5]}, "box without extent", None),
        ({"bbox": [14, 10, -4, 5]}, None, "box with corners exchanged"),
        ({"bbox": [10**400, 10, 4, 5]}, "box is not four numbers", None),
        ({"bbox": [10, 10, float("nan"), 5]}, "box is not four numbers", None),
        ({"bbox": [10, 10, 5]}, "box is not four numbers", None),
        ({"bbox": ["1", "2", "3", "4"]}, None, None),
        ({"bbox": ["a", "2", "3", "4"]}, "box is not four numbers", None),
        ({"bbox": {"x": 1}}, "box is not four numbers", None),
        ({"bbox": [0.1, 0.1, 0.5, 0.5]}, "box within the first pixel, as if in fractions", None),
        ({"bbox": None}, "box is not four numbers", None),
        ({"iscrowd": 1}, "crowd", None),
        ({"category_id": 99}, "annotation of an unknown category", None),
        ({"category_id": [1]}, "annotation of an unknown category", None),
        ({"category_id": 2}, "label with no words", None),
        ({"segmentation": [[10, 10, 20, 20]]}, None, "unusable segmentation, box used"),
        ({"segmentation": [[300, 300, 400, 300, 400, 400]]}, None, "unusable segmentation, box used"),
        ({"segmentation": {"size": [3, 3], "counts": [4, 5]}}, None, "unusable segmentation, box used"),
        ({"segmentation": [], "bbox": [10, 10, 5, 5]}, None, None),
        ({"image_id": 7}, "annotation of a picture that is not in the file", None),
    ],
)
def test_what_is_wrong_with_an_annotation_is_counted(
    convert, tmp_path: Path, annotation: dict, dropped: str | None, repaired: str | None
) -> None:
    good = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 10]}
    picture = {"id": 1, "file_name": "a.jpg", "height": 50, "width": 100}
    path = layout(tmp_path / "x.json", [picture], [good, {**good, **annotation}], {1: "cat", 2: " "})
    out = convert("coco", "--annotations", path, "--images", tmp_path, "--regions", "mask")
    report = out.report
    assert report["regions_dropped"] == ({dropped: 1} if dropped else {})
    assert report["repaired"] == ({repaired: 1} if repaired else {})
    assert report["regions_read"] == report["regions"] + (1 if dropped else 0) == 2
    for region in out.samples[0].regions:
        assert region.bounds(50, 100) == region  # a box inside the picture
    corners = [region.xyxy for region in out.samples[0].regions]
    assert (10, 20, 40, 30) in corners  # x, y, w, h with no pixel added


def test_buckets_lose_nothing(convert, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--annotations", shared_data / COCO, "--images", "x")
    whole = convert("coco", *arguments)
    monkeypatch.setattr("rgpt.formats.grouping.BUCKET_BYTES", 50_000)
    parts = convert("coco", *arguments)
    assert {sample.id: sample.turns for sample in whole.samples} == {s.id: s.turns for s in parts.samples}
    assert [s.id for s in whole.samples] != [s.id for s in parts.samples]


def test_lvis_finds_pictures_by_their_address(convert, shared_data: Path) -> None:
    path = shared_data / "lvis_v05_val/lvis_val_60.json"
    out = convert("lvis", "--annotations", path, "--images", shared_data / "coco")
    assert out.report["read"] == 60 and out.report["records_kept"] == 55 and out.report["regions"] == 577
    assert {s.image.parent.name for s in out.samples} == {"val2017"}  # file_name says COCO_val2014_
    assert all(len(s.image.stem) == 12 for s in out.samples)
    raw = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in raw["categories"]}
    expected = Counter(names[a["category_id"]].replace("_", " ") for a in raw["annotations"])
    assert Counter(turn.answer for s in out.samples for turn in s.turns) == expected
    assert any("_" in name for name in names.values())
    assert prompts.classification_guide("LVIS") in out.samples[0].turns[0].question
    raw_names = convert("lvis", "--annotations", path, "--images", "x", "--form", "detections").detections
    assert any("_" in name for item in raw_names for name in item.names)  # for looking up in the vocabulary


def test_lvis_v1_has_no_file_names(convert, tmp_path: Path) -> None:
    url = "http://images.cocodataset.org/train2017/000000155379.jpg"
    picture = {"id": 155379, "coco_url": url, "height": 50, "width": 100, "neg_category_ids": [3]}
    annotation = {"id": 1, "image_id": 155379, "category_id": 5, "bbox": [1, 2, 3, 4]}
    path = layout(tmp_path / "v1.json", [picture], [annotation], {5: "cap_(headwear)"})
    out = convert("lvis", "--annotations", path, "--images", tmp_path)
    assert out.samples[0].image.resolve() == (tmp_path / "train2017/000000155379.jpg").resolve()
    assert out.samples[0].turns[0].answer == "cap (headwear)"


def test_v3det_in_the_true_layout_with_all_its_names(convert, shared_data: Path, tmp_path: Path) -> None:
    """Synthesised pictures and boxes, the real 13,204 categories: duplicates, quotes, other scripts."""
    categories = json.loads((shared_data / "v3det/v3det_2023_v1_train_cat_info.json").read_text())
    listed = shared_data / "v3det/category_name_13204_v3det_2023_v1.txt"
    pictures, annotations = [], []
    for i, category in enumerate(categories):
        if i % 100 == 0:
            name = f"images/a00000066/{i}_1.jpg"
            pictures.append({"id": i // 100, "file_name": name, "height": 300, "width": 400})
        box = {"bbox": [i % 300 + 0.5, i % 200, 50, 60.25], "area": 3012.5, "iscrowd": 0}
        annotations.append({"id": i, "image_id": i // 100, "category_id": category["id"], **box})
    path = tmp_path / "v3det.json"
    content = {"images": pictures, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))

    def answers(out) -> Counter:
        assert out.report["regions"] == 13_204 == out.report["facts"]["categories"]
        return Counter(turn.answer for s in out.samples for turn in s.turns)

    def spoken(names: list[str]) -> Counter:
        return Counter(" ".join(name.replace("_", " ").split()) for name in names)

    out = convert("v3det", "--annotations", path, "--images", tmp_path)
    assert answers(out) == spoken([category["name"] for category in categories])
    assert len(answers(out)) == 13_166 and answers(out)["door"] == 2
    assert out.report["facts"]["different names"] == len({name.lower() for name in answers(out)})
    assert all(s.image.parent.parent.name == "images" for s in out.samples)
    better = convert("v3det", "--annotations", path, "--images", tmp_path, "--names", listed)
    assert answers(better) == spoken(listed.read_text("utf-8").splitlines())
    assert len(answers(better)) == 13_204 and {"door", "entrance", "compass (drawing tool)"} <= set(
        answers(better)
    )


def test_objects365_with_real_pictures(convert, shared_data: Path) -> None:
    folder = shared_data / "dlc_bench"
    out = convert(
        "objects365", "--annotations", folder / "annotations.json", "--images", folder / "images",
        "--skip-missing-pictures",
    )  # fmt: skip
    there = {path.name for path in (folder / "images").iterdir()}
    assert {item.image.name for item in out.detections} == there
    assert out.report["dropped"] == {"picture file is missing": 39 - len(there)}
    for item in out.detections:
        with Image.open(item.image) as picture:
            assert picture.size == (item.width, item.height)


def test_objects365_in_patches_or_flat(convert, tmp_path: Path) -> None:
    picture = {
        "id": 420917,
        "file_name": "images/v1/patch8/objects365_v1_00420917.jpg",
        "height": 9,
        "width": 9,
    }
    annotation = {"id": 1, "image_id": 420917, "category_id": 13, "bbox": [1, 2, 3, 4], "isfake": 0}
    path = layout(tmp_path / "o.json", [picture], [annotation], {13: "Cabinet/shelf"})
    deep, flat = (
        convert("objects365", "--annotations", path, "--images", tmp_path / "o", *more).detections[0]
        for more in ([], ["--flat"])
    )
    assert deep.image.parent.name == "patch8" and flat.image.parent.name == "o"
    assert deep.names == ("Cabinet/shelf",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": [], "annotations": []}, "none under categories"),
        (
            {"images": [{"file_name": "a"}], "annotations": [], "categories": []},
            "images 1, id: .* got nothing",
        ),
        ({"images": [], "annotations": [3], "categories": []}, "annotations 1: expected an object, got 3"),
        ({"images": [], "annotations": [{}], "categories": []}, "annotations 1, image_id: .* got nothing"),
        ({"images": [], "annotations": [], "categories": [{"id": 1}]}, "categories 1, name: .* got nothing"),
        ([], "instead of an object"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(InputError, match=message):
        CocoFile(path, tmp_path / "scratch", tmp_path)

"""One reader of COCO's layout: the same boxes however a program spelled them, on the pictures as they are."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.score import score_task
from rgpt.errors import InputError
from rgpt.formats import coco
from rgpt.formats.coco import CocoFile, as_meant, id_key, on_pictures, outline_of
from rgpt.formats.paths import PictureFolder
from rgpt.formats.size_claims import ALREADY, ANOTHER_SIZE, MOVED, SCALED
from rgpt.regions import RLE

RING = [10, 20, 40, 20, 40, 60, 10, 60]
PAIRS = [[10, 20], [40, 20], [40, 60], [10, 60]]
MASK = np.zeros((80, 100), dtype=bool)
MASK[20:60, 10:40] = True
RUNS = RLE.from_mask(MASK).to_json()["mask"]


def content(**annotation: Any) -> dict[str, Any]:
    """One picture of 100 x 80 pixels with a cup at [10, 20, 40, 60]."""
    cup = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "annotations": [cup | annotation],
        "categories": [{"id": 1, "name": "cup"}],
    }


def picture(path: Path, width: int = 100, height: int = 80, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path, exif=exif)


class Read:
    """What a file says: boxes by picture, what was mended, why pictures and regions have none."""

    def __init__(self, value: Any, images: Path, scratch: Path) -> None:
        scratch.mkdir()
        (scratch / "a.json").write_text(json.dumps(value))
        self.file = CocoFile(scratch / "a.json", scratch / ".", images, coco.file_of_coco_url)
        self.boxes: dict[str, list[Any]] = {}
        self.said: list[str] = []
        for found in self.file.pictures():
            if found.placement is None:
                self.said.append(found.problem)
                continue
            self.said += [found.placement.note] if found.placement.note else []
            for text in found.annotations:
                annotation = json.loads(text)
                region = self.file.geometry.read(annotation, found.placement)
                self.said += [*region.mended, *filter(None, [region.problem])]
                if region.box and self.file.name(annotation["category_id"]) == "cup":
                    name = str(found.path.relative_to(images)) if found.path else ""
                    self.boxes.setdefault(name, []).append([round(v, 6) for v in region.box.xyxy])


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Read]:
    picture(tmp_path / "images" / "a.png")
    runs = iter(range(100))
    return lambda value: Read(value, tmp_path / "images", tmp_path / f"scratch-{next(runs)}")


def change(value: dict[str, Any], path: str, new: Any) -> dict[str, Any]:
    """`value` with the member at "images.0.id" replaced, or removed by None."""
    *steps, last = path.split(".")
    at: Any = value
    for step in steps:
        at = at[int(step) if step.isdecimal() else step]
    if new is None:
        del at[last]
    else:
        at[last] = new
    return value


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"images.0.id": 1.0},
        {"images.0.id": "1", "annotations.0.category_id": "1.0"},
        {"annotations.0.image_id": "1"},
        {"annotations.0.category_id": "1", "categories.0.id": 1.0},
        {"images.0.width": 100.0, "images.0.height": "80"},
        {"images.0.width": None},
        {"images.0.width": 0, "images.0.height": -3},
        {"images.0.file_name": "C:\\pictures\\a.png"},
        {"images.0.file_name": "http://host/x/a.png?key=1"},
        {"images.0.coco_url": "http://host/train2017/a.png"},
        {"annotations.0.bbox": [40, 60, -30, -40]},
        {"annotations.0.bbox": ["10", "20", "30", "40"]},
        {"annotations.0.bbox": [0.1, 0.25, 0.3, 0.5]},
        {"annotations.0.segmentation": [RING[:4]]},
        {"annotations.0.segmentation": "nonsense"},
        {"annotations.0.iscrowd": "0"},
    ]
    + [
        {"annotations.0.bbox": box, "annotations.0.segmentation": outline}
        for box in ([0, 0, 0, 0], [], "x", [500, 500, 1, 1])
        for outline in (
            RING, [RING], PAIRS, [PAIRS],
            RUNS, [RUNS], [RING, RING[:4]],
        )
    ],
)  # fmt: skip
def test_every_spelling_is_the_same_box(read: Callable[[Any], Read], changes: dict[str, Any]) -> None:
    value = content()
    for path, new in changes.items():
        change(value, path, new)
    found = read(value)
    assert found.boxes == {"a.png": [[10, 20, 40, 60]]}, found.said


def test_shares_are_all_of_a_files(read: Callable[[Any], Read]) -> None:
    value = content(bbox=[0, 0, 1, 1])
    value["annotations"].append(content(bbox=[0.5, 0.5, 0.25, 0.25])["annotations"][0])
    assert read(value).boxes["a.png"] == [[0, 0, 100, 80], [50, 40, 75, 60]]
    value["annotations"].append(content()["annotations"][0])
    found = read(value)
    assert found.boxes["a.png"] == [[10, 20, 40, 60]] and found.said == [coco.LIKE_FRACTIONS] * 2
    halves = [number / side for number, side in zip(RING, [100, 80] * 4, strict=True)]
    assert read(content(bbox=None, segmentation=[halves])).boxes["a.png"] == [[10, 20, 40, 60]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": [{"id": 1, "file_name": f"{n}.png"} for n in "ab"]},
            "image id 1: .* 'a.png' and 'b.png'",
        ),
        ({"images": [{"id": n, "file_name": f"{n}/a.png"} for n in (1, 2)]}, "a file for each name"),
        ({"categories": [{"id": n, "name": str(n)} for n in (1, 1.0)]}, "another id for another name"),
        ({"categories.0.id": True}, "categories 1, id: expected a number or a text, got true"),
        ({"annotations.0.image_id": None}, "annotations 1, image_id: .* got nothing"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(
    read: Callable[[Any], Read], changes: dict, message: str
) -> None:
    value = content()
    for path, new in changes.items():
        change(value, path, new)
    with pytest.raises(InputError, match=message):
        read(value)


def test_a_picture_listed_twice_is_one(read: Callable[[Any], Read]) -> None:
    value = content()
    value["images"].append({**value["images"][0], "file_name": ".\\a.png"})
    found = read(value)
    assert found.boxes == {"a.png": [[10, 20, 40, 60]]} and found.file.facts["pictures listed twice"] == 1


@pytest.mark.parametrize(
    ("size", "orientation", "box", "expected", "said"),
    [
        ((200, 100), 6, [20, 150, 40, 30], [20, 150, 60, 180], ALREADY),
        ((200, 100), 6, [20, 30, 40, 30], [40, 20, 70, 60], MOVED),
        ((400, 320), 1, [10, 20, 30, 40], [40, 80, 160, 240], SCALED),
        ((100, 200), 1, [10, 20, 30, 40], None, ANOTHER_SIZE),
    ],
)
def test_the_picture_is_the_truth(
    tmp_path: Path, size: tuple[int, int], orientation: int, box: list, expected: list | None, said: str
) -> None:
    """In recipes, and as evaluation lays a file on its pictures."""
    picture(tmp_path / "images/a.jpg", *size, orientation)
    value = content(bbox=box)
    claim = {"width": 100, "height": 80} if said == SCALED else {"width": 200, "height": 100}
    value["images"][0] |= {"file_name": "a.jpg", **claim}
    found = Read(value, tmp_path / "images", tmp_path / "s")
    assert found.said == [said] and found.boxes == ({"a.jpg": [expected]} if expected else {})
    folder = PictureFolder(tmp_path / "images")
    if expected is None:
        with pytest.raises(
            InputError, match=r"picture 'a.jpg': expected the size that the file claims, 200 x 100"
        ):
            on_pictures(value, folder, "a.json")
        return
    laid = on_pictures(value, folder, "a.json")
    x, y, w, h = laid["annotations"][0]["bbox"]
    assert [x, y, x + w, y + h] == expected
    if orientation == 6:
        assert (laid["images"][0]["width"], laid["images"][0]["height"]) == (100, 200)
    assert laid["annotations"][0]["area"] == 1200 * (16 if said == SCALED else 1)
    assert on_pictures(laid, folder, "a.json") is laid or orientation == 6


def test_ids_have_one_spelling() -> None:
    assert [id_key(value) for value in (7, 7.0, "7", "7.0", " 7 ", -7, "007", "a", "", 7.5, 2**70, "²")] == [
        "7", "7", "7", "7", "7", "-7", "007", "a", "", "7.5", str(2**70), "²",
    ]  # fmt: skip
    assert [id_key(value) for value in (None, True, float("nan"), [1], {})] == [None] * 5


@pytest.mark.parametrize(
    "value", [None, [], {}, [[]], [1, 2, "a"], [[1, 2], [3, 4]], [RING, RUNS], 7, [None], [{}]]
)
def test_what_is_no_outline(value: Any) -> None:
    found = outline_of(value)
    assert found is None or found.runs == [{}]


def test_evaluation_reads_the_same_spellings() -> None:
    """Scores do not depend on how ids, sizes and boxes of the truth are written."""
    predictions = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.9, "segmentation": RUNS}
    ]
    plain = content(segmentation=[RING])
    for changes in (
        {},
        {"images.0.id": 1.0, "annotations.0.image_id": "1"},
        {"annotations.0.bbox": [40, 60, -30, -40]},
        {"annotations.0.bbox": [0, 0, 0, 0]},
        {"annotations.0.bbox": [0.1, 0.25, 0.3, 0.5], "annotations.0.area": 0.15},
        {"annotations.0.segmentation": RING, "images.0.width": 100.0, "images.0.height": "80"},
        {"annotations.0.segmentation": [RUNS], "annotations.0.iscrowd": "0"},
    ):
        value = copy.deepcopy(plain)
        for path, new in changes.items():
            change(value, path, new)
        meant = as_meant(value, "a.json")
        assert meant["annotations"][0]["bbox"] == [10, 20, 30, 40], changes
        for kind in ("bbox", "segm"):
            scores = score_task("detection", value, predictions, None, iou_type=kind)
            assert scores["AP"] == pytest.approx(1), (changes, kind)
    assert as_meant(plain, "a.json")["annotations"][0] is plain["annotations"][0]

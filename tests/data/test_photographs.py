"""Photographs in COCO's layout: what is read, what is refused, and the split that training must not cross."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rgpt.data.photographs import class_counts, is_held_out, of_split, read_photographs
from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Polygon


def coco_folder(folder: Path, entries: list[dict[str, Any]], **other: Any) -> Path:
    """One picture of 100 x 80 pixels, number 7, with these annotations of dogs (1) and cats (2)."""
    (folder / "images").mkdir(parents=True)
    content = {
        "images": [{"id": 7, "file_name": "7.jpg", "width": 100, "height": 80}],
        "annotations": [{"id": i, "image_id": 7, "category_id": 1} | a for i, a in enumerate(entries)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
    (folder / "instances.json").write_text(json.dumps(content | other))
    return folder


def test_an_outline_is_used_where_there_is_one(tmp_path: Path) -> None:
    box = {"bbox": [10, 10, 20, 20]}
    ring = [10, 10, 30, 10, 30, 30]
    folder = coco_folder(
        tmp_path / "a",
        [
            box,
            box | {"segmentation": [ring]},
            box | {"segmentation": {"size": [80, 100], "counts": [0, 80, 7920]}, "iscrowd": 1},
            box | {"segmentation": [[1, 1, 2, 2]]},
            box | {"segmentation": [[900, 900, 950, 900, 950, 950]]},
            {"bbox": [-5, 70, 20, 30], "category_id": 2},
            {"bbox": [10, 10, 0, 5]},
            {"bbox": [200, 10, 9, 5]},
        ],
    )
    (photograph,) = read_photographs(folder)
    assert [type(item.region) for item in photograph.objects] == [Box, Polygon, RLE, Box, Box, Box]
    assert photograph.objects[5].box == Box(0, 70, 15, 80) and photograph.objects[5].name == "cat"
    assert photograph.dropped == ("box without extent", "box outside the picture")
    assert photograph.crowded == {"dog"} and len(photograph.singles) == 5
    assert class_counts([photograph]) == {"dog": 4, "cat": 1}
    assert photograph.path == folder / "images" / "7.jpg" and photograph.captions == ()


def test_captions_are_brought_to_their_pictures(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "a", [{"bbox": [10, 10, 20, 20]}])
    said = [{"image_id": 7, "caption": " A  dog.\n"}, {"image_id": 8, "caption": "Lost."}]
    (folder / "captions_x.json").write_text(
        json.dumps({"annotations": [*said, {"image_id": 7, "caption": " "}]})
    )
    assert read_photographs(folder)[0].captions == ("A dog.",)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"categories": []}, "annotation 0, category_id: expected one of the file's 0, got 1"),
        ({"images": []}, "image 7: annotation of a picture that is not in the file"),
        ({"annotations": [{"image_id": 7, "category_id": 1}]}, "an annotation id of image 7: .* got None"),
        ({"annotations": [{"image_id": 7, "category_id": 1, "id": 1, "bbox": [n, 1, 9, 9]} for n in (1, 2)]},
         "annotation id 1: expected every id once"),
        ({"images": [{"id": 7, "file_name": f"{n}.jpg", "width": 9, "height": 9} for n in "ab"]},
         "image id 7: expected one picture of this id, got 'a.jpg' and 'b.jpg'"),
        ({"images": [{"id": "x", "file_name": "a.jpg", "width": 9, "height": 9}], "annotations": []},
         "image id: expected a whole number, got 'x'"),
    ],
)  # fmt: skip
def test_another_layout_is_refused_in_one_sentence(tmp_path: Path, other: dict[str, Any], words: str) -> None:
    folder = coco_folder(tmp_path / "a", [{"bbox": [10, 10, 20, 20]}], **other)
    with pytest.raises(InputError, match=words):
        read_photographs(folder)


def test_a_folder_without_its_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a folder with instances\*.json and images/, got no such"):
        read_photographs(tmp_path / "nowhere")
    (tmp_path / "other.txt").touch()
    with pytest.raises(InputError, match=r"got other.txt"):
        read_photographs(tmp_path)
    folder = coco_folder(tmp_path / "a", [])
    with pytest.raises(InputError, match="expected one of train, held_out, all, got test"):
        read_photographs(folder, "test")
    (folder / "instances.json").write_text("[]")
    with pytest.raises(InputError, match="instead of an object"):
        read_photographs(folder)


def test_the_split_depends_on_the_number_alone() -> None:
    """Were the rule changed, a model trained before would be scored on pictures that it has seen."""
    held_out = [number for number in range(1000) if is_held_out(number)]
    assert held_out[:8] == [12, 28, 31, 33, 39, 40, 42, 45] and len(held_out) == 139


def test_the_held_out_photographs_are_fixed(shared_data: Path) -> None:
    photographs = read_photographs(shared_data / "coco_photos")
    held_out, train = of_split(photographs, "held_out"), of_split(photographs, "train")
    assert (len(photographs), len(held_out), len(train)) == (2676, 340, 2336)
    assert not {item.id for item in held_out} & {item.id for item in train}
    assert not {item.path.name for item in held_out} & {item.path.name for item in train}
    assert sum(bool(item.captions) for item in held_out) == 317 and all(item.singles for item in held_out)
    listed = ",".join(str(item.id) for item in held_out)
    assert hashlib.sha256(listed.encode()).hexdigest().startswith("c844129e8faa1834")
    kinds = Counter(type(item.region) for photograph in photographs for item in photograph.objects)
    assert kinds == {Box: 19_972, Polygon: 5_030}
    assert all(item.path.is_file() for item in photographs)

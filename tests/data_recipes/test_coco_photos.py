"""The recipe of photographs: its two files, the split, and the number of conversations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rgpt import prompts
from rgpt.data.photographs import is_held_out, read_photographs
from rgpt.regions import Box, Polygon

GUIDE = prompts.classification_guide("COCO-80")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty pictures: a big red bus with an outline, a dog, a tiny cat, a crowd; one has a crowd only."""
    images = tmp_path / "photos" / "images"
    images.mkdir(parents=True)
    names = {1: "person", 2: "bus", 3: "dog", 4: "cat"}
    boxes = {2: [10, 10, 60, 40], 3: [100, 60, 40, 30], 1: [0, 0, 160, 100], 4: [150, 5, 6, 6]}
    pictures, objects, captions = [], [], []
    for number in range(40):
        picture = Image.new("RGB", (160, 100), (60, 160, 60))
        picture.paste((200, 20, 20), (10, 10, 70, 50))
        picture.save(images / f"{number:012d}.jpg")
        pictures.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 160, "height": 100})
        for category, box in boxes.items():
            if number == 1 and category != 1:
                continue
            entry = {"id": len(objects), "image_id": number, "category_id": category, "bbox": box}
            if category == 2:
                entry["segmentation"] = [[10, 10, 70, 10, 70, 50, 10, 50]]
            objects.append(entry | {"iscrowd": int(category == 1)})
        captions.append({"image_id": number, "caption": "A dog is running behind a red bus"})
    categories = [{"id": key, "name": name} for key, name in names.items()]
    content = {"images": pictures, "annotations": objects, "categories": categories}
    (tmp_path / "photos" / "instances.json").write_text(json.dumps(content))
    (tmp_path / "photos" / "captions.json").write_text(json.dumps({"annotations": captions}))
    return tmp_path / "photos"


def arguments(folder: Path, *more: object) -> tuple[object, ...]:
    instances, captions = next(folder.glob("instances*")), next(folder.glob("captions*"))
    return ("--annotations", instances, "--captions", captions, "--images", folder / "images", *more)


def numbers_of(out) -> list[int]:
    return [int(sample.id.split("-")[1]) for sample in out.samples]


def test_training_never_sees_what_is_held_out(convert: Callable, folder: Path) -> None:
    train = convert("coco_photos", *arguments(folder))
    held_out = convert("coco_photos", *arguments(folder, "--split", "held_out"))
    both = convert("coco_photos", *arguments(folder, "--split", "all"))
    assert set(numbers_of(held_out)) and all(map(is_held_out, numbers_of(held_out)))
    assert not any(map(is_held_out, numbers_of(train)))
    assert sorted(numbers_of(train) + numbers_of(held_out)) == numbers_of(both)
    assert both.report["dropped"] == {"no usable object": 1} and both.report["regions_dropped"]["crowd"] == 40


def test_copies_are_different_conversations(convert: Callable, folder: Path) -> None:
    out = convert("coco_photos", *arguments(folder, "--copies", 6, "--seed", 4))
    assert len(out.samples) == 6 * out.report["records_kept"]
    assert len({sample.id for sample in out.samples}) == len(out.samples)
    asked = {(sample.image, sample.turns) for sample in out.samples}
    assert len(asked) > 0.9 * len(out.samples)
    assert {len(sample.turns) for sample in out.samples} >= {1, 2, 3, 4}
    assert {type(region) for sample in out.samples for region in sample.regions} == {Box, Polygon}
    turns = {turn for sample in out.samples for turn in sample.turns}
    answers = {turn.answer for turn in turns}
    assert answers >= {"A dog running behind a red bus.", "Red.", "bus", "A bus.", "Yes.", "No."}
    assert "A dog is running behind a red bus." in answers  # the picture's caption
    assert not any("people" in turn.answer for turn in turns)  # a crowd is never named


def test_the_same_files_over_any_number_of_processes(convert: Callable, folder: Path) -> None:
    outs = [convert("coco_photos", *arguments(folder, "--workers", n, "--seed", 2)) for n in (1, 2)]
    texts = [(out.folder / "samples.jsonl").read_text() for out in outs]
    assert texts[0] == texts[1]


def test_names_alone(convert: Callable, folder: Path) -> None:
    """Every region that can be told, once; of a picture's tiny cat and crowd nothing."""
    out = folder.parent / "names"
    from data_recipes import coco_photos, runner
    from rgpt.data.schema import read_jsonl

    given = [*map(str, arguments(folder, "--form", "names")), "--out", str(out)]
    assert runner.main(coco_photos.RECIPE, given) == 0
    samples = list(read_jsonl(out / "names.jsonl"))
    for sample in samples:
        assert sorted(turn.answer for turn in sample.turns) == ["bus", "dog"]
        assert [turn.question for turn in sample.turns] == ["What is <region1>?", "What is <region2>?"]
    report = json.loads((out / "report.json").read_text())
    assert report["regions_dropped"] == {"crowd": len(samples) + 1, "too small to tell": len(samples)}


def test_real_photographs(convert: Callable, shared_data: Path) -> None:
    photos = shared_data / "coco_photos"
    out = convert("coco_photos", *arguments(photos, "--limit", 300))
    known = {photograph.id: photograph for photograph in read_photographs(photos)}
    assert out.report["facts"] == {"photographs": 2336, "objects described by captions": 1497, "classes": 80}
    guided = 0
    for number, sample in zip(numbers_of(out), out.samples, strict=True):
        photograph = known[number]
        assert not is_held_out(number) and sample.image is not None
        assert sample.image.resolve() == photograph.path.resolve()
        by_region = {item.box: item.name for item in photograph.singles}
        by_region |= {item.region: item.name for item in photograph.singles}
        for turn in sample.turns:
            if GUIDE in turn.question:
                (digits,) = re.findall(r"<region(\d+)>", turn.question)
                assert by_region[sample.regions[int(digits) - 1]] == turn.answer
                guided += 1
    assert guided > 100
    assert {"names", "names_unguided", "picture_caption", "verify", "relation"} <= set(out.report["tasks"])

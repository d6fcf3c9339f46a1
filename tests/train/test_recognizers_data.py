"""What recognizers learn from: drawn scenes, records, changes of them, and batches."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rgpt.errors import InputError
from rgpt.recognizers.region_set import RegionSet
from rgpt.train.recognizers.data import Batch, Batches, open_data
from rgpt.train.recognizers.drawn import Scenes
from rgpt.train.recognizers.example import Example
from rgpt.train.recognizers.recipe import fits
from rgpt.train.recognizers.records import Detections, repeat_factors


def test_scenes_are_repeatable_and_far_from_evaluation() -> None:
    source = Scenes(count=10)
    one, again = source[3], source[3]
    assert one.image.tobytes() == again.image.tobytes() and one.names == again.names
    assert all(name in source.names for own in one.names for name in own)
    assert source.first + len(Scenes()) < 3_000_000_000
    crop = Scenes(crop=True)[3]
    assert len(crop.regions) == 1 and crop.caption in source.names


def test_scales_are_drawn_for_each_scene() -> None:
    some = [Scenes(scale=[1.5, 4.0])[i].image.width for i in range(6)]
    assert len(set(some)) > 3 and [Scenes(scale=[2, 2])[0].image.size] == [Scenes(scale=2.0)[0].image.size]
    for wrong in ([3, 1], [1], 0):
        with pytest.raises(InputError, match="scale of scenes"):
            Scenes(scale=wrong)


def test_views_are_squares_around_the_object() -> None:
    """Whole objects, anywhere in a square of 1 to 1.5 times their longer side, up to the picture's border."""
    source = Scenes(crop=True, view=[1.0, 1.5], caption="mixed", scale=3.0)
    examples = [source[i] for i in range(40)]
    for example in examples:
        box = example.regions.as_boxes()[0]
        width, height = example.image.size
        longer = float(max(box[2] - box[0], box[3] - box[1]))
        assert min(box) >= 0 and box[2] <= width and box[3] <= height
        assert longer <= max(width, height) <= 1.5 * longer + 2
        assert example.caption in example.names[0]
    assert len({example.names[0].index(example.caption) for example in examples}) == 3
    assert sum(example.image.width == example.image.height for example in examples) > 10


@pytest.mark.parametrize(
    "settings", [{"view": [0.5, 1.0]}, {"view": [1.2]}, {"view": [1.5, 1.0]}, {"caption": "long"}]
)
def test_wrong_views_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="of scenes"):
        Scenes(crop=True, **settings)


def test_what_is_true_is_no_negative() -> None:
    """A caption fits every picture that holds what it says, not only its own."""
    blank, none = Scenes()[0].image, RegionSet((), 8, 8)
    red, blue = (("ring", "red ring"),), (("ring", "blue ring"),)
    examples = (
        Example(blank, none, red, "red ring"),
        Example(blank, none, blue, "ring"),
        Example(blank, none, (), "a street"),
        Example(blank, none, (), "a street"),
    )
    expected = [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert fits(Batch(examples, "made", (), 0)).int().tolist() == expected


def test_flipping_moves_regions_with_the_picture() -> None:
    example = Scenes(count=3, regions="mixed")[1]
    there = example.flipped()
    assert there.image.tobytes() != example.image.tobytes() and there.names == example.names
    assert there.flipped().image.tobytes() == example.image.tobytes()
    boxes, moved = example.regions.as_boxes(), there.regions.as_boxes()
    torch.testing.assert_close(moved[:, 0], example.image.width - boxes[:, 2])


def write_records(folder: Path, rows: list[dict[str, Any]]) -> Path:
    Image.new("RGB", (20, 10), "red").save(folder / "1.png")
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def record(**changes: Any) -> dict[str, Any]:
    row = {
        "id": "1",
        "image": "1.png",
        "width": 20,
        "height": 10,
        "regions": [{"box": [1, 1, 9, 9]}],
        "names": ["Dog"],
    }
    return {**row, **changes}


def test_detection_records(tmp_path: Path) -> None:
    path = write_records(tmp_path, [record(), record(id="2", names=["Cat"])])
    source = open_data({"kind": "detections", "path": str(path)})
    assert source.names == ["Dog", "Cat"] and len(source) == 2
    assert source[1].names == (("Cat",),) and source[1].image.size == (20, 10)


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 2.0])
def test_jitter_moves_picture_and_regions_together(factor: float) -> None:
    """A box that is still whole holds what it held before: its mean colour has hardly changed."""
    example, compared = Scenes(count=9, scale=2.0)[6], 0
    before = dict(zip(example.names, example.regions.regions, strict=True))
    for seed in range(5):  # a part of a larger picture need not hold a whole object
        there = example.jittered(factor, factor, random.Random(seed))
        height, width = there.image.height, there.image.width
        assert there.image.size == example.image.size and there.regions.height == height
        assert len(there.names) == len(there.regions) and set(there.names) <= set(before)
        assert factor > 1 or there.names == example.names
        if factor < 1:
            filled = np.asarray(there.image).any((1, 2))
            assert filled.sum() == pytest.approx(height * factor, abs=1) and filled[0]
        for name, box in zip(there.names, there.regions.regions, strict=True):
            own = box.bounds(height, width)
            if own.area < 0.95 * factor**2 * before[name].area:
                continue
            means = [
                np.asarray(image.crop(tuple(round(v) for v in b.xyxy))).mean((0, 1))
                for image, b in ((there.image, own), (example.image, before[name]))
            ]
            assert np.abs(means[0] - means[1]).max() < 20
            compared += 1
    assert compared


def test_jitter_is_drawn_anew_in_every_epoch(tmp_path: Path) -> None:
    settings = {"kind": "detections", "path": str(write_records(tmp_path, [record()]))}
    batches = Batches([open_data({**settings, "jitter": [0.5, 1.5]})], 1, 0)
    boxes = [batches(step).examples[0].regions.as_boxes() for step in (0, 1, 0)]
    assert not torch.equal(boxes[0], boxes[1]) and torch.equal(boxes[0], boxes[2])
    for wrong in ([1.0], [2.0, 1.0], [0.0, 1.0]):
        with pytest.raises(InputError, match="least and most"):
            open_data({**settings, "jitter": wrong})


def test_pictures_of_rare_names_come_oftener(tmp_path: Path) -> None:
    names = [["cat"]] * 98 + [["cat", "newt"], []]
    factors = repeat_factors(names, 0.04)
    assert factors[:98] == [1.0] * 98 and factors[99] == 1.0
    assert factors[98] == pytest.approx(2.0)  # √(0.04 / 0.01), of its rarest name
    rows = [record(names=[own[-1]]) for own in (["cat"],) * 99 + (["newt"],)]
    source = open_data({"kind": "detections", "path": str(write_records(tmp_path, rows)), "repeat": 0.04})
    said = [source[i].names[0][0] for i in range(len(source))]
    assert said.count("newt") == 2 and said.count("cat") == 99
    settings = {"kind": "detections", "path": source.lines.path, "names": ["cat"], "repeat": 0.04}  # type: ignore[attr-defined]
    assert len(open_data(settings)) == 100  # a name that is no ground truth makes nothing rarer
    with pytest.raises(InputError, match="repeat"):
        open_data({**settings, "repeat": -0.1})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (record(width=21), "record 1: InputError: 20 x 10 pixels"),
        (record(names=[]), "do not fit the record"),
        (record(image="none.png"), "record 1"),
        (record(regions=[{"box": [30, 0, 40, 9]}]), "record 1.*region 1"),
        ({"id": "1"}, "KeyError"),
    ],
)
def test_wrong_records_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Detections(str(write_records(tmp_path, [row])))[0]


def test_batches_hold_one_source_and_depend_on_the_step_alone() -> None:
    sources = [Scenes(name, count=7) for name in "abc"]
    batches = Batches(sources, 2, seed=0)
    counts = {name: 0 for name in "abc"}
    for step in range(60):
        counts[batches(step).source] += 1
    assert min(counts.values()) >= 10  # 1 : 1 : 1
    assert batches(4).examples[0].image.tobytes() == Batches(sources, 2, 0)(4).examples[0].image.tobytes()
    one = Batches(sources[:1], 1, 0)
    seen = {one(step, rank, 2).examples[0].image.tobytes() for step in range(4) for rank in range(2)}
    assert len(seen) == 7  # two processes share an epoch of seven, and begin the next

"""Visual Genome: w/h and width/height, clipping, trailing blanks, splits, both names of a picture."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from data_recipes import runner, visual_genome
from rgpt.data.schema import read_jsonl
from rgpt.errors import InputError


@pytest.fixture
def folder(shared_data: Path) -> Path:
    return shared_data / "visual_genome"


def arguments(folder: Path, task: str, annotations: str) -> tuple[object, ...]:
    pictures = folder.parent / "ferret_bench"
    image_data = folder / "ferret_image_data.json"
    return (
        "--task", task, "--annotations", folder / annotations, "--image-data", image_data,
        "--images", pictures,
    )  # fmt: skip


def test_region_descriptions(convert, folder: Path) -> None:
    out = convert("visual_genome", *arguments(folder, "regions", "ferret_region_descriptions.json"))
    raw = json.loads((folder / "ferret_region_descriptions.json").read_text())
    regions = [region for entry in raw for region in entry["regions"]]
    assert out.report["regions_read"] == len(regions) == 90 == out.report["regions"]
    expected = Counter(
        ((r["x"], r["y"], r["x"] + r["width"], r["y"] + r["height"]), " ".join(r["phrase"].split()))
        for r in regions
    )
    found = Counter()
    for sample in out.samples:
        for question, answer in sample.turns:
            number = int(question.partition("<region")[2].partition(">")[0])
            found[sample.regions[number - 1].xyxy, answer] += 1
        assert sample.image.is_file()
    assert found == expected


def test_objects_write_w_and_h(convert, folder: Path) -> None:
    out = convert("visual_genome", *arguments(folder, "objects", "ferret_objects.json"))
    raw = json.loads((folder / "ferret_objects.json").read_text())
    objects = [item for entry in raw for item in entry["objects"]]
    assert out.report["regions_read"] == len(objects) == 457 == out.report["turns"]
    assert Counter(t.answer for s in out.samples for t in s.turns) == Counter(o["names"][0] for o in objects)
    widths = Counter(round(r.x2 - r.x1) for s in out.samples for r in s.regions)
    assert (widths - Counter(o["w"] for o in objects)).total() <= out.report["repaired"][
        "box cut at the border"
    ]


def test_the_real_first_picture(convert, folder: Path, tmp_path: Path) -> None:
    out = convert(
        "visual_genome", "--annotations", folder / "region_descriptions.head.json",
        "--image-data", folder / "image_data.head.json", "--images", "VG",
    )  # fmt: skip
    (sample,) = out.samples
    assert sample.image.as_posix().endswith("VG/VG_100K_2/1.jpg")  # the folder is in the address only
    assert {turn.answer for turn in sample.turns} == {
        "the clock is green in colour", "shade is along the street", "man is wearing sneakers",
        "bicycles are seen in the bckground",
    }  # fmt: skip
    assert (421, 57, 503, 196) in [region.xyxy for region in sample.regions]


def test_the_wrong_task_is_named(convert, folder: Path, tmp_path: Path, capsys) -> None:
    options = [*map(str, arguments(folder, "objects", "ferret_region_descriptions.json"))]
    assert runner.main(visual_genome.RECIPE, [*options, "--out", str(tmp_path / "o")]) == 2
    assert "picture is not in image_data" in capsys.readouterr().err
    options = [*map(str, arguments(folder, "relationships", "ferret_objects.json"))]
    assert runner.main(visual_genome.RECIPE, [*options, "--out", str(tmp_path / "o")]) == 2
    assert "is --task right?" in capsys.readouterr().err


def small(tmp_path: Path, entries: list[dict], coco_id: int | None = None) -> tuple[object, ...]:
    pictures = [
        {"width": 100, "height": 50, "url": f"https://x/VG_100K/{n}.jpg", "image_id": n, "coco_id": coco_id}
        for n in (1, 2, 3)
    ]
    (tmp_path / "image_data.json").write_text(json.dumps(pictures))
    (tmp_path / "file.json").write_text(json.dumps(entries))
    return (
        "--annotations", tmp_path / "file.json", "--image-data", tmp_path / "image_data.json",
        "--images", tmp_path,
    )  # fmt: skip


def region(phrase: str, x: int = 1, y: int = 2, width: int = 10, height: int = 10) -> dict:
    return {"region_id": 1, "image_id": 1, "phrase": phrase, "x": x, "y": y, "width": width, "height": height}


def test_clipping_and_odd_phrases(convert, tmp_path: Path) -> None:
    regions = [
        region(" A Dog. "), region("A Dog."), region("wide", 90, 0, 50, 50), region("", 3), region(" \n"),
        region("says <region4>"), region("outside", 100), region("flat", 5, 5, 0, 5), {"phrase": "no box"}, 7,
    ]  # fmt: skip
    out = convert(
        "visual_genome", *small(tmp_path, [{"id": 1, "regions": regions}, {"id": 9, "regions": []}])
    )
    assert out.report["regions_read"] == 10
    assert out.report["regions_dropped"] == {
        "no words": 3, "words that would act as a mark": 1, "box outside the picture": 1,
        "box without extent": 1, "box is not four numbers": 1, "repeated in the picture": 1,
    }  # fmt: skip
    assert out.report["repaired"] == {"box cut at the border": 1}
    assert out.report["dropped"] == {"picture is not in image_data": 1}
    (sample,) = out.samples
    said = {turn.answer: turn.question for turn in sample.turns}
    number = int(said["wide"].partition("<region")[2].partition(">")[0])
    assert sample.regions[number - 1].xyxy == (90, 0, 100, 50) and "A Dog." in said


def test_relationships_of_both_releases(convert, tmp_path: Path) -> None:
    ends = (
        {"object_id": 1, "x": 0, "y": 0, "w": 10, "h": 10, "name": "Man"},
        {"object_id": 2, "x": 20, "y": 0, "w": 10, "h": 10, "names": ["horse", "pony"]},
    )
    told = [
        {"predicate": "riding", "subject": ends[0], "object": ends[1], "synsets": []},
        {"predicate": "UNDER", "subject": ends[1], "object": ends[0]},
        {"predicate": "UNDER", "subject": ends[1], "object": ends[0]},
        {"predicate": "", "subject": ends[1], "object": ends[0]},
        {"predicate": "on", "subject": {**ends[1], "x": 500}, "object": {**ends[0], "w": 0}},
        {"predicate": "alone", "subject": ends[1]},
    ]
    entries = [{"image_id": 1, "relationships": told}]
    out = convert("visual_genome", "--task", "relationships", *small(tmp_path, entries))
    (sample,) = out.samples
    assert out.report["tasks"] == {"relationship": 2} and len(sample.regions) == 2
    reasons = ("repeated in the picture", "no words", "box outside the picture", "entry without its keys")
    assert out.report["regions_dropped"] == dict.fromkeys(reasons, 1)
    man = 1 + [region.x1 for region in sample.regions].index(0)
    for question, answer in sample.turns:
        first = int(question.partition("<region")[2].partition(">")[0])
        assert answer == ("Man riding horse." if first == man else "Horse under Man.")


def test_splits_keep_one_part(convert, tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(json.dumps({"train": [1], "test": [2, 3]}))
    entries = [{"id": n, "regions": [region(f"of {n}")]} for n in (1, 2, 3)]
    split = ("--splits", tmp_path / "splits.json", "--split")
    out = convert("visual_genome", *small(tmp_path, entries), *split, "test")
    assert {s.image.stem for s in out.samples} == {"2", "3"}
    assert out.report["dropped"] == {"picture of another split": 1}
    for wrong in ((*split, "tset"), split[:2]):
        options = runner.build_parser(visual_genome.RECIPE).parse_args(
            [*map(str, (*small(tmp_path, entries), *wrong)), "--out", str(tmp_path / "out")]
        )
        with pytest.raises(InputError, match="split"):
            runner.run(visual_genome.RECIPE, options)


@pytest.mark.parametrize("key", ["coco:77", "vg:1", "1.jpg", "VG_100K/1.jpg", "000000000077.jpg"])
def test_a_picture_is_excluded_by_any_of_its_names(convert, tmp_path: Path, key: str) -> None:
    (tmp_path / "eval.txt").write_text(key + "\n")
    entries = [{"id": n, "regions": [region(f"of {n}")]} for n in (1, 2)]
    pictures = small(tmp_path, entries)
    data = json.loads((tmp_path / "image_data.json").read_text())
    data[0]["coco_id"] = 77
    (tmp_path / "image_data.json").write_text(json.dumps(data))
    out = convert("visual_genome", *pictures, "--exclude-images", tmp_path / "eval.txt")
    assert [s.image.stem for s in out.samples] == ["2"]
    assert out.report["dropped"] == {"in --exclude-images": 1}


def test_a_long_picture_is_several_conversations(convert, tmp_path: Path) -> None:
    regions = [region(f"phrase {n}", n) for n in range(40)]
    out = convert("visual_genome", *small(tmp_path, [{"id": 1, "regions": regions}]), "--turns", "16")
    assert [len(s.turns) for s in out.samples] == [13, 13, 14]
    assert len({s.id for s in out.samples}) == 3
    assert {t.answer for s in out.samples for t in s.turns} == {r["phrase"] for r in regions}
    assert list(read_jsonl(out.folder / "samples.jsonl")) == out.samples

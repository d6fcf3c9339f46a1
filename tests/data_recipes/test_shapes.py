"""The shapes recipe: the same files from any number of workers, true masks, a report that adds up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_recipes import output, shapes
from data_recipes.output import Report, Reservoir, contact_sheet, new_folder
from rgpt.data.scenes import draw_scene
from rgpt.data.schema import Sample, read_jsonl
from rgpt.errors import InputError
from rgpt.regions import RLE, Box, iou

ROOT = Path(__file__).parents[2]
SEED, COUNT = 6_000_000, 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "one"
    assert shapes.main(["--seed", str(SEED), "--count", str(COUNT), "--out", str(out)]) == 0
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_number_of_workers_changes_nothing(made: Path, tmp_path: Path) -> None:
    shapes.build(SEED, COUNT, tmp_path / "two", workers=2)
    one, two = files_of(made), files_of(tmp_path / "two")
    reports = [json.loads(files.pop("report.json")) for files in (one, two)]
    assert all(report.pop("wall_seconds") > 0 for report in reports)
    assert one == two and reports[0] == reports[1]
    assert set(one) == {
        "samples.jsonl",
        "detections.jsonl",
        "contact_sheet.png",
        *(f"pictures/{SEED + i:09d}.png" for i in range(COUNT)),
    }


def test_the_report_counts_what_is_in_the_file(made: Path) -> None:
    report = json.loads((made / "report.json").read_text())
    samples = list(read_jsonl(made / "samples.jsonl"))
    assert report["read"] == COUNT == report["kept"] + sum(report["dropped"].values())
    assert report["kept"] == len(samples)
    assert report["regions"] == sum(len(s.regions) for s in samples)
    assert report["turns"] == sum(len(s.turns) for s in samples) == sum(report["tasks"].values())
    assert report["words"] == sum(len(f"{q} {a}".split()) for s in samples for q, a in s.turns)
    assert report["options"] == {"seed": SEED, "count": COUNT, "regions": "mixed"}


def test_masks_and_boxes_in_the_file_are_the_drawn_ones(made: Path) -> None:
    kinds = set()
    for i, sample in enumerate(read_jsonl(made / "samples.jsonl")):
        scene = draw_scene(SEED + i)
        assert sample.image is not None
        assert np.array_equal(np.asarray(Image.open(sample.image)), np.asarray(scene.image))
        left = list(scene.objects)
        assert len(sample.regions) == len(left)
        for region in sample.regions:
            kinds.add(type(region))
            if isinstance(region, RLE):
                mask = region.to_mask(*left[0].mask.shape)
                (found,) = [o for o in left if np.array_equal(o.mask, mask)]
            else:
                (found,) = [o for o in left if o.box == region]
            left.remove(found)
    assert kinds == {Box, RLE}


def test_answers_name_the_object_under_the_region(made: Path) -> None:
    """The whole chain, read back from the files: region -> place in the picture -> shape in the answer."""
    checked = 0
    for i, sample in enumerate(read_jsonl(made / "samples.jsonl")):
        scene = draw_scene(SEED + i)
        for question, answer in sample.turns:
            if "shape category names" in question:
                number = int(question.partition("<region")[2].partition(">")[0])
                region = sample.regions[number - 1]
                best = max(scene.objects, key=lambda o: iou(region.bounds(*o.mask.shape), o.box))
                assert answer == best.shape
                checked += 1
    assert checked > 5


@pytest.mark.parametrize(("kind", "expected"), [("mask", {RLE}), ("box", {Box})])
def test_the_kind_of_regions_changes_nothing_else(
    made: Path, tmp_path: Path, kind: str, expected: set[type]
) -> None:
    shapes.build(SEED, 5, tmp_path / kind, regions=kind)
    for sample, mixed in zip(
        read_jsonl(tmp_path / kind / "samples.jsonl"), read_jsonl(made / "samples.jsonl"), strict=False
    ):
        assert {type(region) for region in sample.regions} == expected
        assert (sample.id, sample.turns) == (mixed.id, mixed.turns)


def test_a_part_of_the_seeds_gives_a_part_of_the_samples(made: Path, tmp_path: Path) -> None:
    shapes.build(SEED + 10, 3, tmp_path / "part")
    lines = (made / "samples.jsonl").read_text().splitlines()
    assert (tmp_path / "part" / "samples.jsonl").read_text().splitlines() == lines[10:13]


def test_the_contact_sheet_shows_24(made: Path) -> None:
    with Image.open(made / "contact_sheet.png") as sheet:
        assert sheet.width > 6 * output.CELL and sheet.height > 4 * output.CELL
        cells = np.asarray(sheet.convert("L").resize((6, 4), Image.Resampling.BOX))
    assert (cells < 250).all()  # no cell is empty


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_contact_sheet_of_fewer(made: Path, count: int) -> None:
    samples = list(read_jsonl(made / "samples.jsonl"))[:count]
    sheet = contact_sheet([*samples, Sample("text only", None, (), (("Q" * 400, "A"),))])
    assert sheet.width > output.CELL


def test_the_sample_on_the_sheet_is_a_fair_choice() -> None:
    """Every place of the stream is kept about equally often."""
    kept = np.zeros(60)
    for seed in range(400):
        reservoir = Reservoir(seed, size=12)
        for i in range(60):
            reservoir.offer(Sample(str(i), None, (), (("q", "a"),)))
        for sample in reservoir.samples:
            kept[int(sample.id)] += 1
    assert kept.sum() == 400 * 12 and kept.min() > 40 and kept.max() < 130


def test_a_scene_with_one_object_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sometimes_lonely(seed: int):
        return draw_scene(seed, 1.5, 1, 1) if seed % 2 else draw_scene(seed, 1.5)

    monkeypatch.setattr(shapes, "draw_scene", sometimes_lonely)
    report = shapes.build(0, 6, tmp_path / "out")
    assert (report.read, report.kept, dict(report.dropped)) == (6, 3, {"fewer than two objects": 3})
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_an_interrupted_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def breaking(seed: int):
        if seed == 3:
            raise error
        return draw_scene(seed, 1.5)

    monkeypatch.setattr(shapes, "draw_scene", breaking)
    with pytest.raises((KeyboardInterrupt, OSError)):
        shapes.build(0, 6, tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
def test_a_terminated_run_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data_recipes.shapes", "--seed", "0", "--count", "100000"]
    run = subprocess.Popen([*command, "--out", str(tmp_path / "out")], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*.partial/pictures/*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_is_taken_and_a_full_one_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--seed", "1", "--count", "1", "--out", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    assert shapes.main(arguments) == 0
    before = files_of(tmp_path / "out")
    capsys.readouterr()
    assert shapes.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "expected a new or an empty folder" in said
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "--seed: expected at least 0, got -1"),
        ({"count": 0}, "--count: expected at least 1, got 0"),
        ({"workers": 0}, "--workers: expected at least 1, got 0"),
        ({"regions": "blob"}, "--regions: expected one of mask, box, mixed, got 'blob'"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        shapes.build(**{"seed": 0, "count": 1, "out": tmp_path / "out", **changes})
    assert os.listdir(tmp_path) == []


def test_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="got a file"), new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_a_report_adds_up() -> None:
    report = Report("any", {})
    report.drop("no picture")
    report.drop("no picture")
    report.keep(Sample("a", None, (), (("one two", "three"),)))
    assert report.to_json() | {"wall_seconds": 0} == {
        "recipe": "any", "options": {}, "read": 3, "records_kept": 1, "dropped": {"no picture": 2}, "kept": 1,
        "regions_read": 0, "regions_dropped": {}, "repaired": {}, "pictures_missing": 0,
        "regions": 0, "turns": 1, "words": 3, "tasks": {}, "facts": {}, "wall_seconds": 0,
    }  # fmt: skip

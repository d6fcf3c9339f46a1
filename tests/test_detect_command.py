"""`rgpt detect` end to end with tiny detectors, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from rgpt import cli
from rgpt.recognizers import save_recognizer
from rgpt.recognizers.rovit_detector import DetectorConfig, RoVitDetector, save_detector
from rgpt.regions import region_from_json
from tests.recognizers.tiny_recognizers import make, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detect")
    torch.manual_seed(0)
    config = DetectorConfig(channels=16, fully_connected=16, post_nms=20)
    save_detector(RoVitDetector(make("rovit"), config), path / "detector")  # type: ignore[arg-type]
    save_recognizer(make("regionspot"), path / "spot")
    save_recognizer(make("clip-crop"), path / "clip")
    picture().save(path / "scene.png")
    rows = [
        {"image_id": 7, "bbox": [3, 4, 27, 24], "score": 0.9},
        {"image_id": 7, "bbox": [30, 2, 15, 30], "score": 0.7},
        {"image_id": 8, "bbox": [0, 0, 5, 5], "score": 1.0},
    ]
    (path / "found.json").write_text(json.dumps(rows))
    return path


def detect(folder: Path, *more: str, model: str = "detector") -> int:
    words = ["detect", "--image", str(folder / "scene.png"), "--model", str(folder / model)]
    return cli.main([*words, *more])


def proposals(folder: Path) -> list[str]:
    return ["--proposals", f"json:{folder / 'found.json'}", "--image-id", "7"]


def test_a_detector_alone(folder: Path, tmp_path: Path, capsys) -> None:
    drawn = tmp_path / "drawn.png"
    words = ["--vocabulary", "red car,tree,red_car", "--floor", "0", "--top", "3", "--draw", str(drawn)]
    assert detect(folder, *words, "--base", "tree") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "duplicate names in the vocabulary, counted once: 1" and len(said) == 4
    assert [line.split()[0] for line in said[1:]] == ["1", "2", "3"]
    scores = [float(line.split()[1]) for line in said[1:]]
    assert scores == sorted(scores, reverse=True)
    image = Image.open(drawn)
    assert image.height == 40 and image.width > 100  # names are beside the picture
    assert image.crop((0, 0, 50, 40)).tobytes() != Image.open(folder / "scene.png").convert("RGB").tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["drawn.png"]


def test_json_and_masks(folder: Path, capsys) -> None:
    words = ["--vocabulary", "coco80", "--floor", "0", "--json"]
    assert detect(folder, *words, *proposals(folder), "--masks", model="spot") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["vocabulary"] == 80 and report["merged_names"] == 0
    rows = report["detections"]
    assert 2 <= len(rows) <= 100
    for row in rows:
        assert row["box"] in ([3, 4, 30, 28], [30, 2, 45, 32]) and 0 < row["score"] <= 1
        if "mask" in row:
            assert region_from_json({"mask": row["mask"]}).to_mask(40, 50).any()
    assert any("mask" in row for row in rows)
    assert detect(folder, *words, *proposals(folder), model="spot") == 0
    assert all(
        set(row) == {"box", "name", "score"} for row in json.loads(capsys.readouterr().out)["detections"]
    )


def test_nothing_found_is_said(folder: Path, tmp_path: Path, capsys) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    words = ["--vocabulary", "a,b", "--proposals", f"json:{empty}"]
    drawn = tmp_path / "drawn.png"
    assert detect(folder, *words, "--draw", str(drawn), model="clip") == 0
    assert capsys.readouterr().out == "nothing found above 0.05\n"
    assert Image.open(drawn).size == (50, 40)
    assert detect(folder, *words, "--json", model="clip") == 0
    assert json.loads(capsys.readouterr().out)["detections"] == []


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("detector", ["--vocabulary", "a", "--proposals", "sam:x"], "proposes by itself"),
        ("spot", ["--vocabulary", "a"], "expected a source of regions, got none"),
        ("spot", ["--vocabulary", "a", "--proposals", "gt"], "a source that finds regions, got gt"),
        ("spot", ["--vocabulary", "a", "--proposals", "magic:x"], "proposals 'magic:x'"),
        ("nowhere", ["--vocabulary", "a"], "nowhere': expected a folder, or one of rovit-detector"),
        ("detector", ["--vocabulary", " , "], "vocabulary: expected at least one name"),
        ("detector", ["--vocabulary", "names.txt"], "vocabulary 'names.txt': expected an existing file"),
        (
            "detector",
            ["--vocabulary", "dog,cat", "--base", "dgo"],
            "base names: expected some of the 2 names",
        ),
        ("detector", ["--vocabulary", "a", "--floor", "1"], "--floor: expected 0 or more, below 1"),
        ("detector", ["--vocabulary", "a", "--floor", "nan"], "--floor: expected 0 or more, below 1"),
        ("detector", ["--vocabulary", "a", "--top", "0"], "--top: expected 1 or more"),
        ("detector", ["--vocabulary", "a", "--draw", "nowhere/x.png"], "--draw: expected"),
        ("detector", ["--vocabulary", "a", "--device", "abacus"], "device 'abacus'"),
        (
            "clip",
            ["--vocabulary", "a", "--masks", "--proposals", "json:FOUND", "--image-id", "8"],
            "got a box",
        ),
    ],
)
def test_mistakes_are_one_line(folder: Path, model: str, more: list[str], message: str, capsys) -> None:
    more = [word.replace("FOUND", str(folder / "found.json")) for word in more]
    assert detect(folder, *more, model=model) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1

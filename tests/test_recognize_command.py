"""`rgpt recognize` end to end with a tiny recognizer, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from rgpt import cli
from rgpt.recognizers import save_recognizer
from tests.recognizers.tiny_recognizers import make, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recognizer")
    save_recognizer(make("regionspot"), path / "spot")
    save_recognizer(make("clip-crop"), path / "clip")
    picture().save(path / "scene.png")
    return path


def recognize(folder: Path, *more: str, model: str = "spot") -> int:
    words = ["recognize", "--image", str(folder / "scene.png"), "--model", str(folder / model)]
    return cli.main([*words, *more])


def test_two_regions_named(folder: Path, tmp_path: Path, capsys) -> None:
    regions = ["--region", "box:3,4,30,28", "--region", "point:20,20"]
    drawn = tmp_path / "drawn.png"
    code = recognize(
        folder, *regions, "--vocabulary", "red car,tree,red_car,dog", "--top", "2", "--draw", str(drawn)
    )
    said = capsys.readouterr().out.splitlines()
    assert code == 0 and said[0] == "duplicate names in the vocabulary, counted once: 1"
    assert [line.split("  ")[0] for line in said[1:]] == ["<region1>", "<region2>"]
    assert len(said[1].split("  ")) == 3
    picture_and_names = Image.open(drawn)
    assert picture_and_names.height == 40 and picture_and_names.width > 100
    corner = (45, 35, 50, 40)  # outside of both regions: the picture as it was
    assert picture_and_names.crop(corner).tobytes() == Image.open(folder / "scene.png").crop(corner).tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["drawn.png"]


def test_json_and_coco(folder: Path, capsys) -> None:
    assert recognize(folder, "--region", "box:3,4,30,28", "--vocabulary", "coco80", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["vocabulary"] == 80 and report["rule"] == "softmax"
    [row] = report["regions"]
    assert row["box"] == [3, 4, 30, 28] and len(row["names"]) == 5
    scores = [entry["score"] for entry in row["names"]]
    assert scores == sorted(scores, reverse=True)


def test_a_baseline_by_name(folder: Path, capsys) -> None:
    clip = folder / "clip"
    words = [
        "recognize",
        "--image",
        str(folder / "scene.png"),
        "--region",
        "box:3,4,30,28",
        "--vocabulary",
        "a,b",
    ]
    for mode in ("clip-crop", "clip-masked-crop", "clip-pooled"):
        assert cli.main([*words, "--model", f"{mode}@{clip}"]) == 0
    assert capsys.readouterr().out.count("<region1>") == 3


def test_a_turned_picture_with_a_name_of_any_script(folder: Path, tmp_path: Path, capsys) -> None:
    """Regions are in pixels of the upright picture: 40 wide and 50 high here, though stored 50 x 40."""
    image, exif = picture(), Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "été 写真.png"
    image.save(path, exif=exif)
    words = ["recognize", "--image", str(path), "--model", str(folder / "clip"), "--json"]
    words += ["--vocabulary", "写真,café,naïve dog"]
    assert cli.main([*words, "--region", "box:30,40,40,50", "--region", "polygon:0,0,40,0,40,50,0,50"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["box"] for row in report["regions"]] == [[30, 40, 40, 50], [0, 0, 40, 50]]
    assert {entry["name"] for entry in report["regions"][0]["names"]} == {"写真", "café", "naïve dog"}
    assert cli.main([*words, "--region", "box:41,0,50,40"]) == 2
    assert "40 x 50" in capsys.readouterr().err


def test_proposals_from_a_file(folder: Path, tmp_path: Path, capsys) -> None:
    rows = [
        {"image_id": 7, "bbox": [1, 2, 10, 12], "score": 0.2},
        {"image_id": 7, "bbox": [5, 5, 20, 30], "score": 0.9},
        {"image_id": 8, "bbox": [0, 0, 5, 5], "score": 1.0},
    ]
    file = tmp_path / "found.json"
    file.write_text(json.dumps(rows))
    words = ["--proposals", f"json:{file}", "--image-id", "7", "--vocabulary", "a,b", "--json"]
    assert recognize(folder, *words) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["proposal_score"] for row in report["regions"]] == [0.9, 0.2]
    assert report["regions"][0]["box"] == [5, 5, 25, 35] and report["source"] == "found.json"
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    assert recognize(folder, "--proposals", f"json:{empty}", "--vocabulary", "a,b") == 0
    assert capsys.readouterr().out == "no regions\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--vocabulary", "a"], "expected either --region or --proposals, got neither"),
        (["--region", "box:0,0,5,5", "--vocabulary", " , "], "vocabulary: expected at least one name"),
        (
            ["--region", "box:0,0,5,5", "--vocabulary", "names.txt"],
            "vocabulary 'names.txt': expected an existing file",
        ),
        (["--region", "box:0,0,5,5", "--vocabulary", "runs/names"], "expected an existing file"),
        (["--region", "box:0,0,5,5", "--vocabulary", "names.csv"], "expected an existing file"),
        (["--region", "box:90,90,99,99", "--vocabulary", "a"], "region 1: box"),
        (["--region", "box:0,0,5,5", "--vocabulary", "a", "--top", "0"], "--top: expected 1 or more"),
        (["--region", "box:0,0,5,5", "--vocabulary", "a", "--draw", "nowhere/x.png"], "--draw: expected"),
        (["--proposals", "magic:x", "--vocabulary", "a"], "proposals 'magic:x'"),
        (["--proposals", "gt", "--vocabulary", "a"], "--proposals: expected a source that finds regions"),
        (["--region", "box:0,0,5,5", "--vocabulary", "a", "--device", "abacus"], "device 'abacus'"),
        (["--region", "box:0,0,5,5", "--vocabulary", "a", "--model", "regionspt"], "recognizer 'regionspt'"),
    ],
)
def test_mistakes_are_one_line(folder: Path, more: list[str], message: str, capsys) -> None:
    assert recognize(folder, *more) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_source_is_not_asked_before_the_recognizer_is_there(
    folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("rgpt.recognizers.proposals.propose", lambda *_, **__: pytest.fail("asked too early"))
    file = tmp_path / "found.json"
    file.write_text("[]")
    words = ["--proposals", f"json:{file}", "--vocabulary", "a", "--model", "regionspt"]
    assert recognize(folder, *words) == 2
    assert "recognizer 'regionspt'" in capsys.readouterr().err


def test_a_drawing_that_cannot_be_written_is_one_line(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "taken.png").mkdir()
    words = ["--region", "box:0,0,5,5", "--vocabulary", "a", "--draw", str(tmp_path / "taken.png")]
    assert recognize(folder, *words) == 2
    assert "expected a file that can be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


def test_lvis_needs_its_file(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("RGPT_LVIS", raising=False)
    assert recognize(folder, "--region", "box:0,0,5,5", "--vocabulary", "lvis") == 2
    assert "RGPT_LVIS" in capsys.readouterr().err
    file = tmp_path / "lvis.json"
    categories = [{"id": 2, "name": "b_c", "frequency": "r"}, {"id": 1, "name": "a_(x)", "frequency": "f"}]
    file.write_text(json.dumps({"categories": categories}))
    monkeypatch.setenv("RGPT_LVIS", str(file))
    assert recognize(folder, "--region", "box:0,0,5,5", "--vocabulary", "lvis", "--json") == 0
    names = {entry["name"] for entry in json.loads(capsys.readouterr().out)["regions"][0]["names"]}
    assert names == {"a_(x)", "b_c"}

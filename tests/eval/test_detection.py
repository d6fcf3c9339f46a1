"""Detection end to end: oracles, tables, resumed runs, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eval import compare, propose, run
from eval.layouts.coco import read_truth
from eval.recognizers import is_detector, proposes_itself
from eval.score import score_task
from eval.tasks.detection import AnnotatedRegions, as_results
from eval.tasks.drawn import instances
from rgpt.data.photographs import is_held_out
from rgpt.recognizers import save_recognizer
from rgpt.recognizers.regionclip_detector import RegionClipDetector, save_transfer
from rgpt.recognizers.rovit_detector import DetectorConfig, RoVitDetector, save_detector
from rgpt.recognizers.scores import Detections
from rgpt.regions import RLE, Box
from tests.eval.truths import grid_truth
from tests.recognizers.tiny_recognizers import make

BASE = "circle,square,triangle,star,cross"
SHAPES = ["detection", "--data", "shapes", "--count", "3", "--seed", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("detectors")
    torch.manual_seed(0)
    config = DetectorConfig(channels=16, fully_connected=16, post_nms=20, per_image=30)
    save_detector(RoVitDetector(make("rovit"), config), root / "itself")  # type: ignore[arg-type]
    save_transfer(RegionClipDetector(make("regionclip")), root / "transfer")  # type: ignore[arg-type]
    for name, kind in (("spot", "regionspot"), ("clip", "clip-crop")):
        save_recognizer(make(kind), root / name)
    return {path.name: str(path) for path in root.iterdir()}


class Oracle:
    """Finds what is annotated; with `shift`, under another name; the sure and the unsure by turns."""

    def __init__(self, truth: dict[str, Any], shift: int = 0, masks: bool = False) -> None:
        self.truth, self.shift, self.masks = truth, shift, masks
        self.asked: list[Any] = []
        self.network = torch.nn.Linear(1, 1)

    def vocabulary(self, names: list[str], is_base: tuple[bool, ...]) -> Any:
        return make("clip-crop").vocabulary(names, is_base=is_base)

    def detect(self, image: Image.Image, vocabulary: Any, image_id: Any) -> Detections:
        self.asked.append(image_id)
        ids = [c["id"] for c in self.truth["categories"]]
        own = [a for a in self.truth["annotations"] if a["image_id"] == image_id]
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in own)]).reshape(-1, 4)
        labels = torch.tensor([(ids.index(a["category_id"]) + self.shift) % len(ids) for a in own])
        rles = (a["segmentation"] for a in own) if self.masks else ()
        masks = tuple(RLE(r["size"], r["counts"]) for r in rles) if self.masks else None
        return Detections(boxes, torch.full((len(own),), 0.5), labels.long(), torch.arange(len(own)), masks)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.parametrize(
    ("shift", "iou_type", "value"), [(0, "bbox", 1.0), (0, "segm", 1.0), (1, "bbox", 0.0)]
)
def test_an_oracle(
    folders: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shift: int,
    iou_type: str,
    value: float,
) -> None:
    """The annotations as detections have AP 1, under other names 0; the scores are those of the exported
    COCO results."""
    truth = instances(1, 3)
    oracle = Oracle(truth, shift, iou_type == "segm")
    monkeypatch.setattr("eval.tasks.detection.open_detector", lambda *_, **__: oracle)
    out = tmp_path / "out"
    words = ["--model", folders["itself"], "--base", BASE, "--iou-type", iou_type, "--out", str(out)]
    assert run.main([*SHAPES, *words]) == 0
    scores = json.loads((out / "scores.json").read_text())
    for name in ("AP", "AP50", "AP_base", "AP_novel", "AP50_base", "AP50_novel"):
        assert scores[name] == pytest.approx(value, abs=1e-12), name
    rows = rows_of(out)
    assert [row["id"] for row in rows] == ["1", "2", "3"] and scores["n"] == 3
    exported = [detection for row in rows for detection in row["detections"]]
    assert len(exported) == len(truth["annotations"]) == scores["detections"]
    again = score_task("detection", truth, exported, iou_type=iou_type, base=tuple(BASE.split(",")))
    assert all(scores[name] == again[name] for name in again)
    sheet = Image.open(out / "detections.png")
    assert sheet.width > 3 * 240 and "detections.png" in (out / "report.md").read_text()
    assert not (out / "mistakes.png").exists()


def test_one_table_of_every_kind_of_model(
    folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [folders["spot"], folders["itself"], folders["transfer"], "tiny"]
    out = tmp_path / "out"
    command = [
        *SHAPES,
        "--proposals",
        "gt",
        "--base",
        BASE,
        "--model",
        *models,
        "--out",
        str(out),
        "--no-sheet",
    ]
    assert run.main(command) == 0
    printed = capsys.readouterr().out
    head, _, *lines = printed.splitlines()
    for title in ("regions from", "AP", "AP50", "AP50 base", "AP50 novel", "ms a picture"):
        assert f"| {title} |" in head
    cells = [line.split(" | ") for line in lines[:4]]
    assert [own[0].removeprefix("| ") for own in cells] == models
    assert [own[1] for own in cells] == ["gt", "itself", "gt", "gt"]
    assert "detection, 3 pictures, protocol generalised" in printed
    tiny = json.loads((out / "tiny" / "scores.json").read_text())
    assert tiny["AP"] > 0.8  # it knows shapes, and the boxes are given
    assert tiny["AP50"] == tiny["AP"]  # given boxes fit at every IoU, or at none
    for model in models[:3]:
        own = rows_of(out / compare.folder_name(model))
        assert all(row["raw_answer"] for row in own) and not any("failed" in row for row in own)
    assert run.main(command) == 0 and capsys.readouterr().out == printed  # all was answered already


def test_a_run_that_was_stopped_goes_on(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = Oracle(instances(1, 3))
    monkeypatch.setattr("eval.tasks.detection.open_detector", lambda *_, **__: oracle)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    words = [*SHAPES, "--model", folders["itself"], "--no-sheet", "--out"]
    assert run.main([*words, str(whole)]) == run.main([*words, str(stopped)]) == 0
    file = stopped / "predictions.jsonl"
    first, second, _ = file.read_text().splitlines(keepends=True)
    file.write_text(first + second[:40])
    (stopped / "scores.json").unlink()
    oracle.asked.clear()
    assert run.main([*words, str(stopped)]) == 0
    assert oracle.asked == [2, 3]
    assert without_seconds(rows_of(stopped)) == without_seconds(rows_of(whole))
    assert (stopped / "scores.json").read_text() == (whole / "scores.json").read_text()


def files(tmp_path: Path, truth: dict[str, Any]) -> list[str]:
    """An annotation file and its pictures, the first of one pixel, the last missing."""
    for image in truth["images"]:
        image["file_name"] = f"{image['id']}.png"
    truth["images"][0] |= {"width": 1, "height": 1}
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] != 1]
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "images").mkdir()
    for image in truth["images"][:-1]:
        Image.new("RGB", (image["width"], image["height"])).save(tmp_path / "images" / image["file_name"])
    return [
        "detection",
        "--data",
        str(tmp_path / "gt.json"),
        "--images",
        str(tmp_path / "images"),
        "--threads",
        "1",
    ]


@pytest.mark.parametrize("lvis", [False, True], ids=["coco", "lvis"])
def test_files_with_every_edge(folders: dict[str, str], tmp_path: Path, lvis: bool) -> None:
    """No annotation on a picture of one pixel, a missing file, names that are one class, LVIS."""
    truth = grid_truth(3, ("dog", "Sofa_bed", "sofa bed", "person"), lvis=lvis)
    words = [
        *files(tmp_path, truth),
        "--model",
        folders["spot"],
        "--proposals",
        "gt",
        "--out",
        str(tmp_path / "out"),
    ]
    assert run.main(words) == 0
    one, two, three = rows_of(tmp_path / "out")
    assert one["detections"] == [] and one["raw_answer"] == "nothing"
    assert {d["category_id"] for d in two["detections"]} == {10, 20, 40}  # 30 is another spelling of 20
    assert len(two["detections"]) == 4 * 3 and "3.png" in three["failed"]
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["n"] == 3 and scores["failed"] == 1 and 0 < scores["AP"] < 1
    assert ("APr" in scores) == lvis


def test_no_proposals_anywhere(folders: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    proposals = f"json:{tmp_path / 'none.json'}"
    for model in (folders["clip"], folders["transfer"], "tiny"):
        out = tmp_path / compare.folder_name(model)
        words = [*SHAPES, "--model", model, "--proposals", proposals, "--base", BASE, "--out", str(out)]
        assert run.main(words) == 0
        scores = json.loads((out / "scores.json").read_text())
        assert scores["AP"] == scores["AP50_novel"] == 0.0 and scores["detections"] == 0


def test_masks_of_proposals(folders: dict[str, str], tmp_path: Path) -> None:
    """Annotated masks under their own name fit wholly, so masks have the AP that boxes have."""
    found = {}
    for iou_type in ("bbox", "segm"):
        out = tmp_path / iou_type
        words = [
            "--model",
            "tiny",
            "--proposals",
            "gt",
            "--regions",
            "mask",
            "--iou-type",
            iou_type,
            "--nms",
            "1",
        ]
        assert run.main([*SHAPES, *words, "--out", str(out)]) == 0
        found[iou_type] = json.loads((out / "scores.json").read_text())["AP"]
    assert found["segm"] == pytest.approx(found["bbox"]) and found["segm"] > 0.8
    assert all("segmentation" in d for row in rows_of(tmp_path / "segm") for d in row["detections"])


def read_box(annotation: dict[str, Any]) -> tuple[float, ...]:
    x, y, w, h = annotation["bbox"]
    return x, y, x + w, y + h


def test_annotated_regions_and_rows() -> None:
    truth = grid_truth(1)
    truth["annotations"][0]["iscrowd"] = 1
    truth["annotations"][1]["bbox"] = [2000, 0, 5, 5]  # outside of the picture
    regions = AnnotatedRegions(read_truth(truth), "box")(Image.new("RGB", (1000, 1000)), 1)
    boxes = [region.bounds(1000, 1000).xyxy for region in regions.regions]
    assert boxes == [read_box(a) for a in truth["annotations"][2:]]
    assert regions.scores is not None and regions.scores.tolist() == [1, 1]
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 2:5] = True
    found = Detections(
        torch.tensor([[2.0, 1, 5, 3], [0, 0, 1.5, 2]]), torch.tensor([0.123456789, 1e-12]),
        torch.tensor([1, 0]), torch.tensor([0, 1]), (RLE.from_mask(mask), None),
    )  # fmt: skip
    rows = as_results(found, [7, 9], 3, (4, 6))
    assert [row["bbox"] for row in rows] == [[2, 1, 3, 2], [0, 0, 1.5, 2]]
    assert [row["category_id"] for row in rows] == [9, 7] and [row["score"] for row in rows] == [
        0.123457,
        1e-12,
    ]
    from pycocotools import mask as coco_mask

    assert (coco_mask.decode(rows[0]["segmentation"]) == mask).all()
    assert coco_mask.area(rows[1]["segmentation"]) == 0
    assert Box.from_coco(rows[1]["bbox"]).xyxy == (0, 0, 1.5, 2)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--model", "ITSELF", "--proposals", "gt"], "proposes by itself"),
        (["--model", "SPOT"], "expected a source of regions, got none"),
        (["--model", "tiny"], "a chat model only names them"),
        (["--model", "tiny", "--proposals", "rpn:x", "--iou-type", "segm"], "a chat model paints none"),
        (["--model", "SPOT", "--proposals", "magic:x"], "proposals 'magic:x'"),
        (
            ["--model", "SPOT", "--proposals", "gt", "--base", "circle,hexagon"],
            "base names: expected some of the 8",
        ),
        (["--model", "SPOT", "--proposals", "gt", "--base", "names.txt"], "expected an existing file"),
        (["--model", "SPOT", "--proposals", "gt", "--most", "0"], "--most 0"),
        (["--model", "SPOT", "--proposals", "gt", "--nms", "0"], "--nms 0.0"),
        (["--model", "SPOT", "--proposals", "gt", "--dtype", "bfloat16"], "--dtype with the recognizer"),
        (["--model", "TRANSFER", "--proposals", "gt", "--iou-type", "segm"], "masks of"),
        (["--model", "tiny", "rovit-detector@nowhere", "--proposals", "gt"], "nowhere"),
        (["--model", "rovit-detectr@x", "--proposals", "gt"], "rovit-detectr@x"),
    ],
)
def test_refused_before_any_work(
    folders: dict[str, str], more: list[str], says: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("eval.tasks.detection.Detection.answers", lambda *_: pytest.fail("asked"))
    monkeypatch.chdir(tmp_path)
    assert (
        run.main([*SHAPES, *(folders.get(word.lower(), word) if word.isupper() else word for word in more)])
        == 2
    )
    assert says in capsys.readouterr().err


def test_a_detector_does_nothing_else(folders: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "shapes", "--count", "1", "--model", f"rovit-detector@{folders['itself']}"]
    assert run.main(["region_classification", *words]) == 2
    assert "task with the recognizer" in capsys.readouterr().err
    assert is_detector("regionclip-transfer@x") and not is_detector("tiny")
    assert proposes_itself(folders["itself"]) and not proposes_itself(folders["spot"])


def test_proposals_found_once_serve_every_model(
    folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regions written to a file are the source's own: detections made from either are the same."""
    source, file = f"rovit:{folders['itself']}", tmp_path / "found.json"
    scenes = SHAPES[1:]
    assert propose.main([*scenes, "--proposals", source, "--most", "6", "--out", str(file)]) == 0
    said = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["pictures"] == "3" and said["proposals"] == "18"
    written = json.loads(file.read_text())
    assert list(written) == ["1", "2", "3"] and [len(rows) for rows in written.values()] == [6, 6, 6]
    found = {}
    for proposals in (source, f"json:{file}"):
        out = tmp_path / proposals[:5]
        words = ["--proposals", proposals, "--most", "6", "--model", folders["clip"], "--out", str(out)]
        assert run.main([*SHAPES, *words, "--no-sheet"]) == 0
        found[proposals] = rows_of(out)
    for straight, from_file in zip(*found.values(), strict=True):
        assert len(straight["detections"]) == len(from_file["detections"]) > 0
        for one, other in zip(straight["detections"], from_file["detections"], strict=True):
            assert one["category_id"] == other["category_id"]
            assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)


def test_other_regions_under_the_same_name_are_another_run(
    folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "found.json", tmp_path / "out"
    assert propose.main([*SHAPES[1:], "--proposals", "gt", "--out", str(file)]) == 0
    words = [
        *SHAPES,
        "--proposals",
        f"json:{file}",
        "--model",
        folders["clip"],
        "--out",
        str(out),
        "--no-sheet",
    ]
    assert run.main(words) == 0 == run.main(words)
    assert propose.main([*SHAPES[1:], "--proposals", "gt", "--most", "1", "--out", str(file)]) == 0
    assert run.main(words) == 2
    assert "expected a run with proposals" in capsys.readouterr().err


def test_the_annotations_fit_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And one a picture, of three pictures, fits one object of each."""
    file = tmp_path / "gt.json"

    def figures() -> dict[str, str]:
        lines = capsys.readouterr().out.splitlines()
        return {name.strip(): value for name, value in (line.rsplit("  ", 1) for line in lines)}

    assert propose.main([*SHAPES[1:], "--proposals", "gt", "--out", str(file)]) == 0
    said = figures()
    for surest in (10, 100, 300):
        assert said[f"recall of {surest}"] == said[f"AR of {surest}"] == "1.0000 (1.000 to 1.000)"
    assert propose.main([*SHAPES[1:], "--proposals", f"json:{file}", "--most", "1", "--out", str(file)]) == 0
    said, objects = figures(), len(instances(1, 3)["annotations"])
    assert said["recall of 10"].split()[0] == f"{3 / objects:.4f}" and said["proposals"] == "3"


def test_photographs_are_those_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a folder, as training takes it, and with windows that look at nothing."""
    held, trained = ([i for i in range(1, 60) if is_held_out(i) is out][:3] for out in (True, False))
    (tmp_path / "images").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}]}
    for number in (*held, *trained):
        Image.new("RGB", (80, 60)).save(tmp_path / "images" / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 60})
        box = {"id": number, "image_id": number, "category_id": 1, "bbox": [0, 0, 80, 60], "area": 4800}
        content["annotations"].append({**box, "iscrowd": 0})
    (tmp_path / "instances.json").write_text(json.dumps(content))
    out = tmp_path / "found.json"
    assert propose.main(["--data", str(tmp_path), "--proposals", "windows", "--out", str(out)]) == 0
    assert list(json.loads(out.read_text())) == [str(number) for number in held]
    assert "recall of 10, large" not in (said := capsys.readouterr().out) and "recall of 10 " in said
    assert propose.main(["--data", str(tmp_path / "images"), "--proposals", "gt", "--out", str(out)]) == 2


def test_proposals_that_cannot_be_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gt.json"
    assert propose.main([*SHAPES[1:], "--proposals", "gt", "--out", str(tmp_path / "no" / "x.json")]) == 2
    assert propose.main([*SHAPES[1:], "--proposals", "magic:x", "--out", str(file)]) == 2
    assert propose.main([*SHAPES[1:], "--proposals", "gt", "--limit", "-1", "--out", str(file)]) == 2
    assert propose.main(["--data", "nowhere.json", "--proposals", "gt", "--out", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 4

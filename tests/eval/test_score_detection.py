"""Scoring of detections: theory, AP by hand, base and novel names, pycocotools itself, bad files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from eval import score as score_command
from eval.metrics.detection import coco_ap, lvis_ap
from eval.score import score_task
from rgpt.errors import InputError
from tests.eval.truths import NAMES, grid_truth


def row(image_id: int, *detections: dict[str, Any]) -> dict[str, Any]:
    return {"id": str(image_id), "image_id": image_id, "raw_answer": "", "detections": list(detections)}


def found(image_id: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category, "bbox": box, "score": score}


def oracle(truth: dict[str, Any], shift: int = 0, score: float = 0.5) -> list[dict[str, Any]]:
    """Every annotation found; with `shift`, under a name so many categories further."""
    ids = [c["id"] for c in truth["categories"]]
    rows = {image["id"]: row(image["id"]) for image in truth["images"]}
    for a in truth["annotations"]:
        category = ids[(ids.index(a["category_id"]) + shift) % len(ids)]
        rows[a["image_id"]]["detections"].append(found(a["image_id"], category, a["bbox"], score))
    return list(rows.values())


def results(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What anybody would hand in: COCO results."""
    return [detection for own in rows for detection in own["detections"]]


@pytest.mark.parametrize("lvis", [False, True], ids=["coco", "lvis"])
def test_an_oracle_scores_one_and_wrong_names_nothing(lvis: bool) -> None:
    truth, base = grid_truth(lvis=lvis), ("dog", "Sofa bed")
    scores = score_task("detection", truth, oracle(truth), base=base)
    figures = ["AP", "AP50", "AP75", "AP_base", "AP_novel", "AP50_base", "AP50_novel"]
    for name in figures + ["APr", "APc", "APf"] * lvis:
        assert scores[name] == pytest.approx(1.0, abs=1e-12), name
    assert (scores["n"], scores["failed"], scores["detections"]) == (6, 0, 24)
    assert scores["evaluator"] == ("lvis" if lvis else "coco") and scores["protocol"] == "generalised"
    assert {name: own["names"] for name, own in scores["per_class"].items()} == {
        "dog": "base", "sofa bed": "base", "cat": "novel", "person": "novel",
    }  # fmt: skip
    wrong = score_task("detection", truth, oracle(truth, shift=1), base=base)
    assert {wrong[name] for name in figures} == {0.0}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("evaluate", [coco_ap, lvis_ap])
def test_an_annotation_with_the_id_0_is_found_like_any_other(evaluate: Any, iou_type: str) -> None:
    """Both evaluators write the id of what was matched, and read 0 as nothing."""
    truth, ring = grid_truth(lvis=True), lambda x, y, w, h: [[x, y, x + w, y, x + w, y + h, x, y + h]]
    for number, a in enumerate(truth["annotations"]):
        a |= {"id": number, "segmentation": ring(*a["bbox"])}
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.5, "bbox": a["bbox"]}
        | ({"segmentation": a["segmentation"]} if iou_type == "segm" else {})
        for a in truth["annotations"]
    ]
    given = json.loads(json.dumps(truth))
    scores = evaluate(given, found, iou_type)
    assert scores.stats["AP"] == pytest.approx(1.0)
    assert list(scores.by_category.values()) == pytest.approx([1.0] * len(scores.by_category))


def test_base_and_novel_by_hand() -> None:
    """dog: found in the first picture only, after a false one: precision 1/2 up to recall 1/2, of 101 recalls
    51 have it. cat: found. person: never. sofa bed: not annotated, so it has no AP and is in no mean."""
    truth = grid_truth(2)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 30]
    dog = next(a for a in truth["annotations"] if a["category_id"] == 10)
    rows = [
        row(1, found(1, 10, [500, 500, 40, 40], 0.9), found(1, 10, dog["bbox"], 0.8)),
        row(2),
    ]
    for a in truth["annotations"]:
        if a["category_id"] == 20:
            rows[a["image_id"] - 1]["detections"].append(found(a["image_id"], 20, a["bbox"], 0.3))
    scores = score_task("detection", truth, rows, base=("dog", "person", "sofa bed"))
    dog_ap = 0.5 * 51 / 101
    assert scores["AP50_base"] == pytest.approx((dog_ap + 0) / 2)
    assert scores["AP50_novel"] == scores["AP_novel"] == pytest.approx(1.0)
    assert scores["AP50"] == pytest.approx((dog_ap + 1 + 0) / 3)
    assert scores["per_class"]["dog"] == {"n": 2, "AP": pytest.approx(dog_ap), "AP50": pytest.approx(dog_ap),
                                          "names": "base"}  # fmt: skip
    assert "sofa bed" not in scores["per_class"] and scores["names_base"] == 3
    none = score_task("detection", truth, rows, base=("dog", "person", "cat"))  # the rest: not annotated
    assert none["AP_novel"] is None and none["AP50_novel"] is None and none["AP50_base"] is not None
    assert "AP_base" not in score_task("detection", truth, rows)


def noisy(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Boxes moved about, names partly wrong, scores with ties."""
    rng = random.Random(seed)
    rows = oracle(truth)
    for own in rows:
        for d in own["detections"]:
            x, y, w, h = d["bbox"]
            d["bbox"] = [x + rng.uniform(0, w / 3), y + rng.uniform(0, h / 3), w, h]
            d["score"] = rng.choice((0.2, 0.5, 0.9))
            d["category_id"] = rng.choice((d["category_id"], d["category_id"], 10))
    return rows


def test_rows_results_and_pycocotools_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of ours, the same as COCO results by the command, and pycocotools called directly."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = grid_truth(8)
    rows = noisy(truth, 1)
    scores = score_task("detection", truth, rows, base=("dog", "cat"))
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(results(rows)))
    words = ["detection", "--gt", str(tmp_path / "gt.json"), "--predictions", str(tmp_path / "found.json")]
    assert score_command.main([*words, "--base", "dog,cat", "--json", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    expected = COCO(str(tmp_path / "gt.json"))
    evaluation = COCOeval(expected, expected.loadRes(str(tmp_path / "found.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 0.01 < scores["AP"] < 0.99
    assert scores["AP"] == pytest.approx(evaluation.stats[0], abs=1e-12)
    assert scores["AP50"] == pytest.approx(evaluation.stats[1], abs=1e-12)
    precision = evaluation.eval["precision"][0, :, :, 0, -1]  # IoU 0.5: [R, K]
    assert scores["AP50_base"] == pytest.approx(precision[:, :2].mean(), abs=1e-12)
    assert scores["AP50_novel"] == pytest.approx(precision[:, 2:].mean(), abs=1e-12)
    by_group = coco_ap(truth, results(rows)).group({10, 20})
    assert by_group == (scores["AP_base"], scores["AP50_base"])


@pytest.mark.parametrize("lvis", [False, True], ids=["coco", "lvis"])
def test_the_order_of_rows_changes_nothing(lvis: bool) -> None:
    truth = grid_truth(8, lvis=lvis)
    rows = noisy(truth, 2)
    first = score_task("detection", truth, rows, base=("dog",))
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        assert score_task("detection", truth, rows, base=("dog",)) == first


def test_lvis_reads_the_best_300_and_ignores_what_was_not_looked_for() -> None:
    """A wrong name costs nothing where nobody said that it is absent; elsewhere it does."""
    truth = grid_truth(4, lvis=True)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 20 or a["image_id"] == 1]
    rows = oracle(truth, score=0.5)
    for own in rows[1:]:
        own["detections"].append(found(own["image_id"], 20, [5, 500, 50, 50], 0.9))
    assert score_task("detection", truth, rows)["AP"] == pytest.approx(1.0, abs=1e-12)
    for image in truth["images"]:
        image["neg_category_ids"] = [20]
    assert score_task("detection", truth, rows)["AP"] < 1
    many = [found(1, 40, [900, 900, 5, 5], 0.9)] * 300
    rows[0]["detections"] = many + rows[0]["detections"]
    assert score_task("detection", truth, rows, ids=["1"])["AP"] == 0.0


def test_nothing_found_anywhere_is_zero_and_a_failed_picture_found_nothing() -> None:
    truth = grid_truth()
    rows = [row(image["id"]) for image in truth["images"]]
    scores = score_task("detection", truth, rows, base=NAMES)
    assert (scores["AP"], scores["AP50_base"], scores["AP_novel"]) == (0.0, 0.0, None)
    rows = oracle(truth)
    rows[0] = {"id": "1", "image_id": 1, "failed": "no such file."}
    scores = score_task("detection", truth, rows)
    assert scores["failed"] == 1 and scores["n"] == 6 and 0 < scores["AP"] < 1


def test_masks_and_a_subset() -> None:
    truth = grid_truth()
    for a in truth["annotations"]:
        x, y, w, h = a["bbox"]
        a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    rows = oracle(truth)
    with pytest.raises(InputError, match="row 1, detections, row 1, segmentation: expected a mask"):
        score_task("detection", truth, rows, iou_type="segm")
    for own in rows:
        for d in own["detections"]:
            x, y, w, h = d["bbox"]
            d["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    assert score_task("detection", truth, rows, iou_type="segm")["AP"] == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(InputError, match="a prediction for each of 6 items, got none for 1, the first 6"):
        score_task("detection", truth, rows[:5])
    assert score_task("detection", truth, rows[:5], subset=True)["n"] == 5
    restricted = score_task("detection", truth, rows, ids=["1", "2"])
    assert restricted["n"] == 2 and restricted["AP"] == pytest.approx(1.0, abs=1e-12)


BAD: list[tuple[Any, dict[str, Any], str]] = [
    ([], {}, "expected predictions"),
    ([{"id": "1", "raw_answer": "dog"}], {"subset": True}, "row 1, detections: expected a list of COCO"),
    ([row(1, found(2, 10, [0, 0, 5, 5], 0.5))], {"subset": True}, "COCO results of picture 1"),
    ([row(1, found(1, 11, [0, 0, 5, 5], 0.5))], {"subset": True}, "category id 11"),
    ([row(1, found(1, 10, [0, 0, 5, 5], float("nan")))], {"subset": True}, "expected a finite number"),
    ([row(1, found(1, 10, [0, 0, -5, 5], 0.5))], {"subset": True}, "w, h of at least 0"),
    ([row(99)], {"subset": True}, "image id 99"),
    ([row(1), row(1) | {"failed": "x"}], {"subset": True}, "another one of id 1, first in row 1"),
    ([row(1)], {"subset": True, "base": ("dgo",)}, "base names: expected some of the 4 names"),
    ([row(1)], {"subset": True, "iou_type": "keypoints"}, "iou_type: expected bbox or segm"),
    ([row(1)], {"subset": True, "protocol": "scored"}, "protocol of detection: expected generalised"),
    ([{"image_id": 1}], {}, "rows of eval.run detection or COCO results"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "options", "says"), BAD, ids=[says[:25] for _, _, says in BAD])
def test_bad_files_are_one_sentence(value: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        score_task("detection", grid_truth(), value, **options)
    assert "\n" not in str(caught.value)


def test_a_misspelt_file_of_base_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = grid_truth()
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(results(oracle(truth))))
    words = ["detection", "--gt", str(tmp_path / "gt.json"), "--predictions", str(tmp_path / "found.json")]
    assert score_command.main([*words, "--base", "names.txt"]) == 2
    assert "expected an existing file" in capsys.readouterr().err
    (tmp_path / "base.txt").write_text("dog\nsofa_bed\n")
    assert score_command.main([*words, "--base", str(tmp_path / "base.txt")]) == 0
    assert "AP50_novel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("truth", "predictions", "iou_type"),
    [
        ("coco_val2014_100/instances_val2014_100", "instances_val2014_fakebbox100_results", "bbox"),
        ("coco_tiny/gt_dataset", "dt_dataset", "segm"),
        ("lvis_v05_val/lvis_val_60", "made_detections_60", "bbox"),
    ],
)
def test_published_results_have_their_published_figures(
    shared_data: Path, truth: str, predictions: str, iou_type: str
) -> None:
    """Those that tests/eval/test_reference.py holds to all digits, and groups that are the whole together."""
    gt = shared_data / f"{truth}.json"
    files = gt, gt.with_name(f"{predictions}.json")
    known = score_task("region_classification", *files, iou_type=iou_type)
    names = sorted(name for name, own in known["per_class"].items() if "AP" in own)
    scores = score_task("detection", *files, iou_type=iou_type, base=tuple(names[::2]))
    assert scores["AP"] == known["mAP"] and scores["AP50"] == known["AP50"] and 0 < scores["AP"] < 1
    sizes = len(names[::2]), len(names[1::2])
    for figure in ("AP", "AP50"):
        groups = scores[f"{figure}_base"], scores[f"{figure}_novel"]
        together = sum(value * n for value, n in zip(groups, sizes, strict=True)) / sum(sizes)
        assert together == pytest.approx(scores[figure], abs=1e-9)

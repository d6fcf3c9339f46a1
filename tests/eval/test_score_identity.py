"""Ids however spelled, repeated rows, restricted scores, idle masks: the right number or a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.score import main, score_task
from rgpt.errors import InputError
from rgpt.regions.rle import compress
from tests.eval.truths import answer_rows, grid_truth

BOX = [10, 20, 30, 40]
RING = [10, 20, 40, 20, 40, 60, 10, 60]


def truth(first: int = 1, **changes: Any) -> dict[str, Any]:
    """A cup in each of two pictures; ids from `first`; `changes` of the first annotation."""
    ids = (first, first + 1)
    own = {"category_id": first, "bbox": BOX, "area": 1200, "iscrowd": 0, "segmentation": [RING]}
    annotations = [{"id": n, "image_id": n, **own} for n in ids]
    annotations[0] |= changes
    return {
        "images": [{"id": n, "width": 100, "height": 80} for n in ids],
        "annotations": annotations,
        "categories": [{"id": first, "name": "cup"}],
    }


def found(first: int = 1, **changes: Any) -> list[dict[str, Any]]:
    rows = [
        {"image_id": n, "category_id": first, "bbox": BOX, "score": 0.9 - n / 100} for n in (first, first + 1)
    ]
    return [row | {k: v(row) if callable(v) else v for k, v in changes.items()} for row in rows]


PERFECT = pytest.approx(1.0, abs=1e-9)

# ------------------------------------------------------------------------------------------------ ids


@pytest.mark.parametrize("spelled", [str, float, lambda n: f"{n}.0", lambda n: f"{n:012d}"])
@pytest.mark.parametrize("key", ["image_id", "category_id", "ann_id"])
def test_one_id_however_it_is_spelled(key: str, spelled: Any) -> None:
    rows = found(ann_id=lambda row: row["image_id"])
    rows = [row | {key: spelled(row[key])} for row in rows]
    assert score_task("detection", truth(), rows)["AP"] == PERFECT
    assert score_task("region_classification", truth(), rows)["accuracy"] == 1
    assert score_task("detection", truth(), rows, ids=[1.0])["n"] == 1


@pytest.mark.parametrize("spelled", [str, float])
def test_the_ground_truths_own_spelling(spelled: Any) -> None:
    gt = truth()
    for annotation in gt["annotations"]:
        annotation |= {key: spelled(annotation[key]) for key in ("image_id", "category_id")}
    gt["images"] = [{**image, "width": spelled(image["width"])} for image in gt["images"]]
    assert score_task("detection", gt, found())["AP"] == PERFECT
    gt["images"] = [{**image, "id": spelled(image["id"])} for image in gt["images"]]
    masks = [{k: v for k, v in row.items() if k != "bbox"} | {"segmentation": [RING]} for row in found()]
    assert score_task("detection", gt, masks, iou_type="segm")["AP"] == PERFECT


def test_words_as_ids_are_compared_letter_by_letter() -> None:
    gt = truth()
    for each, key in [(i, "id") for i in gt["images"]] + [(a, "image_id") for a in gt["annotations"]]:
        each[key] = f"0{each[key]}.jpg"
    rows = [row | {"image_id": f"0{row['image_id']}.jpg"} for row in found()]
    assert score_task("detection", gt, rows)["AP"] == PERFECT
    with pytest.raises(InputError, match=r"row 1, image_id: .* image id 1\.jpg, and 1 of 2 known"):
        score_task("detection", gt, [rows[0] | {"image_id": "1.jpg"}, rows[1]])


@pytest.mark.parametrize("id_", ["²", "１x", "", " ", None, True, 1.5, [1], {}, 10**400])
def test_what_is_no_id_is_named(id_: Any) -> None:
    for key in ("image_id", "category_id"):
        with pytest.raises(InputError, match=f"row 1, {key}: "):
            score_task("detection", truth(), [found()[0] | {key: id_}, found()[1]])


@pytest.mark.parametrize("task", ["detection", "region_classification"])
def test_annotation_0_is_found(task: str) -> None:
    """To pycocotools a match with annotation 0 is none."""
    assert score_task(task, truth(0), found(0))["AP50"] == PERFECT
    lvis = truth(0)
    lvis["images"] = [i | {"neg_category_ids": [], "not_exhaustive_category_ids": []} for i in lvis["images"]]
    lvis["categories"][0]["frequency"] = "r"
    assert score_task(task, lvis, found(0))["APr"] == PERFECT


def test_half_a_surrogate_pair_and_superscript_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [
        {"id": n, "expression": f"e{n}", "box": [0, 0, 9, 9], "candidates": [[0, 0, 9, 9]]} for n in (1, 2)
    ]
    (tmp_path / "gt.json").write_text(json.dumps(items))
    rows = [{"id": 1, "raw_answer": "²"}, {"id": 2, "raw_answer": "half \ud83d"}]
    (tmp_path / "said.json").write_text(json.dumps(rows))
    command = ["referring", "--gt", str(tmp_path / "gt.json"), "--predictions", str(tmp_path / "said.json")]
    assert main(command) == 2
    assert "row 2, raw_answer: expected Unicode" in capsys.readouterr().err
    rows[1]["raw_answer"] = "a smile \N{SMILING FACE WITH SMILING EYES}, " + "9" * 5000
    (tmp_path / "said.json").write_text(json.dumps(rows))
    assert main(command) == 0
    assert score_task("referring", items, rows)["unparsed"] == 2


# ------------------------------------------------------------------------------------------------ masks


def square(side: int) -> dict[str, Any]:
    """A mask whose box is 60 wide and 40 high, and whose area is 60 + side²: two bars and a block."""
    import numpy as np

    mask = np.zeros((80, 100), dtype=bool)
    mask[0, :60] = True
    mask[0:side, 0:side] = True
    mask[39, 0] = True
    flat = mask.reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size])
    return {"size": [80, 100], "counts": compress(np.array([0, *runs] if flat[0] else runs))}


@pytest.mark.parametrize("boxes_first", [False, True])
def test_boxes_from_masks_keep_the_masks_size(boxes_first: bool) -> None:
    """As `loadRes`: a wrong detection that is small as a mask and medium as a box does not count among medium
    ones. `loadRes` looks at a file's first row only, we at each."""
    gt = truth()
    stray = {"image_id": 1, "category_id": 1, "score": 0.99, "segmentation": square(5)}
    rows = [*found(), stray] if boxes_first else [stray, *found()]
    assert score_task("detection", gt, rows)["APm"] == PERFECT
    as_box = {"image_id": 1, "category_id": 1, "score": 0.99, "bbox": [0, 0, 60, 40]}
    assert score_task("detection", gt, [*found(), as_box])["APm"] < 0.9
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not boxes_first:  # the same by loadRes itself, of masks alone
        expected = COCO()
        expected.dataset = gt | {"info": {}}
        expected.createIndex()
        masks = [stray, *({k: v for k, v in r.items() if k != "bbox"} for r in found())]
        for row in masks[1:]:
            row["segmentation"] = expected.annToRLE(gt["annotations"][0])
        evaluation = COCOeval(expected, expected.loadRes([dict(row) for row in masks]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert score_task("detection", gt, masks)["APm"] == pytest.approx(evaluation.stats[4], abs=1e-12)


@pytest.mark.parametrize("mask", [[[10, 20, 40, 60]], {"size": [1, 1], "counts": [1]}, "none", [[1, 2]]])
def test_a_mask_that_nobody_compares_is_not_looked_at(mask: Any) -> None:
    assert score_task("detection", truth(segmentation=mask), found())["AP"] == PERFECT
    assert score_task("detection", truth(), found(segmentation=mask))["AP"] == PERFECT
    with pytest.raises(InputError, match="annotation 1, segmentation"):
        rows = [r | {"segmentation": [RING]} for r in found()]
        score_task("detection", truth(segmentation=mask), rows, iou_type="segm")


def test_lvis_masks_in_a_picture_without_annotations() -> None:
    gt = truth()
    gt["images"] = [i | {"neg_category_ids": [], "not_exhaustive_category_ids": []} for i in gt["images"]]
    gt["images"].append(
        {"id": 3, "width": 100, "height": 80, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    )
    gt["categories"][0]["frequency"] = "c"
    rows = [{"image_id": n, "category_id": 1, "score": 0.3 * n, "segmentation": [RING]} for n in (1, 2, 3)]
    assert score_task("detection", gt, rows, iou_type="segm")["AP"] == PERFECT  # nobody looked for cups in 3
    gt["images"][2]["neg_category_ids"] = [1]  # now somebody did
    assert score_task("detection", gt, rows, iou_type="segm")["AP"] < 1


# ------------------------------------------------------------------------------------------------ which items


def test_rows_need_no_image_id_to_be_chosen_by_picture() -> None:
    gt = grid_truth()
    rows = answer_rows(gt, lambda name, id_: name if id_ % 2 else "zebra")
    bare = [{k: v for k, v in row.items() if k != "image_id"} for row in rows]
    chosen = score_task("region_classification", gt, rows, ids=["1", 2])
    assert chosen["n"] == 8 and score_task("region_classification", gt, bare, ids=["1", 2]) == chosen


def test_pope_is_restricted_on_both_sides() -> None:
    gt = [{"question_id": n, "image": "", "text": f"A {n}?", "label": "yes"} for n in range(1, 5)]
    said = [{"question": q["text"], "answer": "yes" if q["question_id"] > 2 else "no"} for q in gt]
    rows = [{"id": q["question_id"], "raw_answer": s["answer"]} for q, s in zip(gt, said, strict=True)]
    for predictions in (said, rows):
        only = score_task("pope", gt, predictions, ids=["3", 4.0])
        assert (only["n"], only["accuracy"]) == (2, 1)
    with pytest.raises(InputError, match=r"the given ids, row 2, id: .* question_id 9"):
        score_task("pope", gt, said, ids=[1, 9])
    with pytest.raises(InputError, match="at least one id"):
        score_task("pope", gt, said, ids=[])


def test_identical_repeats_count_once() -> None:
    rows = found(ann_id=lambda row: row["image_id"])
    again = [*rows, rows[0] | {"ann_id": "1"}]
    assert score_task("region_classification", truth(), again) == score_task(
        "region_classification", truth(), rows
    )
    from eval.layouts.captions import read_hypotheses

    published = {"predictions": [{"ref_id": n, "sent": f"man {n % 2}"} for n in (1, 2, 1)]}
    assert read_hypotheses(published)[0] == {"1": "man 1", "2": "man 0"}
    published["predictions"][2]["sent"] = "lady"
    with pytest.raises(InputError, match="row 3: expected one row for each id, got another one of id 1"):
        read_hypotheses(published)
    # COCO results that name no annotation are detections, and COCOeval counts each
    assert score_task("detection", truth(), [found()[0], *found()])["detections"] == 3


# ------------------------------------------------------------------------------------------------ options

QUESTIONS = [{"question_id": 1, "image": "", "text": "A?", "label": "yes"}]
YES = [{"id": 1, "raw_answer": "yes"}]
REVIEWS = [{"question_id": 1, "category": "a", "tuple": [5, 5]}]
NAMED = [{"id": n, "raw_answer": "cup", "score": 0.5} for n in (1, 2)]
REC = [{"expression": "e", "bbox": [1, 1, 9, 9]}]
IDLE: list[tuple[str, Any, Any, dict[str, Any], str]] = [
    ("pope", QUESTIONS, YES, {"iou": 0.7}, "--iou has no effect: pope uses --ids, --subset only"),
    ("pope", QUESTIONS, YES, {"tokenised": True}, "--tokenised has no effect"),
    ("detection", truth(), found(), {"split": "val"}, "--split has no effect"),
    ("detection", truth(), found(), {"subset": True}, "--subset has no effect: COCO results say nothing"),
    ("detection", truth(), found(), {"iou": 0.7}, "--iou has no effect"),
    ("region_classification", truth(), found(), {"detections_a_region": 3}, "--detections-a-region has no"),
    ("region_classification", truth(), NAMED, {"iou_type": "segm"}, "--iou-type has no effect"),
    (
        "region_classification",
        truth(),
        NAMED,
        {"detections_a_region": 3, "protocol": "author-script"},
        "--detections-a-region has no effect: under author-script",
    ),
    ("region_classification", truth(), found(), {"base": ("cup",)}, "--base has no effect"),
    ("open_vocabulary", truth(), NAMED, {"iou_type": "segm"}, "--iou-type has no effect"),
    ("ferret_bench", None, REVIEWS, {"subset": True}, "--subset has no effect: without --gt"),
    ("ferret_bench", None, REVIEWS, {"ids": [1]}, "--ids has no effect"),
    ("referring", REC, REC, {"instances": "x.json"}, "--instances: expected none"),
    ("referring", REC, REC, {"split": "val"}, "split: expected none"),
]


@pytest.mark.parametrize(
    ("task", "gt", "rows", "options", "says"), IDLE, ids=[f"{c[0]} {c[3]}" for c in IDLE]
)
def test_an_option_without_effect_is_refused(
    task: str, gt: Any, rows: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        score_task(task, gt, rows, **options)
    plain = {k: v for k, v in options.items() if k == "protocol"} | (
        {"embedder": "none"} if task[0] == "o" else {}
    )
    assert score_task(task, gt, rows, **plain)["n"] > 0


def test_an_option_without_effect_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("q", QUESTIONS), ("a", YES)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    files = ["pope", "--gt", str(tmp_path / "q.json"), "--predictions", str(tmp_path / "a.json")]
    assert main(files) == 0
    for option in (
        ["--iou", "0.5"],
        ["--iou-type", "bbox"],
        ["--detections-a-region", "1"],
        ["--split", "val"],
    ):
        assert main([*files, *option]) == 2
        assert f"{option[0]} has no effect: pope uses --ids, --subset only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "option"),
    [
        ("shapes", "--images"),
        ("shapes", "--split"),
        ("questions.json", "--count"),
        ("questions.json", "--setting"),
    ],
)
def test_eval_run_refuses_what_only_the_other_data_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, option: str
) -> None:
    from eval import run

    (tmp_path / "questions.json").write_text(json.dumps(QUESTIONS))
    task = ["referring"] if option == "--split" else ["pope"]
    value = {"--images": str(tmp_path), "--split": "val", "--count": "3", "--setting": "popular"}[option]
    source = data if data == "shapes" else str(tmp_path / data)
    folder = [] if data == "shapes" else ["--images", str(tmp_path)]
    assert run.main([*task, "--data", source, *folder, option, value]) == 2
    assert f"{option} has no effect" in capsys.readouterr().err

"""Whatever is wrong with the files is said in one sentence, before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.score import TASKS, WITHOUT_TRUTH, main, score_task
from rgpt.errors import InputError
from tests.eval.truths import answer_rows, grid_truth

TRUTH = grid_truth()
ROWS = answer_rows(TRUTH, lambda name, _: name)
QUESTIONS = [{"question_id": n, "image": "", "text": f"A {n}?", "label": "yes"} for n in (1, 2, 3)]
POPE = [{"question": q["text"], "answer": "yes"} for q in QUESTIONS]
POPE_ROWS = [{"id": n, "raw_answer": "yes"} for n in (1, 2, 3)]
BOX = {"box": [0, 0, 9, 9]}
EXPRESSIONS = [{"id": n, "expression": f"e{n}", "box": [0, 0, 9, 9]} for n in (1, 2)]
PICKS = [{"id": n, "raw_answer": "Region [1].", "regions": [BOX]} for n in (1, 2)]
RESULTS = [
    {
        "image_id": a["image_id"],
        "category_id": a["category_id"],
        "bbox": a["bbox"],
        "score": 0.5,
        "ann_id": a["id"],
    }
    for a in TRUTH["annotations"]
]
ANSWERS = [
    {"text": "dog", "gt_name": "dog", "image_id": 1, "bbox": [[0, 5, 60, 65]], "score": 1.0},
]  # fmt: skip
JUDGED = {"5": {"recognition_result": True, "positives": [1], "negatives": [1]}}
QA = {"5": [{"type": "positive"}, {"type": "negative"}]}
REVIEWS = [{"question_id": 1, "category": "refer_desc", "tuple": [7, 4]}]


def but(rows: list[dict[str, Any]], index: int = 0, **changes: Any) -> list[dict[str, Any]]:
    changed = [dict(row) for row in rows]
    changed[index] |= changes
    return changed


CASES: dict[str, tuple[str, Any, Any, str]] = {
    # ids that the ground truth does not have
    "unknown annotation": ("region_classification", TRUTH, but(ROWS, id="77"), "got annotation id 77"),
    "unknown picture": ("region_classification", TRUTH, but(RESULTS, image_id=99), "image id 99"),
    "unknown class": ("region_classification", TRUTH, but(RESULTS, category_id=99), "category id 99"),
    "unknown question": ("pope", QUESTIONS, but(POPE_ROWS, id="9"), "question_id 9"),
    "unknown expression": ("referring", EXPRESSIONS, but(PICKS, id="9"), "id 9"),
    "unknown region": ("open_vocabulary", TRUTH, but(ROWS, id="77"), "id 77"),
    "unknown description": ("dlc_bench", {"6": QA["5"]}, JUDGED, "annotation id 5"),
    # the same id twice
    "rows twice": (
        "region_classification",
        TRUTH,
        [*ROWS, ROWS[2] | {"score": 0.123}],
        "row 25.* another one of id 102, first in row 3",
    ),
    "results twice": (
        "region_classification",
        TRUTH,
        [*RESULTS, RESULTS[2] | {"score": 0.6}],
        "another one .* first in row 3",
    ),
    "answers twice": (
        "region_classification",
        TRUTH,
        [*ANSWERS, *but(ANSWERS, text="cat")],
        "another one .* first in row 1",
    ),
    "questions twice": (
        "pope",
        QUESTIONS,
        [*POPE_ROWS, *but(POPE_ROWS[:1], raw_answer="no")],
        "another one of id 1",
    ),
    "picks twice": (
        "referring",
        EXPRESSIONS,
        [*PICKS, *but(PICKS[:1], raw_answer="Region [2].")],
        "another one of id 1",
    ),
    "reviews twice": (
        "ferret_bench",
        None,
        [*REVIEWS, *but(REVIEWS, tuple=[1, 1])],
        "another one .* refer_desc/1",
    ),
    "truth twice": (
        "pope",
        [*QUESTIONS, *but(QUESTIONS[:1], label="no")],
        POPE,
        "another one of question_id 1",
    ),
    "annotations twice": (
        "region_classification",
        {**TRUTH, "annotations": TRUTH["annotations"][:1] * 2},
        ROWS,
        "100 twice",
    ),
    # scores
    "NaN": ("region_classification", TRUTH, but(ROWS, score=math.nan), "a finite number, got nan"),
    "NaN among names": (
        "region_classification",
        TRUTH,
        but(ROWS, scores={"dog": math.nan}),
        "scores, 'dog': .* nan",
    ),
    "NaN in results": ("region_classification", TRUTH, but(RESULTS, score=math.nan), "score: .* got nan"),
    "infinite box": ("region_classification", TRUTH, but(RESULTS, bbox=[0, 0, math.inf, 1]), "got inf"),
    "logarithm": ("region_classification", TRUTH, but(ROWS, score=-3.2), "not logarithms"),
    "no score": ("region_classification", TRUTH, but(ROWS, score=None), "a score under the protocol scored"),
    "words for a score": ("region_classification", TRUTH, but(RESULTS, score="high"), "got 'high'"),
    "NaN verdict": ("dlc_bench", None, {"5": {**JUDGED["5"], "positives": [math.nan]}}, "got nan"),
    "mark of 11": ("ferret_bench", None, but(REVIEWS, tuple=[11, 4]), "marks from 1 to 10"),
    # ground truth of another split
    "no id in common": (
        "region_classification",
        TRUTH,
        [row | {"id": f"9{row['id']}"} for row in ROWS],
        "none known in all; the ground truth may be of another split",
    ),
    "other picture": ("region_classification", TRUTH, but(ROWS, image_id=5), "image 1, got image 5"),
    "other box": ("region_classification", TRUTH, but(ANSWERS, bbox=[[0, 5, 30, 30]]), "another split"),
    "other name": ("region_classification", TRUTH, but(ANSWERS, gt_name="cat"), "another split"),
    "other annotation": ("region_classification", TRUTH, but(RESULTS, ann_id=200), "another split"),
    "other question": ("pope", QUESTIONS, but(POPE, question="B 1?"), "the question 'A 1\\?'.*another split"),
    "more answers": ("pope", QUESTIONS, POPE * 2, "3 questions, got 6"),
    # not finished
    "missing rows": ("region_classification", TRUTH, ROWS[:-2], "each of 24 items, got none for 2.*--subset"),
    "missing answers": ("pope", QUESTIONS, POPE[:2], "each of 3 items"),
    "missing picks": ("referring", EXPRESSIONS, PICKS[:1], "each of 2 items"),
    "missing verdicts": (
        "dlc_bench",
        QA,
        {"5": {**JUDGED["5"], "negatives": []}},
        "1 positive and 1 negative",
    ),
    # something else altogether
    "captions as boxes": ("region_classification", TRUTH, [{"image_id": 1, "caption": "x"}], "README"),
    "boxes as truth": ("region_classification", RESULTS, ROWS, "a COCO instances file"),
    "not judged": ("dlc_bench", None, {"5": "a long description"}, "eval.judge dlc_bench"),
    "not reviewed": ("ferret_bench", None, [{"caption": "x"}], "eval.judge"),
    "an answer of no type": (
        "pope",
        QUESTIONS,
        but(POPE_ROWS, raw_answer=None),
        "or record the item as failed",
    ),
    "corners for xywh": (
        "region_classification",
        TRUTH,
        but(RESULTS, bbox=[50, 50, -10, 5]),
        "x1, y1, x2, y2",
    ),
    "no regions": ("referring", EXPRESSIONS, but(PICKS, regions=None), "the regions that were offered"),
    "nothing": ("pope", QUESTIONS, [], "predictions"),
}


def one_sentence(message: str) -> bool:
    return "\n" not in message and message.endswith(".") and not message.endswith("..")


@pytest.mark.parametrize("case", CASES)
def test_one_clear_sentence(case: str) -> None:
    task, gt, predictions, says = CASES[case]
    with pytest.raises(InputError, match=says) as caught:
        score_task(task, gt, predictions)
    assert one_sentence(str(caught.value)), str(caught.value)


def half(text: str) -> str:
    return text[: len(text) * 2 // 3]


FILES: dict[str, tuple[str, Callable[[list[Any]], str], str]] = {
    "half a JSON list": ("p.json", lambda rows: half(json.dumps(rows)), "half-written"),
    "a list without its bracket": ("p.json", lambda rows: json.dumps(rows)[:-1], "half-written"),
    "half a last line": (
        "p.jsonl",
        lambda rows: "\n".join(map(json.dumps, rows))[:-9],
        "p.jsonl:24.*half-written",
    ),
    "half lines under .json": ("p.json", lambda rows: "\n".join(map(json.dumps, rows))[:-9], "half-written"),
    "rows cut between lines": (
        "p.jsonl",
        lambda rows: "".join(json.dumps(r) + "\n" for r in rows[:9]),
        "got none for 15, .*finish the run",
    ),
    "a broken middle": (
        "p.jsonl",
        lambda rows: "\n".join(["{oops", *map(json.dumps, rows)]),
        "p.jsonl:1: .*one JSON object, got",
    ),
    "NaN as Python writes it": (
        "p.jsonl",
        lambda rows: "\n".join(map(json.dumps, but(rows, score=math.nan))),
        "got nan",
    ),
    "empty": ("p.jsonl", lambda rows: "", "an empty file"),
    "words": ("p.json", lambda rows: "a dog", "expected JSON"),
    "brackets": ("p.json", lambda rows: "[" * 100_000, "p.json"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_through_the_command(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, write, says = FILES[case]
    (tmp_path / "gt.json").write_text(json.dumps(TRUTH))
    (tmp_path / name).write_text(write(ROWS))
    out = tmp_path / "scores.json"
    files = ["--gt", str(tmp_path / "gt.json"), "--predictions", str(tmp_path / name), "--json", str(out)]
    assert main(["region_classification", *files]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(InputError, match=says):
        score_task("region_classification", tmp_path / "gt.json", tmp_path / name)
    assert not out.exists()


def test_folders_bytes_and_missing_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "caf\xe9"}\n')
    for path, says in (
        (tmp_path / "latin.jsonl", "0xe9"),
        (tmp_path / "none", "nothing at"),
        (tmp_path, "nothing at"),
    ):
        with pytest.raises(InputError, match=says):
            score_task("pope", QUESTIONS, path)
    for task in TASKS:
        if task not in WITHOUT_TRUTH:
            assert main([task, "--predictions", str(tmp_path)]) == 2
            assert "give --gt" in capsys.readouterr().err


def test_a_folder_of_predictions_and_a_good_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(TRUTH))
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    out = tmp_path / "deep" / "scores.json"
    files = ["--gt", str(tmp_path / "gt.json"), "--predictions", str(tmp_path), "--json", str(out)]
    assert main(["region_classification", *files]) == 0
    scores = json.loads(out.read_text())
    assert {
        "n": 24,
        "failed": 0,
        "protocol": "scored",
        "task": "region_classification",
    }.items() <= scores.items()
    assert scores["accuracy"] == 1 and "mAP" in capsys.readouterr().out


SIDE = 100  # of the drawn pictures
MASKS: dict[str, tuple[Any, str]] = {
    "another size": ({"size": [10**5, 10**5], "counts": "0"}, "size"),
    "a size in words": ({"size": "100x100", "counts": "0"}, "size"),
    "no counts": ({"size": [SIDE, SIDE]}, "got"),
    "counts that end too early": ({"size": [SIDE, SIDE], "counts": "04"}, "sum to 4"),
    "counts that go on": ({"size": [SIDE, SIDE], "counts": [0, 10**12]}, "sum to 1000000000000"),
    "a negative run": ({"size": [SIDE, SIDE], "counts": [-5, SIDE * SIDE + 5]}, "at least 0"),
    "cut inside a number": ({"size": [SIDE, SIDE], "counts": "0o"}, "cut off"),
    "counts from another world": ({"size": [SIDE, SIDE], "counts": "\N{SNOWMAN}"}, "non-ASCII"),
    "a polygon of two corners": ([[1, 1, 5, 5]], "a polygon"),
    "a polygon in words": ([["a", 1, 2, 3, 4, 5]], "a polygon"),
    "a polygon to the moon": ([[0, 0, 1e9, 0, 1e9, 1e9]], "far outside"),
    "a polygon of NaN": ([[0, 0, math.nan, 0, 5, 5]], "far outside"),
    "a number": (7, "got 7"),
}


@pytest.mark.parametrize("what", MASKS)
def test_a_mask_that_would_cost_memory_is_refused_before_it_is_decoded(what: str) -> None:
    mask, said = MASKS[what]
    whole = {"size": [SIDE, SIDE], "counts": [0, SIDE * SIDE]}
    results = [row | {"segmentation": whole} for row in RESULTS]
    truth = TRUTH | {
        "images": [{**i, "width": SIDE, "height": SIDE} for i in TRUTH["images"]],
        "annotations": [a | {"segmentation": whole} for a in TRUTH["annotations"]],
    }
    broken = {**truth, "annotations": but(truth["annotations"], segmentation=mask)}
    for gt, rows in ((truth, but(results, segmentation=mask)), (broken, results)):
        with pytest.raises(InputError) as refused:
            score_task("region_classification", gt, rows, iou_type="segm")
        assert said in str(refused.value) and "segmentation" in str(refused.value)
        boxes = score_task(
            "region_classification", gt, rows
        )  # where boxes are compared, no mask is looked at
        assert boxes == score_task("region_classification", TRUTH, RESULTS)

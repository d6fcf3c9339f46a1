"""Every published figure of the list that is kept, to all digits given; and lists of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval import reference
from eval.reference import OURS, Figure, figures, read_list
from rgpt.errors import InputError

SLOW = ("google_refexp_classname_baseline",)  # 2,500 captions
RECORDS = read_list(OURS)


@pytest.mark.parametrize(
    "record",
    [pytest.param(r, id=r.id, marks=pytest.mark.slow if r.id in SLOW else ()) for r in RECORDS],
)
def test_published_figures(shared_data: Path, record: reference.Record) -> None:
    found = figures(record, [shared_data])
    assert len(found) == len(record.expected)
    assert not [figure for figure in found if not figure.reproduced]


def test_how_many_figures_are_kept() -> None:
    assert sum(len(record.expected) for record in RECORDS) == 198


@pytest.mark.parametrize(
    "published, ours, same",
    [
        (0.83, 0.8299999, True),
        (0.83, 0.8251, True),
        (0.83, 0.8399, True),  # cut, not rounded
        (0.83, 0.8401, False),
        (0.83, 0.8249, False),
        (0.2456866804, 0.24568668046928915, True),
        (0.3418661540393632, 0.3418661540393632, True),
        (0.3418661540393632, 0.3418661550393632, False),
        (203, 203, True),
        (203, 204, False),
        (-1.0, None, True),  # COCO's mark for nothing to measure
        ("67.9%", 0.679518, True),
        ("67.9%", 0.680518, False),
        ("34/69", 34 / 69, True),
        ("34/69", 35 / 69, False),
    ],
)
def test_what_counts_as_reproduced(published: float | str, ours: float | None, same: bool) -> None:
    assert Figure("set", "name", published, ours).reproduced is same


QUESTIONS = [{"question_id": n, "text": f"Is there a {n}?", "label": ["yes", "no"][n % 2]} for n in range(4)]
RECORD = {
    "id": "mine",
    "score": {
        "task": "pope",
        "gt": "questions.json",
        "predictions": {"each": "questions.json", "id": "question_id", "words": "yes"},
    },
    "expected": {"accuracy": "50%", "recall": 1, "tp": 2},
    "source": "arithmetic",
}


def run(folder: Path, record: Any, *more: str) -> int:
    (folder / "list.json").write_text(json.dumps(record if isinstance(record, list) else [record]))
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "questions.json").write_text("\n".join(map(json.dumps, QUESTIONS)))
    empty = ["--data", str(folder)]  # looked in first, and nothing there
    return reference.main(
        ["--list", str(folder / "list.json"), *empty, "--data", str(folder / "data"), *more]
    )


def test_a_list_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, RECORD) == 0
    assert "3 of 3 figures reproduced" in capsys.readouterr().out
    assert run(tmp_path, RECORD | {"expected": {"accuracy": 0.75, "tp": 2}}) == 1
    assert "1 of 2 figures reproduced" in capsys.readouterr().out


SCORE: dict[str, Any] = RECORD["score"]  # type: ignore[assignment]
WRONG: list[tuple[Any, str]] = [
    ({**RECORD, "scores": 1}, "row 1: expected the keys expected, id, note, score, source, got scores"),
    ({**RECORD, "expected": {"accuracy": "half"}}, "row 1, expected, accuracy"),
    ({**RECORD, "expected": {"acc": 0.5}}, "mine, expected: expected a number of the result, .* got 'acc'"),
    ({**RECORD, "score": {**SCORE, "gt": "none.json"}}, "none.json: expected a file in"),
    ({**RECORD, "score": {**SCORE, "iou": 0.5}}, "--iou has no effect: pope uses --ids, --subset only"),
    ({**RECORD, "score": {**SCORE, "wobble": 1}}, "wobble"),
    ({k: v for k, v in RECORD.items() if k != "source"}, "row 1, source"),
    ([RECORD, RECORD], "'mine' again"),
    ([], "a list of records"),
]


@pytest.mark.parametrize(("record", "says"), WRONG, ids=[says[:30] for _, says in WRONG])
def test_what_is_wrong_with_a_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record: Any, says: str
) -> None:
    assert run(tmp_path, record) == 2
    with pytest.raises(InputError, match=says):
        raise InputError(capsys.readouterr().err)


def test_one_record_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, RECORD, "--only", "mine") == 0
    assert run(tmp_path, RECORD, "--only", "yours") == 2
    assert reference.main(["--data", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 2

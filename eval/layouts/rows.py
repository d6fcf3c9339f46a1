"""The rows of `predictions.jsonl`, as `eval.run` writes them and anybody may.

    {"id": "1774", "image_id": 74, "task": "region_classification", "prompt": "What is <region1>?",
     "raw_answer": "Dog.", "answer": "dog", "score": 0.83, "scores": {"dog": 0.83, "cat": 0.17},
     "seconds": 0.4}

`id` names the item of the ground truth (the table in `eval/README.md` says which id that is for each task).
An item that failed has the key `failed` with a sentence, and no answer. `score` is in [0, 1] or null.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from rgpt.errors import InputError


@dataclass(frozen=True)
class Prediction:
    """One answered item. `answer` is the parsed answer, `raw_answer` what the model wrote."""

    id: str
    answer: str
    raw_answer: str
    score: float | None
    scores: Mapping[str, float]
    failed: str | None
    row: Mapping[str, Any] = field(repr=False)


def predictions_file(source: PathOrValue) -> PathOrValue:
    """A folder stands for the `predictions.jsonl` in it."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        return Path(source) / "predictions.jsonl"
    return source


def read_predictions(source: PathOrValue) -> Any:
    """The parsed predictions file of any layout. Raises InputError as `read_json` does, and when empty."""
    value = read_json(predictions_file(source))
    if not isinstance(value, list | dict) or not value:
        raise InputError.about(name_of(source), "predictions", show(value), "name the predictions file")
    return value


def are_rows(value: Any) -> bool:
    """Whether a parsed file has the form above."""
    return isinstance(value, list) and all(
        isinstance(row, Mapping) and "id" in row and not {"answer", "raw_answer", "failed"}.isdisjoint(row)
        for row in value
    )


def check_score(value: Any, thing: str, *, unit: bool = False) -> float:
    """A finite number, or InputError; with `unit`, one in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError.about(thing, "a finite number", show(value), "repair the run that wrote it")
    if unit and not -1e-9 <= value <= 1 + 1e-6:
        raise InputError.about(
            thing, "a probability in [0, 1]", show(value), "write likelihoods, not logarithms"
        )
    return float(value)


def check_unique(ids: Iterable[str], source: PathOrValue, what: str = "id") -> None:
    """Raises InputError naming the first id that comes a second time, and both rows."""
    seen: dict[str, int] = {}
    for index, id_ in enumerate(ids):
        if id_ in seen:
            raise InputError.about(
                row_name(source, index),
                f"one row for each {what}",
                f"{what} {id_} a second time, first in row {seen[id_] + 1}",
                "remove one of the two",
            )
        seen[id_] = index


def check_known(ids: Iterable[str], known: Collection[str], source: PathOrValue, what: str = "id") -> None:
    """Raises InputError when predictions name items that the ground truth does not have."""
    ids = list(ids)
    unknown = [(index, id_) for index, id_ in enumerate(ids) if id_ not in known]
    if unknown:
        index, id_ = unknown[0]
        how_many = "none" if len(unknown) == len(ids) else f"{len(ids) - len(unknown)} of {len(ids)}"
        raise InputError.about(
            row_name(source, index),
            f"{what}s of the ground truth's {len(known)}",
            f"{what} {id_}, and {how_many} known in all",
            "the ground truth may be of another split or data set",
        )


def check_complete(ids: Collection[str], wanted: Collection[str], source: PathOrValue, subset: bool) -> None:
    """Raises InputError when items have no prediction, unless scoring a subset was asked for."""
    missing = [id_ for id_ in wanted if id_ not in ids]
    if missing and not subset:
        raise InputError.about(
            name_of(source),
            f"a prediction for each of {len(wanted)} items",
            f"none for {len(missing)}, the first {missing[0]}",
            "finish the run, or give --subset to score the answered items alone",
        )


def read_rows(value: list[Any], source: PathOrValue) -> list[Prediction]:
    """Checked rows, in file order. Raises InputError on duplicate ids, NaN scores and wrong types."""
    read = [_read_row(row, row_name(source, index)) for index, row in enumerate(value)]
    check_unique((p.id for p in read), source)
    return read


def _read_row(row: Mapping[str, Any], thing: str) -> Prediction:
    id_, failed = row["id"], row.get("failed")
    if isinstance(id_, bool) or not isinstance(id_, int | str) or not str(id_).strip():
        raise InputError.about(f"{thing}, id", "a number or words", show(id_), "name the item")
    if failed is not None and (not isinstance(failed, str) or not failed.strip()):
        raise InputError.about(f"{thing}, failed", "a sentence", show(failed), "say why")
    answer = row.get("answer", row.get("raw_answer"))
    raw = row.get("raw_answer", answer)
    if failed is None:
        if raw is None or not isinstance(raw, str):
            raise InputError.about(
                f"{thing}, raw_answer", "a string", show(raw), "or record the item as failed"
            )
        if answer is not None and not isinstance(answer, str | int | bool):
            raise InputError.about(f"{thing}, answer", "a string", show(answer))
    score, scores = row.get("score"), row.get("scores") or {}
    if score is not None:
        score = check_score(score, f"{thing}, score", unit=True)
    if not isinstance(scores, Mapping):
        raise InputError.about(f"{thing}, scores", "an object", show(scores))
    scores = {str(k): check_score(v, f"{thing}, score of {k!r}", unit=True) for k, v in scores.items()}
    return Prediction(
        id=str(id_),
        answer="" if answer is None or failed else str(answer),
        raw_answer="" if failed else str(raw),
        score=score,
        scores=scores,
        failed=failed,
        row=row,
    )

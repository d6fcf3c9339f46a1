"""The rows of `predictions.jsonl`, as `eval.run` writes them and anybody may.

    {"id": "1774", "image_id": 74, "task": "region_classification", "prompt": "What is <region1>?",
     "raw_answer": "Dog.", "answer": "dog", "score": 0.83, "scores": {"dog": 0.83, "cat": 0.17},
     "seconds": 0.4}

`id` names the item of the ground truth (the table in `eval/README.md` says which id that is for each task).
An item that failed has the key `failed` with a sentence, and no answer. `score` is in [0, 1] or null.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.layouts.fields import Ids, as_object, check_number, field_of, id_text, once
from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from rgpt.errors import InputError


@dataclass(frozen=True)
class Prediction:
    """One answered item. `answer` is the parsed answer, `raw_answer` what the model wrote; `place` is what
    messages call the row."""

    place: str
    id: str
    answer: str
    raw_answer: str
    score: float | None
    scores: Mapping[str, float]
    failed: str | None
    row: Mapping[str, Any] = field(repr=False)

    def words(self) -> str:
        """The answer; as the model wrote it where nothing was parsed. Raises InputError for a number."""
        answer = self.row.get("answer")
        if answer is not None and not isinstance(answer, str) and not self.failed:
            raise InputError.about(f"{self.place}, answer", "words", show(answer))
        return self.raw_answer if answer is None else self.answer


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
    """Whether a parsed file has the form above: some row has an id and an answer."""
    return isinstance(value, list) and any(
        isinstance(row, Mapping) and "id" in row and not {"answer", "raw_answer", "failed"}.isdisjoint(row)
        for row in value
    )


def check_score(value: Any, thing: str) -> float:
    """A probability, or InputError."""
    value = check_number(value, thing)
    if not -1e-9 <= value <= 1 + 1e-6:
        raise InputError.about(
            thing, "a probability in [0, 1]", show(value), "write likelihoods, not logarithms"
        )
    return value


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


def read_rows(
    value: list[Any], source: PathOrValue, known: Collection[str] | None = None, what: str = "id"
) -> list[Prediction]:
    """Checked rows, in file order, of repeats the first.

    Args:
        known: the ground truth's ids, which the rows' are spelled as; None: not known yet.
        what: what an id names, for messages.

    Raises:
        InputError: unknown ids, rows of one id that differ, NaN scores, wrong types.
    """
    read = [_read_row(row, row_name(source, index)) for index, row in enumerate(value)]
    ids = [p.id for p in read] if known is None else Ids(known, what).find([p.id for p in read], source)
    return [replace(read[place], id=ids[place]) for place in once(value, ids, source)]


def _read_row(row: Any, thing: str) -> Prediction:
    id_, failed = id_text(field_of(row, "id", thing), f"{thing}, id"), row.get("failed")
    if failed is not None and (not isinstance(failed, str) or not failed.strip()):
        raise InputError.about(f"{thing}, failed", "a sentence", show(failed), "say why")
    answer = row.get("answer", row.get("raw_answer"))
    raw = row.get("raw_answer", answer)
    if failed is None:
        if not isinstance(raw, str):
            raise InputError.about(
                f"{thing}, {'answer' if 'answer' in row and 'raw_answer' not in row else 'raw_answer'}",
                "a string",
                show(raw),
                "or record the item as failed",
            )
        if answer is not None and (isinstance(answer, bool) or not isinstance(answer, str | int)):
            raise InputError.about(f"{thing}, answer", "words or a number", show(answer))
    score, scores = row.get("score"), row.get("scores")
    if score is not None:
        score = check_score(score, f"{thing}, score")
    listed = as_object({} if scores is None else scores, f"{thing}, scores")
    return Prediction(
        place=thing,
        id=id_,
        answer="" if answer is None or failed else str(answer),
        raw_answer="" if failed else str(raw),
        score=score,
        scores={str(k): check_score(v, f"{thing}, scores, {k!r}") for k, v in listed.items()},
        failed=failed,
        row=row,
    )

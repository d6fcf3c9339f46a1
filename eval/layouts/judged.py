"""Judged files: DLC-Bench's (with all details, without, or our rows) and Ferret-Bench's reviews."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from eval.layouts.rows import check_score, check_unique, read_predictions
from eval.metrics.judged import DlcVerdict
from rgpt.errors import InputError

Folder = Path | str | dict[str, Any] | list[Any]


def beside(source: PathOrValue, name: str) -> PathOrValue:
    """`name` in a benchmark's folder; a file or value stands for itself."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        return Path(source) / name
    return source


def read_dlc_questions(source: PathOrValue) -> dict[str, list[dict[str, Any]]]:
    """`qa.json` (or the folder it is in): questions by annotation id. Raises InputError."""
    value = read_json(beside(source, "qa.json"))
    if not isinstance(value, Mapping) or not all(isinstance(v, list) for v in value.values()):
        raise InputError.about(name_of(source), "DLC-Bench's qa.json", show(value))
    return {str(k): v for k, v in value.items()}


def read_dlc_judged(source: PathOrValue) -> tuple[dict[str, DlcVerdict], dict[str, str]]:
    """Verdicts by annotation id, and why items failed by id (their verdict is no recognition, all zero).

    Reads the published files (`{ann_id: {recognition_result, details_positives, …}}`), their short form
    (`positives`, `negatives`), and rows `{"id", "recognition_result", "positives", "negatives"}` as
    `eval.judge` writes them. Where a record states `score_pos` and `score_neg`, they are computed again and
    compared.

    Raises:
        InputError: another layout, a duplicate, a score that is no number or differs from what was stated.
    """
    value = read_predictions(source)
    if isinstance(value, list):
        if not all(isinstance(row, Mapping) and "id" in row for row in value):
            raise _not_judged(name_of(source), value)
        check_unique((str(row["id"]) for row in value), source)
        records = {str(row["id"]): row for row in value}
    else:
        records = {str(k): v for k, v in value.items()}
    verdicts, failed = {}, {}
    for id_, record in records.items():
        thing = f"{name_of(source)}, id {id_}"
        if isinstance(record, Mapping) and record.get("failed"):
            failed[id_] = str(record["failed"])
        verdicts[id_] = _dlc_verdict(record, thing)
    return verdicts, failed


def _not_judged(thing: str, value: Any) -> InputError:
    hint = "descriptions must be judged first: python -m eval.judge dlc_bench"
    return InputError.about(thing, "a judged record", show(value), hint)


def _dlc_verdict(record: Any, thing: str) -> DlcVerdict:
    if not isinstance(record, Mapping) or not isinstance(record.get("recognition_result"), bool):
        raise _not_judged(thing, record)
    kinds = []
    for kind in ("positives", "negatives"):
        listed = record.get(kind)
        if listed is None and f"details_{kind}" in record:
            listed = [question.get("eval_result") for question in record[f"details_{kind}"]]
        if not isinstance(listed, list):
            raise _not_judged(f"{thing}, {kind}", listed)
        kinds.append(tuple(check_score(v, f"{thing}, {kind}") for v in listed))
    verdict = DlcVerdict(record["recognition_result"], *kinds)
    for key, ours in zip(("score_pos", "score_neg"), verdict.scores(), strict=True):
        stated = record.get(key, ours)
        if stated is None and ours is None:
            continue
        if ours is None or stated is None or abs(check_score(stated, f"{thing}, {key}") - ours) > 1e-6:
            raise InputError.about(
                f"{thing}, {key}", f"{ours} from its verdicts", show(stated), "judge it again"
            )
    return verdict


def read_reviews(source: PathOrValue) -> tuple[dict[str, list[tuple[float, float]]], list[str], int]:
    """Ferret-Bench's review rows `{question_id, category, tuple: [reference, model]}`.

    Returns:
        (reference, model) marks by category; the ids `<category>/<question_id>`; how many rows have no marks
        (`failed`, or the judge's answer had none, written as -1).
    """
    value = read_predictions(source)
    if not isinstance(value, list) or not all(
        isinstance(row, Mapping) and {"question_id", "category"} <= set(row) for row in value
    ):
        hint = "answers must be judged first: python -m eval.judge ferret_bench"
        raise InputError.about(name_of(source), "review rows", show(value), hint)
    ids = [f"{row['category']}/{row['question_id']}" for row in value]
    check_unique(ids, source, "question")
    marks: dict[str, list[tuple[float, float]]] = {}
    failed = 0
    for index, row in enumerate(value):
        listed = marks.setdefault(str(row["category"]), [])
        pair = row.get("tuple")
        if row.get("failed") or (isinstance(pair, list) and all(mark == -1 for mark in pair)):
            failed += 1
            continue
        thing = f"{row_name(source, index)}, tuple"
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError.about(thing, "two marks", show(pair), "judge it again")
        reference, model = (check_score(mark, thing) for mark in pair)
        if not (0 <= reference <= 10 and 0 <= model <= 10):
            raise InputError.about(thing, "marks from 1 to 10", show(pair), "judge it again")
        listed.append((reference, model))
    return marks, ids, failed


def read_ferret_questions(folder: PathOrValue) -> dict[str, dict[str, str]]:
    """`question.jsonl`, `answer.jsonl` and `context.jsonl` of one category's folder, joined by question_id.

    Returns `{"<category>/<question_id>": {"question", "answer", "context", "category", "image"}}`.
    """
    if not isinstance(folder, str | Path) or not Path(folder).is_dir():
        raise InputError.about(
            name_of(folder),
            "a folder with question.jsonl, answer.jsonl and context.jsonl",
            "no folder",
            "name one such as ferret_bench/refer_caption",
        )
    parts = {}
    for part in ("question", "answer", "context"):
        rows = read_json(Path(folder) / f"{part}.jsonl")
        parts[part] = {row["question_id"]: row for row in rows}
    joined = {}
    for id_, row in parts["question"].items():
        for part in ("answer", "context"):
            if id_ not in parts[part]:
                raise InputError.about(
                    f"{folder}/{part}.jsonl",
                    f"question_id {id_}",
                    "none",
                    "the three files must belong together",
                )
        category = str(row["category"])
        joined[f"{category}/{id_}"] = {
            "category": category,
            "image": str(row.get("image", "")),
            **{part: str(parts[part][id_]["text"]) for part in parts},
        }
    return joined

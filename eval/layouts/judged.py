"""Judged files: DLC-Bench's (with all details, without, or our rows), and reviews with two marks each, which
Ferret-Bench, Osprey's descriptions and MDVP-Bench share; and what their judges are asked about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.layouts.fields import check_number, field_of, has_rows, id_text, list_of, once, words_of
from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from eval.layouts.rows import read_predictions
from eval.metrics.judged import DlcVerdict
from rgpt.errors import InputError


def beside(source: PathOrValue, name: str) -> PathOrValue:
    """`name` in a benchmark's folder; a file or value stands for itself."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        return Path(source) / name
    return source


def read_dlc_questions(source: PathOrValue) -> dict[str, list[dict[str, Any]]]:
    """`qa.json` (or the folder it is in): questions by annotation id. Raises InputError."""
    value = read_json(beside(source, "qa.json"))
    if not isinstance(value, Mapping):
        raise InputError.about(name_of(source), "DLC-Bench's qa.json", show(value))
    questions = {str(k): list_of(value, k, name_of(source)) for k in value}
    for id_, listed in questions.items():
        for n, question in enumerate(listed, start=1):
            words_of(question, "type", f"{name_of(source)}, id {id_}, question {n}")
    return questions


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
        if not has_rows(value, "id"):
            raise _not_judged(name_of(source), value)
        things = [row_name(source, index) for index in range(len(value))]
        ids = [
            id_text(field_of(r, "id", thing), f"{thing}, id") for r, thing in zip(value, things, strict=True)
        ]
        records = {ids[n]: value[n] for n in once(value, ids, source)}
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
    if not isinstance(record, Mapping) or "recognition_result" not in record:
        raise _not_judged(thing, record)
    if not isinstance(record["recognition_result"], bool):
        raise InputError.about(
            f"{thing}, recognition_result", "true or false", show(record["recognition_result"])
        )
    kinds = []
    for kind in ("positives", "negatives"):
        listed = record.get(kind)
        if listed is None and f"details_{kind}" in record:
            details = list_of(record, f"details_{kind}", thing)
            listed = [field_of(q, "eval_result", f"{thing}, details_{kind}") for q in details]
        if not isinstance(listed, list):
            raise _not_judged(f"{thing}, {kind}", listed)
        kinds.append(tuple(check_number(v, f"{thing}, {kind}") for v in listed))
    verdict = DlcVerdict(record["recognition_result"], *kinds)
    for key, ours in zip(("score_pos", "score_neg"), verdict.scores(), strict=True):
        stated = record.get(key, ours)
        if stated is None and ours is None:
            continue
        if ours is None or stated is None or abs(check_number(stated, f"{thing}, {key}") - ours) > 1e-6:
            raise InputError.about(
                f"{thing}, {key}", f"{ours} from its verdicts", show(stated), "judge it again"
            )
    return verdict


def read_reviews(source: PathOrValue) -> tuple[dict[str, list[tuple[float, float]]], list[str], int]:
    """Review rows `{question_id, category, tuple: [reference, model]}`.

    Returns:
        (reference, model) marks by category; the ids `<category>/<question_id>`; how many rows have no marks
        (`failed`, or the judge's answer had none, written as -1).
    """
    value = read_predictions(source)
    if not has_rows(value, "question_id"):
        hint = "answers must be judged first: python -m eval.judge"
        raise InputError.about(name_of(source), "review rows", show(value), hint)
    ids = []
    for index, row in enumerate(value):
        thing = row_name(source, index)
        question = id_text(field_of(row, "question_id", thing), f"{thing}, question_id")
        ids.append(f"{words_of(row, 'category', thing)}/{question}")
    kept = once(value, ids, source, "question", "question_id")
    marks: dict[str, list[tuple[float, float]]] = {}
    failed = 0
    for index in kept:
        row, thing = value[index], f"{row_name(source, index)}, tuple"
        listed = marks.setdefault(row["category"], [])
        pair = row.get("tuple")
        if row.get("failed") or (isinstance(pair, list) and pair and all(mark == -1 for mark in pair)):
            failed += 1
            continue
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError.about(thing, "two marks", show(pair), "judge it again")
        reference, model = (check_number(mark, thing) for mark in pair)
        if not (0 <= reference <= 10 and 0 <= model <= 10):
            raise InputError.about(thing, "marks from 1 to 10", show(pair), "judge it again")
        listed.append((reference, model))
    return marks, [ids[n] for n in kept], failed


Reviewed = dict[str, dict[str, Any]]
"""Questions `{"<category>/<question_id>": {category, image, question, answer, context, …}}`; the answer is
the reference."""


def read_ferret_questions(folder: PathOrValue) -> Reviewed:
    """`question.jsonl`, `answer.jsonl` and `context.jsonl` of one category's folder, joined by
    question_id."""
    parts = {part: _by_question(folder, f"{part}.jsonl") for part in ("question", "answer", "context")}
    joined: Reviewed = {}
    for id_, (thing, row) in parts["question"].items():
        texts = {part: words_of(*_same(parts[part], id_, f"{folder}/{part}.jsonl")) for part in parts}
        category = words_of(row, "category", thing)
        joined[f"{category}/{id_}"] = {"category": category, "image": str(row.get("image", "")), **texts}
    return joined


def read_osprey_questions(folder: PathOrValue) -> Reviewed:
    """Osprey's description folder [A]: `questions.json` and `answers.json` joined by question_id, and the
    context of each question's picture in `prompt.json`."""
    parts = {part: _by_question(folder, f"{part}.json") for part in ("questions", "answers", "prompt")}
    context = {row.get("image"): (row, "prompt", thing) for thing, row in parts["prompt"].values()}
    joined: Reviewed = {}
    for id_, (thing, row) in parts["questions"].items():
        category, image = words_of(row, "category", thing), words_of(row, "image", thing)
        joined[f"{category}/{id_}"] = {
            "category": category,
            "image": image,
            "question": words_of(row, "text", thing),
            "answer": words_of(*_same(parts["answers"], id_, f"{folder}/answers.json")),
            "context": words_of(*_found(context, image, f"{folder}/prompt.json", "image")),
        }
    return joined


def read_mdvp_questions(source: PathOrValue) -> Reviewed:
    """One file of MDVP-Bench [A], `{image_name, question, gt_answers, dataset_name, bbox | points}` rows.

    Its question_ids repeat, so a question's number is its place in the file, from 1, as in the authors'
    evaluation. `regions` are boxes `[x, y, w, h]` or points `[x, y]` in pixels, numbered from 1.
    """
    value = read_json(source)
    if not has_rows(value, "image_name", "gt_answers"):
        raise InputError.about(name_of(source), "a file of MDVP-Bench", show(value))
    questions: Reviewed = {}
    for index, row in enumerate(value):
        thing = row_name(source, index)
        category = words_of(row, "dataset_name", thing)
        key = "points" if "points" in row else "bbox"
        regions = []
        for listed in list_of(row, key, thing):
            if not isinstance(listed, list) or len(listed) != (2 if key == "points" else 4):
                raise InputError.about(f"{thing}, {key}", "a list of [x, y] or [x, y, w, h]", show(listed))
            regions.append([check_number(v, f"{thing}, {key}") for v in listed])
        questions[f"{category}/{index + 1}"] = {
            "category": category,
            "image": words_of(row, "image_name", thing),
            "question": words_of(row, "question", thing),
            "answer": words_of(row, "gt_answers", thing),
            "context": "",
            "regions": regions,
        }
    return questions


def read_mdvp_results(value: list[Any], questions: Reviewed, source: PathOrValue) -> dict[str, str]:
    """The predictions of `…_results.json` [A], `{image_name, question, answer, prediction}` in the order of
    the questions; `answer` is the reference. Raises InputError when they are another file's."""
    if len(value) > len(questions):
        raise InputError.about(
            name_of(source), f"one row for each of {len(questions)} questions", str(len(value))
        )
    said = {}
    for index, (row, (id_, asked)) in enumerate(zip(value, questions.items(), strict=False)):
        thing = row_name(source, index)
        for key, expected in (("image_name", "image"), ("question", "question"), ("answer", "answer")):
            if words_of(row, key, thing) != asked[expected]:
                raise InputError.about(
                    f"{thing}, {key}", show(asked[expected]), show(row[key]), "it may be of another file"
                )
        said[id_] = words_of(row, "prediction", thing, empty=True)
    return said


def _by_question(folder: PathOrValue, name: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """(what messages call it, row) by question_id."""
    if not isinstance(folder, str | Path) or not Path(folder).is_dir():
        raise InputError.about(name_of(folder), f"a folder with {name}", "no folder", "name the benchmark's")
    value, found = read_json(Path(folder) / name), {}
    if not isinstance(value, list):
        raise InputError.about(f"{folder}/{name}", "a list of rows", show(value))
    for index, row in enumerate(value):
        thing = row_name(f"{folder}/{name}", index)
        id_ = id_text(field_of(row, "question_id", thing), f"{thing}, question_id")
        found.setdefault(id_, (thing, row))
    return found


def _same(rows: dict[str, tuple[str, Any]], id_: str, name: str) -> tuple[Any, str, str]:
    thing, row = _found(rows, id_, name, "question_id")
    return row, "text", thing


def _found(table: Mapping[Any, Any], key: str, name: str, what: str) -> Any:
    if key not in table:
        raise InputError.about(name, f"{what} {key}", "none", "the files must belong together")
    return table[key]

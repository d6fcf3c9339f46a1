"""POPE: questions and answers as JSON lines under the name `.json`; answers match by position, or by id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from eval.layouts.rows import Prediction, check_complete, check_known, check_unique
from rgpt.errors import InputError


@dataclass(frozen=True)
class YesNoQuestion:
    id: str
    image: str
    text: str
    label: bool


def read_questions(source: PathOrValue) -> list[YesNoQuestion]:
    """`{question_id, image, text, label: "yes" | "no"}` rows. Raises InputError."""
    value = read_json(source)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value:
        raise InputError.about(name_of(source), "POPE questions", show(value), "name such a file")
    questions = []
    for index, row in enumerate(value):
        if not isinstance(row, Mapping) or not {"question_id", "text", "label"} <= set(row):
            raise InputError.about(
                row_name(source, index), "question_id, text and label", show(row), "name a POPE question file"
            )
        if row["label"] not in ("yes", "no"):
            raise InputError.about(f"{row_name(source, index)}, label", "yes or no", show(row["label"]))
        questions.append(
            YesNoQuestion(
                str(row["question_id"]), str(row.get("image", "")), row["text"], row["label"] == "yes"
            )
        )
    check_unique((q.id for q in questions), source, "question_id")
    return questions


def are_answers(value: Any) -> bool:
    """Whether a parsed file is a POPE answer file."""
    return isinstance(value, list) and all(
        isinstance(row, Mapping) and {"question", "answer"} <= set(row) for row in value
    )


def read_answers(
    value: list[Any], questions: list[YesNoQuestion], source: PathOrValue, subset: bool = False
) -> list[Prediction]:
    """Answers with the ids of their questions.

    Matched by `question_id` where every row has one, otherwise by position; either way the question's words
    must be the same, which finds an answer file of another split.
    """
    by_id = {q.id: q for q in questions}
    if all("question_id" in row for row in value):
        ids = [str(row["question_id"]) for row in value]
        check_unique(ids, source, "question_id")
        check_known(ids, by_id, source, "question_id")
    else:
        if len(value) > len(questions):
            raise InputError.about(
                name_of(source),
                f"one answer for each of {len(questions)} questions",
                f"{len(value)}",
                "the ground truth may be of another split",
            )
        ids = [q.id for q in questions[: len(value)]]
    check_complete(set(ids), [q.id for q in questions], source, subset)
    read = []
    for index, (id_, row) in enumerate(zip(ids, value, strict=True)):
        if not isinstance(row["answer"], str):
            raise InputError.about(f"{row_name(source, index)}, answer", "words", show(row["answer"]))
        if str(row["question"]).strip() != by_id[id_].text.strip():
            raise InputError.about(
                row_name(source, index),
                f"the question {by_id[id_].text!r}",
                show(row["question"]),
                "the ground truth may be of another split",
            )
        read.append(Prediction(id_, row["answer"], row["answer"], None, {}, None, row))
    return read

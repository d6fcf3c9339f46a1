"""POPE: questions and answers as JSON lines under the name `.json`; answers match by position, or by id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval.layouts.fields import Ids, field_of, has_rows, id_text, once, words_of
from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from eval.layouts.rows import Prediction
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
        thing = row_name(source, index)
        label = words_of(row, "label", thing)
        if label not in ("yes", "no"):
            raise InputError.about(f"{thing}, label", "yes or no", show(label))
        id_ = id_text(field_of(row, "question_id", thing), f"{thing}, question_id")
        text = words_of(row, "text", thing)
        questions.append(YesNoQuestion(id_, str(row.get("image", "")), text, label == "yes"))
    kept = once(value, [q.id for q in questions], source, "question_id", "question_id")
    return [questions[n] for n in kept]


def are_answers(value: Any) -> bool:
    """Whether a parsed file is a POPE answer file."""
    return has_rows(value, "question", "answer")


def read_answers(value: list[Any], questions: list[YesNoQuestion], source: PathOrValue) -> list[Prediction]:
    """Answers with the ids of their questions.

    Matched by `question_id` where any row has one, otherwise by position; either way the question's words
    must be the same, which finds an answer file of another split.
    """
    by_id = {q.id: q for q in questions}
    places = list(range(len(value)))
    if has_rows(value, "question_id"):
        given = [field_of(row, "question_id", row_name(source, n)) for n, row in enumerate(value)]
        ids = Ids(by_id, "question_id").find(given, source, "question_id")
        places = once(value, ids, source, "question_id", "question_id")
    else:
        if len(value) > len(questions):
            raise InputError.about(
                name_of(source),
                f"one answer for each of {len(questions)} questions",
                f"{len(value)}",
                "the ground truth may be of another split",
            )
        ids = [q.id for q in questions[: len(value)]]
    read = []
    for index in places:
        row, thing, question = value[index], row_name(source, index), by_id[ids[index]]
        answer = words_of(row, "answer", thing, empty=True)
        if words_of(row, "question", thing).strip() != question.text.strip():
            raise InputError.about(
                f"{thing}, question",
                f"the question {question.text!r}",
                show(row["question"]),
                "the ground truth may be of another split",
            )
        read.append(Prediction(thing, question.id, answer, answer, None, {}, None, row))
    return read

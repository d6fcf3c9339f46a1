"""GAR-Bench's VQA [A]: questions with lettered choices, and what a model answered.

    {"image", "mask_rles", "question": "… <Prompt0> …", "choices": ["A. …", …], "answer": "B",
     "type": "color", "model_output": "B"}

The file of answers is the file of questions with `model_output`; an item is its row's number, from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eval.layouts.fields import has_rows, words_of
from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from rgpt.errors import InputError


@dataclass(frozen=True)
class Choice:
    """One question: its kind and the letter of the right choice."""

    kind: str
    answer: str


def read_choices(source: PathOrValue) -> dict[str, Choice]:
    """Questions by row number. Raises InputError."""
    value = read_json(source)
    if not has_rows(value, "answer", "type"):
        raise InputError.about(
            name_of(source), "GAR-Bench's VQA", show(value), "eval/README.md shows the layouts"
        )
    found = {}
    for index, row in enumerate(value):
        thing = row_name(source, index)
        letter = words_of(row, "answer", thing).strip()
        if len(letter) != 1 or not letter.isalpha():
            raise InputError.about(f"{thing}, answer", "a letter", show(letter))
        found[str(index + 1)] = Choice(words_of(row, "type", thing), letter)
    return found


def are_outputs(value: Any) -> bool:
    """Whether a parsed file is one of questions with answers."""
    return has_rows(value, "type", "model_output")


def read_outputs(value: list[Any], choices: dict[str, Choice], source: PathOrValue) -> dict[str, str]:
    """What was answered, by row number. Raises InputError when the file's questions are others."""
    if len(value) > len(choices):
        raise InputError.about(
            name_of(source),
            f"one row for each of {len(choices)} questions",
            str(len(value)),
            "the ground truth may be of another version",
        )
    said = {}
    for index, row in enumerate(value):
        thing, asked = row_name(source, index), choices[str(index + 1)]
        for key, expected in (("type", asked.kind), ("answer", asked.answer)):
            if words_of(row, key, thing).strip() != expected:
                raise InputError.about(
                    f"{thing}, {key}", expected, show(row[key]), "the ground truth may be of another version"
                )
        said[str(index + 1)] = words_of(row, "model_output", thing, empty=True)
    return said

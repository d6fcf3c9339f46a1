"""The answers as a table, least certain first; nothing in it is a formula."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rgpt.annotate.questions import Question
from rgpt.annotate.records import Annotated


def plain_cell(text: str) -> str:
    """The text, with an apostrophe before what a spreadsheet would compute (OWASP, "CSV injection")."""
    return (
        f"'{text}"
        if text.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
        else text
    )


def write_table(path: Path, questions: Sequence[Question], queue: Sequence[Annotated]) -> None:
    """UTF-8 with a mark, which spreadsheets need; a row an object, in the order of the review queue."""
    titles = [
        "review",
        "object",
        "picture",
        "x1",
        "y1",
        "x2",
        "y2",
        "label",
        "sureness",
        "problems",
        "differing",
    ]
    for question in questions:
        titles += [question.key, f"{question.key} confidence"]
        titles += [f"{question.key} ranked"] if question.choices else []
    with open(path, "w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(map(plain_cell, titles))
        for number, item in enumerate(queue, start=1):
            box = [f"{value:.2f}" for value in item.target.box.xyxy]  # never negative: cut to the picture
            row = [
                str(number),
                item.target.key,
                item.picture,
                *box,
                item.target.label,
                _number(item.sureness),
            ]
            row += ["; ".join(item.problems), ", ".join(item.differing)]
            for question in questions:
                answer = item.answers[question.key]
                row += [answer.text(), _number(answer.confidence)]
                if question.choices:
                    row.append("; ".join(f"{name} {share:.3f}" for name, share in answer.shares))
            writer.writerow(map(plain_cell, row))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

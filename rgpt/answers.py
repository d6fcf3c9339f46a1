"""Whether an answer is right, of questions that have a right answer: what evaluation and training both ask.

How each kind is read is in `rgpt.prompts`. Open answers (captions, explanations) are of no kind: no word by
word comparison says whether they are right.
"""

from __future__ import annotations

import re

from rgpt.prompts import (
    NO_MATCH,
    normalise_answer,
    parse_count,
    parse_region_answer,
    parse_yes_no,
)

KINDS = ("yes_no", "region", "count", "name")
LONGEST_NAME = 5
"""Words of an answer that is compared as a whole; longer ones are sentences, which can be right in others."""


def kind_of(question: str, truth: str) -> str | None:
    """The one of `KINDS` that a question with this true answer is of; None for an open one."""
    text = normalise_answer(truth)
    if text == normalise_answer(NO_MATCH) or re.fullmatch(r"region\s*\[\s*\d{1,9}\s*\]", text):
        return "region"
    if re.match(r"(yes|no)($|\s*[,.;:!])", text):
        return "yes_no"
    asks_how_many = question.casefold().lstrip().startswith("how many") or " " not in text
    if asks_how_many and parse_count(text) is not None:
        return "count"
    return "name" if text and len(text.split()) <= LONGEST_NAME and "\n" not in truth.strip() else None


def is_right(kind: str, truth: str, answer: str) -> bool:
    """Whether `answer` says what `truth` says, read as `kind`. Raises KeyError for none of `KINDS`."""
    read = {
        "yes_no": parse_yes_no,
        "region": parse_region_answer,
        "count": parse_count,
        "name": normalise_answer,
    }[kind]
    said = read(answer)
    return said is not None and said == read(truth)

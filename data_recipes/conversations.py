"""Turns about numbered regions: classification, captions, referring, relationships.

Wordings and guide sentences are `rgpt.prompts`'. The first turn of a conversation carries the guide sentence,
later turns ask without it [P].
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rgpt import prompts
from rgpt.data.schema import QuestionAnswer

Item = TypeVar("Item")

NO_WORDS = "no words"
_HALF_PAIR = re.compile("[\ud800-\udfff]")
MARKS = "words that would act as a mark"


def clean(text: object) -> str:
    """One line with single blanks; "" for what is no text."""
    return " ".join(text.split()) if isinstance(text, str) else ""


def unusable(text: str) -> str:
    """Why a cleaned text from a data set cannot stand in a sample, or ""."""
    if not text:
        return NO_WORDS
    if "<region" in text or "<image>" in text:
        return MARKS
    # Half of a surrogate pair cannot be written as UTF-8; nearly all texts are plain ASCII.
    return NO_WORDS if not text.isascii() and _HALF_PAIR.search(text) else ""


def spoken(name: str) -> str:
    """A class name as an answer: LVIS writes "sofa_bed", people say "sofa bed"."""
    return clean(name.replace("_", " "))


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """At most `size` in each, as equal as can be: 17 in chunks of 16 are 9 and 8."""
    count = -(-len(items) // size)
    for i in range(count):
        yield items[i * len(items) // count : (i + 1) * len(items) // count]


def shuffled(items: Sequence[Item], rng: random.Random) -> list[Item]:
    return rng.sample(list(items), len(items))


def _wording(task: str, rng: random.Random, **fields: str) -> str:
    return prompts.choose_wording(task, rng).format(**fields)


def classification(names: Sequence[str], vocabulary: str | None, rng: random.Random) -> list[QuestionAnswer]:
    """A turn for every region, region n being a `names[n - 1]`, in random order.

    `vocabulary` as in "COCO-80"; None asks without a guide sentence (an open set of names).
    """
    turns = []
    for number in shuffled(range(1, len(names) + 1), rng):
        task = "classification_followup" if turns and vocabulary else "classification"
        question = _wording(task, rng, region=prompts.mention(number))
        if vocabulary and not turns:
            question += " " + prompts.classification_guide(vocabulary)
        turns.append(QuestionAnswer(question, names[number - 1]))
    return turns


def captions(texts: Sequence[str], rng: random.Random, task: str = "brief_caption") -> list[QuestionAnswer]:
    """A turn for every region, region n being described by `texts[n - 1]`, in random order."""
    return [
        QuestionAnswer(_wording(task, rng, region=prompts.mention(number)), texts[number - 1])
        for number in shuffled(range(1, len(texts) + 1), rng)
    ]


def referring(count: int, described: Sequence[tuple[str, int]], rng: random.Random) -> list[QuestionAnswer]:
    """Which of regions 1 … `count` fits? `described` pairs a description with its region, 0 for none."""
    turns = []
    for text, number in described:
        if turns:
            question = _wording("referring_followup", rng, text=text)
        else:
            listed = prompts.list_mentions(range(1, count + 1))
            question = _wording("referring", rng, regions=listed, text=text) + " " + prompts.REFERRING_GUIDE
        turns.append(QuestionAnswer(question, f"Region [{number}]." if number else prompts.NO_MATCH))
    return turns


def relationships(related: Sequence[tuple[int, int, str]], rng: random.Random) -> list[QuestionAnswer]:
    """(subject's number, object's number, what relates them) as one turn each."""
    return [
        QuestionAnswer(
            _wording("relationship", rng, region=prompts.mention(subject), other=prompts.mention(other)), text
        )
        for subject, other, text in related
    ]

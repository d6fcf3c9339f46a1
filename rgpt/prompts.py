"""Tasks in words: mentions of regions, guide sentences, and how an answer is read back.

A *guide sentence* appended to a question fixes the form of the answer, in training and at inference alike
(RegionGPT, section on task-guided instruction prompts [P]). The guide sentences here are the paper's.

Every choice takes a `random.Random`, so that it is seeded and can be recorded.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from rgpt.wordings import EVERYDAY_NAME, WORDINGS

NO_MATCH = "No corresponding options found."

REFERRING_GUIDE = "Answer the question using the template Region [x]."


def classification_guide(vocabulary_name: str) -> str:
    """The guide sentence of closed-set classification, e.g. `classification_guide("COCO-80")` [P]."""
    return f"Answer the question using {vocabulary_name} category names."


TASKS = tuple(WORDINGS)

_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {word: number for number, word in enumerate(_COUNTED)}


def choose_wording(task: str, rng: random.Random) -> str:
    """One wording of `task`. Raises KeyError for an unknown task; `TASKS` lists them."""
    return rng.choice(WORDINGS[task])


def asks_for_name(questions: Sequence[str], vocabulary_name: str) -> bool:
    """Whether the last of a conversation's questions asks what one region is.

    It does when it carries the guide sentence of this vocabulary, or reads like a wording of `classification`
    or `EVERYDAY_NAME`, or like one of `classification_followup` after a question that did.
    """
    *before, question = questions
    if classification_guide(vocabulary_name) in question:
        return True
    asked, mentions = ANY_REGION.subn("{region}", question)
    asked = _plain(asked)
    if mentions != 1:
        return False
    wordings = (*WORDINGS["classification"], *(text for texts in EVERYDAY_NAME.values() for text in texts))
    if asked in {_plain(wording) for wording in wordings}:
        return True
    followups = {_plain(wording) for wording in WORDINGS["classification_followup"]}
    return asked in followups and bool(before) and asks_for_name(before, vocabulary_name)


def guided(question: str, vocabulary_name: str) -> str:
    """The question with the vocabulary's guide sentence, appended unless it is there."""
    guide = classification_guide(vocabulary_name)
    return question if guide in question else f"{question.rstrip()} {guide}"


def _plain(question: str) -> str:
    """What is left of a question when case, blanks, its final mark and "What's" do not matter."""
    text = re.sub(r"\s+", " ", question).strip().casefold().replace("’", "'").replace("what's", "what is")
    return text.rstrip(".?! ")


def mention(number: int) -> str:
    """The way a person refers to a region in text: `<region1>` (numbers are 1-based)."""
    return f"<region{number}>"


MENTION = re.compile(r"<region([0-9]{1,9})>")
"""A mention in a text; its group is the number. Longer numbers and other digits are words."""
ANY_REGION = re.compile(rf"{MENTION.pattern}|<region>")
"""A mention, or the `<region>` of whoever has only one."""


def mentioned(text: str) -> list[int]:
    """Numbers of the regions that a text mentions, in reading order, as often as they are mentioned."""
    return [int(number) for number in MENTION.findall(text)]


def list_mentions(numbers: Sequence[int]) -> str:
    """`<region1>, <region2>, <region3>`"""
    return ", ".join(mention(n) for n in numbers)


def normalise_answer(text: str) -> str:
    """Lower case, single blanks, no closing full stop, no quotes around it: what equal answers share."""
    return re.sub(r"\s+", " ", text).strip().strip("\"'“”").rstrip(".").strip().lower()


def parse_region_answer(text: str) -> int | None:
    """Read "Region [2]." as 2, "No corresponding options found." as 0, and anything else as None."""
    if normalise_answer(text) == normalise_answer(NO_MATCH):
        return 0
    found = re.search(r"region\s*\[\s*(\d{1,9})\s*\]", text, re.IGNORECASE)
    return int(found.group(1)) if found else None


def parse_yes_no(text: str) -> bool | None:
    """True for an answer whose first word is yes, False for no, None for neither."""
    first = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    return None if first is None else first.group(1).lower() == "yes"


def parse_count(text: str) -> int | None:
    """The first number of an answer, as a digit or as a word up to ten; None where there is none."""
    for word in re.findall(r"\d+|[a-z]+", text.lower()):
        if word.isdigit():
            return int(word)
        if word in _NUMBER_WORDS:
            return _NUMBER_WORDS[word]
    return None

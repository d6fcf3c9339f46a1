"""LLaVA's conversation files: a JSON list of `{"id", "image", "conversations": [{"from", "value"}, ...]}`.

A record is read as LLaVA's own trainer reads it where that is defined, and to the same end where people's
files differ from it: what comes before the first question, and what was asked and not answered, is no turn.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rgpt.errors import InputError
from rgpt.prompts import ANY_REGION

IMAGE_MARK = "<image>"
HUMAN, ASSISTANT = ("human", "user"), ("gpt", "assistant", "model")

# Notes: what was mended. Reasons: why there is nothing to read.
PICTURE_WITHOUT_MARK = "picture without <image>: asked about it all the same"
NOT_FROM_HUMAN = "words before the first question left out"
NO_ANSWER = "question without an answer left out"
MARK_WITHOUT_PICTURE = "<image> without a picture"
MORE_MARKS = "more than one <image>"
MORE_PICTURES = "more than one picture"
NO_PATH = "a picture that is no path"
VIDEO = "a video"
NO_TURN = "no question with an answer"
MENTION = "text with a region's mark"
NO_CONVERSATION = "no conversation"

# Where LLaVA's files have the mark: at the beginning, at the end, or on a line of its own. Inside a sentence
# of a record without a picture it is a word, as in a question about SVG, and LLaVA's trainer takes it as one.
_PLACE = re.compile(rf"\A\s*{IMAGE_MARK}|{IMAGE_MARK}\s*\Z|^\s*{IMAGE_MARK}\s*$", re.MULTILINE)


class Unusable(InputError):
    """A record of which no sample can be made. `reason` is the kind, the same for every such record."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"record: expected a conversation in LLaVA's form with at most one picture, got {reason}; "
            "repair or remove it."
        )
        self.reason = reason


class LlavaRecord(NamedTuple):
    """One conversation.

    Args:
        id: "" where the file gives none.
        image: the picture's path as the file has it; None for text alone.
        turns: (question, answer), at least one, without the picture's mark: where a picture stands is the
            chat template's business, and it always comes first.
        notes: what was mended, and how often.
    """

    id: str
    image: str | None
    turns: tuple[tuple[str, str], ...]
    notes: Counter[str]


def read_llava(value: Any) -> LlavaRecord:
    """The conversation of a parsed record.

    People's files differ in that the assistant speaks first, a system text comes first, the last question has
    no answer, speakers are `user` and `assistant`, messages have `role` and `content`, an answer is a number,
    an id is a number or missing, the picture is a list of one or an empty text, `<image>` comes in a later
    turn.

    Raises:
        Unusable: no conversation; no question with an answer; `<image>` without a picture; two of either; a
            video; a text that mentions regions, which this form does not define.
    """
    listed = value.get("conversations", value.get("messages")) if isinstance(value, Mapping) else None
    if not isinstance(listed, list):
        raise Unusable(NO_CONVERSATION)
    image, messages = _image(value), list(_messages(listed))
    texts = [text for _, text in messages]
    if image is None:
        if any(map(has_image_mark, texts)):
            raise Unusable(MARK_WITHOUT_PICTURE)
        marks = 0
    elif (marks := sum(text.count(IMAGE_MARK) for text in texts)) > 1:
        raise Unusable(MORE_MARKS)
    if any(map(ANY_REGION.search, texts)):
        raise Unusable(MENTION)
    if marks:
        messages = [(speaker, text.replace(IMAGE_MARK, "").strip()) for speaker, text in messages]
    notes = Counter[str]()
    if not (turns := _pair_up(messages, notes)):
        raise Unusable(NO_TURN)
    if image is not None and not marks:
        notes[PICTURE_WITHOUT_MARK] += 1
    id_ = value.get("id")
    return LlavaRecord("" if id_ is None else str(id_).strip(), image, turns, notes)


def has_image_mark(text: str) -> bool:
    """Whether `<image>` stands in a text where LLaVA's files put a picture, and not as a word."""
    return _PLACE.search(text) is not None


def picture_name(value: Any) -> str | None:
    """The picture's path of a record, None where there is none or several."""
    try:
        return _image(value) if isinstance(value, Mapping) else None
    except Unusable:
        return None


def _image(record: Mapping[str, Any]) -> str | None:
    if record.get("video") or record.get("videos"):
        raise Unusable(VIDEO)
    given = record.get("image") or record.get("images") or []
    names = given if isinstance(given, list) else [given]
    names = [name for name in names if not (name is None or (isinstance(name, str) and not name.strip()))]
    if len(names) > 1:
        raise Unusable(MORE_PICTURES)
    if names and not isinstance(names[0], str):
        raise Unusable(NO_PATH)
    return names[0] if names else None


def _messages(listed: list[Any]) -> Iterator[tuple[str, str]]:
    """(speaker, text) of every message; "" for a text that is none."""
    for message in listed:
        message = message if isinstance(message, Mapping) else {}
        speaker = str(message.get("from", message.get("role"))).strip().lower()
        text = message.get("value", message.get("content"))
        if isinstance(text, int | float) and not isinstance(text, bool):
            text = str(text)
        yield speaker, text.strip() if isinstance(text, str) else ""


def _pair_up(messages: list[tuple[str, str]], notes: Counter[str]) -> tuple[tuple[str, str], ...]:
    """Questions with their answers; what has no partner is left out and noted."""
    turns: list[tuple[str, str]] = []
    question = ""
    for speaker, text in messages:
        if speaker in HUMAN:
            if question:
                notes[NO_ANSWER] += 1
            question = text
        elif speaker in ASSISTANT and question and text:
            turns.append((question, text))
            question = ""
        else:
            notes[NOT_FROM_HUMAN if not turns and not question else NO_ANSWER] += 1
            question = ""
    if question:
        notes[NO_ANSWER] += 1
    return tuple(turns)

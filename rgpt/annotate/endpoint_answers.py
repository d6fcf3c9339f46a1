"""Answers of other people's models: a request an object, for JSON that is checked and once asked again."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rgpt.annotate.questions import Question
from rgpt.annotate.records import Answer, Target
from rgpt.annotate.session_answers import MARGIN
from rgpt.asking.caller import Asked, Caller
from rgpt.asking.ledger import Answer as Said
from rgpt.backends import image_part, text_part
from rgpt.errors import InputError
from rgpt.regions import draw_regions
from rgpt.regions.close_up import close_up, shrunk

if TYPE_CHECKING:
    from PIL import Image

MAX_SIDE, MIN_SIDE = 1024, 112
TOKENS = 400
NAMES_SHOWN = 2000
"""Characters of an enumeration in a complaint."""


def check_answer(text: str, questions: Sequence[Question]) -> dict[str, Any]:
    """The values of an answer by key.

    Raises:
        InputError: it holds no JSON object, or not exactly the keys asked for, or another value than
            those allowed.
    """
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        value = json.loads(found[0] if found else text)
    except (ValueError, RecursionError) as error:
        raise InputError.about("the answer", "one JSON object", repr(text)[:60]) from error
    keys = [question.key for question in questions]
    if not isinstance(value, dict) or set(value) != set(keys):
        actual = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise InputError.about("the answer", f"the keys {', '.join(keys)}", actual[:80] or "none")
    for question in questions:
        given = value[question.key]
        if question.choices:
            allowed = [
                v for v in question.allowed if v == given and isinstance(v, bool) == isinstance(given, bool)
            ]
            if not allowed and isinstance(given, str):
                allowed = [v for v in question.allowed if str(v).casefold() == given.strip().casefold()]
            if not allowed:
                raise InputError.about(question.key, f"one of {_listed(question)}", json.dumps(given)[:60])
            value[question.key] = allowed[0]
        elif not isinstance(given, str) or not given.strip():
            raise InputError.about(question.key, "a text", json.dumps(given)[:60])
    return value


def _listed(question: Question) -> str:
    return ", ".join(json.dumps(v, ensure_ascii=False) for v in question.allowed)[:NAMES_SHOWN]


def instruction(questions: Sequence[Question], context: str) -> str:
    """What is asked of one object."""
    shown = {
        "image": "The object in question is outlined and numbered 1 in the picture.",
        "crop": "The picture is a close-up of the object in question.",
        "both": "The first picture shows the object in question outlined and numbered 1; the second is its "
        "close-up.",
    }[context]
    lines = [
        f"- {json.dumps(q.key)}: {q.plain}; " + (f"one of {_listed(q)}" if q.choices else "a text")
        for q in questions
    ]
    return f"{shown} Answer with one JSON object and nothing else, with these keys:\n" + "\n".join(lines)


class EndpointAnswerer:
    """A model behind an OpenAI-compatible endpoint, or one of transformers on this machine."""

    def __init__(self, caller: Caller, asked: Asked, questions: Sequence[Question], context: str) -> None:
        self.caller, self.asked, self.questions, self.context = caller, asked, list(questions), context

    async def answer(self, image: Image.Image, target: Target) -> dict[str, Answer]:
        """The answers about one object; those of a second answer that is wrong, too, are problems.

        Raises:
            GaveUp, BudgetReached, Stopped: see `Caller.answer`.
        """
        try:
            pictures = await asyncio.to_thread(self._pictures, image, target)
        except InputError as error:
            return self._problem(str(error))
        text = instruction(self.questions, self.context)
        said = await self._ask(target.key, pictures, text)
        try:
            return self._values(said)
        except InputError as error:
            complaint = f"{text}\nAn earlier answer was refused: {error}"
        said = await self._ask(f"{target.key}/again", pictures, complaint)
        try:
            return self._values(said)
        except InputError as error:
            return self._problem(f"asked twice: {error}")

    def _pictures(self, image: Image.Image, target: Target) -> list[dict[str, Any]]:
        parts = []
        if self.context != "crop":
            parts.append(image_part(shrunk(draw_regions(image, {1: target.region}), MAX_SIDE)))
        if self.context != "image":
            parts.append(image_part(close_up(image, target.region, MARGIN, MIN_SIDE, MAX_SIDE)))
        return parts

    async def _ask(self, key: str, pictures: list[dict[str, Any]], text: str) -> Said:
        messages = [{"role": "user", "content": [*pictures, text_part(text)]}]
        return await self.caller.answer(key, self.asked, messages, max_tokens=TOKENS, temperature=0.0, seed=0)

    def _values(self, said: Said) -> dict[str, Answer]:
        if said.finish_reason in ("rejected", "content_filter"):
            raise InputError(f"the endpoint did not take the request ({said.text[:120] or 'blocked'})")
        return {key: Answer(value) for key, value in check_answer(said.text, self.questions).items()}

    def _problem(self, why: str) -> dict[str, Answer]:
        return {question.key: Answer(problem=why) for question in self.questions}

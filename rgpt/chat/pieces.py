"""Answers as they grow: tokens become words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Usage:
    """What an answer took, in tokens.

    `ended`: `stop` by itself, `length` cut off, `closed` stopped from outside; empty while it grows.
    """

    prompt_tokens: int
    cached_tokens: int
    """Those of the prompt whose keys and values were there already."""
    answer_tokens: int
    ended: str


@dataclass(frozen=True)
class Token:
    """A token of an answer: what it adds to the text, its log-probability, and the likeliest in its place."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """What the answer to question `number` gained, and what it took until then."""

    number: int
    text: str
    tokens: tuple[Token, ...] = ()
    usage: Usage | None = None


class Words:
    """The text of one answer. A character of several bytes is held back until it is whole."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.said = ""

    def add(self, token: int) -> str:
        """What one more token adds to what can be said."""
        self.ids.append(token)
        text = self._decode(self.ids)
        if text.endswith("\ufffd") or len(text) <= len(self.said):
            return ""
        piece, self.said = text[len(self.said) :], text
        return piece

    def would(self, token: int) -> str:
        """What a token would add in the next place."""
        return self._decode([*self.ids, token])[len(self._decode(self.ids)) :]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

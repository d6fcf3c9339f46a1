"""What the choices of a request say, as it is sent: cut at stop strings, with their ends and their usage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rgpt.chat.pieces import Piece, Token, Usage
from rgpt.serve.text import AnswerText


@dataclass(frozen=True)
class Said:
    """Text of a choice that can be sent now, and its tokens where their log-probabilities are asked for."""

    index: int
    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Ended:
    """The last event of a request: how each choice ended, and tokens of all together."""

    finish_reasons: tuple[str, ...]
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int


class Choices:
    """`count` answers to one question, as they grow.

    Args:
        stops: strings at which an answer ends.
    """

    def __init__(self, count: int, stops: Sequence[str]) -> None:
        self.stopped: set[int] = set()
        """Choices that met a stop string: they need no more tokens."""
        self._texts = [AnswerText(stops) for _ in range(count)]
        self._tokens: list[list[Token]] = [[] for _ in self._texts]
        self._usages: list[Usage | None] = [None] * count

    def feed(self, piece: Piece) -> Said | None:
        """What can be sent after this piece."""
        index = piece.number
        self._usages[index] = piece.usage
        if index in self.stopped:
            return None
        self._tokens[index] += piece.tokens
        sent = self._texts[index].feed(piece.text)
        if self._texts[index].stopped:
            self.stopped.add(index)
        return self._said(index, sent) if sent else None

    def finish(self) -> Iterator[Said]:
        """What is left at the end of every answer."""
        for index, text in enumerate(self._texts):
            sent = text.finish()
            if sent or self._tokens[index]:
                yield self._said(index, sent)

    def ended(self) -> Ended:
        """How the answers ended. The prompt counts once, as it was read once."""
        usages = [usage for usage in self._usages if usage is not None]
        reasons = tuple(
            "length" if usage.ended == "length" and not text.stopped else "stop"
            for usage, text in zip(usages, self._texts, strict=True)
        )
        answered = sum(usage.answer_tokens for usage in usages)
        return Ended(reasons, usages[0].prompt_tokens, usages[0].cached_tokens, answered)

    def _said(self, index: int, text: str) -> Said:
        tokens, self._tokens[index] = tuple(self._tokens[index]), []
        return Said(index, text, tokens)


def logprobs_json(tokens: Sequence[Token]) -> dict[str, Any]:
    """As OpenAI's API writes them. `bytes` is null where a token is only a part of a character."""

    def entry(text: str, logprob: float) -> dict[str, Any]:
        spelled = None if "\ufffd" in text else list(text.encode())
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": spelled}

    content = [
        {**entry(token.text, token.logprob), "top_logprobs": [entry(*other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}

"""What may be spent, and how fast."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

PIXELS_PER_TOKEN = 28 * 28
"""One token of common VLMs covers about this much of a picture (Qwen2-VL's patches) [D]."""
LEAST_IMAGE_BOUND = 1600
"""Tokens of one picture that are reserved at least; a small picture may be enlarged by the endpoint [D]."""


@dataclass(frozen=True)
class Cost:
    """Tokens in, tokens out, money."""

    prompt: int = 0
    completion: int = 0
    money: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.prompt + other.prompt, self.completion + other.completion, self.money + other.money)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.prompt - other.prompt, self.completion - other.completion, self.money - other.money)

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion

    def to_json(self) -> list[float]:
        return [self.prompt, self.completion, self.money]


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens; any currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt: int, completion: int) -> Cost:
        return Cost(prompt, completion, (prompt * self.prompt + completion * self.completion) / 1e6)


class BudgetReached(Exception):
    """The next request could cost more than is left."""


class Budget:
    """Spending that never passes a limit: the most a request can cost is set aside before it is sent.

    Args:
        money, tokens: the limits; None for none.
        spent: by earlier runs, requests that were in flight when a run was killed counted in full.
    """

    def __init__(self, money: float | None, tokens: int | None, spent: Cost = Cost()) -> None:
        self.money, self.tokens, self.spent = money, tokens, spent
        self._reserved, self._open = Cost(), 0
        self._changed = asyncio.Condition()

    async def reserve(self, most: Cost) -> None:
        """Set `most` aside. Waits while requests in flight may still give something back.

        Raises:
            BudgetReached: when it does not fit and nothing is in flight.
        """
        async with self._changed:
            while not self._fits(self.spent + self._reserved + most):
                if not self._open:
                    raise BudgetReached
                await self._changed.wait()
            self._reserved, self._open = self._reserved + most, self._open + 1

    async def settle(self, most: Cost, actual: Cost) -> None:
        """Give back what was set aside and book what it cost."""
        async with self._changed:
            self._reserved, self._open = self._reserved - most, self._open - 1
            self.spent = self.spent + actual
            self._changed.notify_all()

    def _fits(self, total: Cost) -> bool:
        # A billionth is rounding: limits are given in decimal, sums are binary.
        return (self.money is None or total.money <= self.money * (1 + 1e-9)) and (
            self.tokens is None or total.tokens <= self.tokens
        )


class Pace:
    """Requests and tokens a minute, evenly spaced, and pauses that an endpoint asks for."""

    def __init__(self, requests: float | None = None, tokens: float | None = None) -> None:
        self._requests, self._tokens = requests, tokens
        self._next = self._paused_until = 0.0

    async def turn(self, tokens: int) -> None:
        """Wait for the turn of a request of about so many tokens."""
        now = time.monotonic()
        mine = max(now, self._next)
        gap = 60 / self._requests if self._requests else 0.0
        if self._tokens:
            gap = max(gap, tokens * 60 / self._tokens)
        self._next = mine + gap
        while (wait := max(mine, self._paused_until) - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def pause(self, seconds: float) -> None:
        """Nobody's turn comes within `seconds` from now."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


class Meter:
    """Tokens of a prompt before it is sent: about how many, and at most how many.

    Text has no more tokens than bytes. What a picture takes is the endpoint's secret: `image_tokens` says it,
    otherwise its size gives it, and an answer that shows more raises the bound of all later requests.
    """

    def __init__(self, image_tokens: int | None = None) -> None:
        self.image_tokens, self.factor = image_tokens, 1.0

    def expected(self, messages: list[dict[str, Any]]) -> int:
        return 8 + sum(
            len(part["text"].encode()) // 4 + 1
            if part["type"] == "text"
            else self._image(part["image"])
            if part["type"] == "image"
            else 1
            for message in messages
            for part in message["content"]
        )

    def bound(self, messages: list[dict[str, Any]]) -> int:
        total = 64
        for message in messages:
            for part in message["content"]:
                if part["type"] == "text":
                    total += len(part["text"].encode())
                elif part["type"] == "image" and self.image_tokens is not None:
                    total += self.image_tokens
                elif part["type"] == "image":
                    total += max(LEAST_IMAGE_BOUND, 2 * self._image(part["image"]))
                else:
                    total += 16
        return int(total * self.factor)

    def learn(self, bound: int, actual: int) -> None:
        """A prompt for which `bound` was set aside took `actual` tokens."""
        if actual > bound > 0:
            self.factor *= 1.1 * actual / bound

    def _image(self, image: Any) -> int:
        if self.image_tokens is not None:
            return self.image_tokens
        return image.width * image.height // PIXELS_PER_TOKEN + 2

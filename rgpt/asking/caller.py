"""One answer: from the journal if it was paid for, else asked, within budget and pace, with retries."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from rgpt.asking.budget import Budget, Cost, Meter, Pace, Prices
from rgpt.asking.ledger import Answer, Ledger
from rgpt.backends import Backend, BackendError, Completion
from rgpt.errors import InputError
from rgpt.journal import Journal


class GaveUp(Exception):
    """All tries of a request failed; another run tries again."""


class Stopped(Exception):
    """The run ends early. The message says why."""


@dataclass(frozen=True)
class Asked:
    """A model and what it costs."""

    backend: Backend
    prices: Prices


@dataclass(frozen=True)
class RetryPolicy:
    """Wait `first` seconds, then twice as long each time up to `longest`, with jitter; or as long as the
    endpoint says, up to `longest_asked`."""

    tries: int = 6
    first: float = 1.0
    longest: float = 60.0
    longest_asked: float = 600.0
    stop_after: int = 20
    """Requests given up in a row, in the whole run, after which it stops: the endpoint is down."""

    def wait(self, attempt: int, asked: float | None, rng: random.Random) -> float:
        """Seconds after failed attempt number `attempt` (from 1)."""
        if asked is not None:
            return min(asked, self.longest_asked)
        longest = min(self.longest, self.first * 2 ** (attempt - 1))
        return longest * (0.5 + rng.random() / 2)


class Caller:
    """Asks on behalf of every worker. `stop_reason` is set when no more should be asked."""

    def __init__(
        self, journal: Journal, state: Ledger, budget: Budget, pace: Pace, retries: RetryPolicy
    ) -> None:
        self.journal, self.state, self.budget = journal, state, budget
        self.pace, self.retries = pace, retries
        self.stop_reason = ""
        self._failed_in_a_row = 0
        self._rng = random.Random()

    @property
    def meter(self) -> Meter:
        return self.state.meter

    async def answer(
        self,
        key: str,
        asked: Asked,
        messages: list[dict[str, Any]],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> Answer:
        """The answer to `key`; it is in the journal when this returns.

        Raises:
            GaveUp: when every try failed.
            BudgetReached: when the request might cost more than is left.
            Stopped: when the run is ending.
        """
        if (known := self.state.answers.get(key)) is not None:
            return known
        for attempt in range(1, self.retries.tries + 1):
            bound = self.meter.bound(messages)
            most = asked.prices.of(bound, max_tokens)
            await self.pace.turn(self.meter.expected(messages) + max_tokens // 2)
            await self.budget.reserve(most)
            if self.stop_reason:
                await self.budget.settle(most, Cost())
                raise Stopped(self.stop_reason)
            self.state.requests += 1
            n = self.state.requests
            # On disk before it is sent: if this process dies, its successor knows what may have been spent.
            await self._record({"kind": "request", "n": n, "key": key, "reserve": most.to_json()})
            try:
                completion = await asked.backend.complete_async(
                    messages, max_tokens=max_tokens, temperature=temperature, seed=seed
                )
            except InputError as error:  # of a local model, say a prompt longer than its context
                completion, cost = Completion(str(error), 0, 0, "rejected"), Cost()
                self._count_failure(str(error))
            except BackendError as error:
                cost = most if error.billed else Cost()
                if error.kind != "request":
                    record = {
                        "kind": "failure",
                        "n": n,
                        "key": key,
                        "error": str(error),
                        "cost": cost.to_json(),
                    }
                    await self._record(record)
                    await self.budget.settle(most, cost)
                    await self._after_failure(error, attempt)
                    continue
                # This request will never be taken: that is its answer.
                completion = Completion(str(error), 0, 0, "rejected")
                self._count_failure(str(error))
            else:
                self._failed_in_a_row = 0
                cost = asked.prices.of(completion.prompt_tokens, completion.completion_tokens)
                if not completion.counted:
                    cost = most
            await self.note_changes(asked.backend)
            await self._record(
                {
                    "kind": "answer",
                    "n": n,
                    "key": key,
                    "text": completion.text,
                    "finish_reason": completion.finish_reason,
                    "cost": cost.to_json(),
                    "counted": completion.counted,
                }
            )
            await self.budget.settle(most, cost)
            return Answer(completion.text, completion.finish_reason)
        raise GaveUp(f"{key}: no answer in {self.retries.tries} tries")

    async def _after_failure(self, error: BackendError, attempt: int) -> None:
        if not error.retryable:
            self.stop_reason = f"the endpoint will not answer any request ({error})"
            raise Stopped(self.stop_reason)
        if attempt == self.retries.tries:
            self._count_failure(str(error))
            return
        seconds = self.retries.wait(attempt, error.retry_after, self._rng)
        if error.kind == "rate limit":
            self.pace.pause(seconds)  # the others would run into the same wall
        elif not self.stop_reason:
            await asyncio.sleep(seconds)

    def _count_failure(self, message: str) -> None:
        self._failed_in_a_row += 1
        tqdm.write(f"given up: {message[:200]}")
        if self._failed_in_a_row >= self.retries.stop_after:
            self.stop_reason = (
                f"{self._failed_in_a_row} requests in a row were given up, the last: {message[:200]}"
            )

    async def note_changes(self, backend: Backend) -> None:
        """Put into the journal what the endpoint would not be told, once for each change."""
        if backend.changed != self.state.changed.get(backend.name, {}):
            changed = dict(backend.changed)
            await self._record({"kind": "parameters", "backend": backend.name, "changed": changed})

    async def _record(self, record: dict[str, Any]) -> None:
        await self.journal.append(record)
        self.state.replay(record)

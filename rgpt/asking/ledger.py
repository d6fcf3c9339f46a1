"""What a journal says of requests: which answers were paid for, what was spent.

Records, by `kind`:

    request     n, key, reserve [tokens in, tokens out, money]     written before a request is sent
    answer      n, key, text, finish_reason, cost […], counted     the request was answered
    failure     n, key, error, cost […]                            it was not; cost is what it may have cost
    parameters  backend, changed {name: other name or null}        what the endpoint refused to be told

A request without answer or failure was in flight when its run was killed: it counts as spent in full.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rgpt.asking.budget import Cost, Meter


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str


class Ledger:
    """Built by `replay`, kept up to date by the run through the same method; other kinds are passed over."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.answers: dict[str, Answer] = {}
        """By key, of what is not finished."""
        self.changed: dict[str, dict[str, str | None]] = {}
        """By backend, `Backend.changed` of the answers since."""
        self.requests = 0
        self.meter = Meter()
        self._settled = Cost()
        self._open: dict[int, Cost] = {}

    def replay(self, record: dict[str, Any]) -> None:
        """Take in one record."""
        kind = record.get("kind")
        if kind == "request":
            self.requests = max(self.requests, record["n"])
            self._open[record["n"]] = Cost(*record["reserve"])
        elif kind in ("answer", "failure"):
            reserve = self._open.pop(record["n"], Cost())
            cost = Cost(*record["cost"])
            self._settled += cost
            if kind == "failure":
                self.failures[record["error"].partition(":")[0]] += 1
            else:
                self.meter.learn(reserve.prompt, cost.prompt)
                self.answers[record["key"]] = Answer(record["text"], record["finish_reason"])
        elif kind == "parameters":
            self.changed[record["backend"]] = dict(record["changed"])

    @property
    def spent(self) -> Cost:
        """What was paid, and at most paid for requests whose end is unknown."""
        return sum(self._open.values(), self._settled)

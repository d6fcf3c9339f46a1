"""What a journal says: which regions are finished, which answers were paid for, what was spent.

Records after the header, by `kind`:

    request   n, key, reserve [tokens in, tokens out, money]     written before a request is sent
    answer    n, key, text, finish_reason, cost […], counted     the request was answered
    failure   n, key, error, cost […]                            it was not; cost is what it may have cost
    region    id, image, region, name, status, …                 a region is finished; once for each region
    parameters  backend, changed {name: other name or null}      what the endpoint refused to be told

A request without answer or failure was in flight when its run was killed: it counts as spent in full.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_recipes.recap.answers import OK, REPEATED, fingerprint
from data_recipes.recap.budget import Cost, Meter
from rgpt.errors import InputError

PICTURE, REGION, REPHRASE = "picture", "region", "rephrase"


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str


class State:
    """Built by `replay`, kept up to date by the run through the same method."""

    def __init__(self) -> None:
        self.finished: set[str] = set()
        self.statuses: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.answers: dict[str, Answer] = {}
        """By key, of pictures and of regions that are not finished."""
        self.captions: dict[str, set[bytes]] = {}
        """Picture → fingerprints of its regions' captions."""
        self.changed: dict[str, dict[str, str | None]] = {}
        """By backend, `Backend.changed` of the answers since."""
        self.words = self.requests = 0
        self.meter = Meter()
        self._settled = Cost()
        self._open: dict[int, Cost] = {}

    def replay(self, record: dict[str, Any]) -> None:
        """Take in one record. Raises InputError when a region is finished twice."""
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
        elif kind == "region":
            self._finish(record)
        elif kind == "parameters":
            self.changed[record["backend"]] = dict(record["changed"])

    def _finish(self, record: dict[str, Any]) -> None:
        region = record["id"]
        if region in self.finished:
            raise InputError(f"the journal finishes the region {region!r} twice; remove one of the lines.")
        self.finished.add(region)
        self.statuses[record["status"]] += 1
        if record["status"] == OK:
            self.words += len(record["caption"].split())
        if record["status"] in (OK, REPEATED):
            self.captions.setdefault(record["image"], set()).add(fingerprint(record["caption"]))
        self.answers.pop(f"{REGION}:{region}", None)
        for n in range(1, record.get("rephrasings_asked", 0) + 1):
            self.answers.pop(f"{REPHRASE}:{region}:{n}", None)

    @property
    def spent(self) -> Cost:
        """What was paid, and at most paid for requests whose end is unknown."""
        return sum(self._open.values(), self._settled)


def journals(folder: Path) -> list[Path]:
    """The journals of all shards in a folder, in order. Raises InputError when there is none."""
    found = sorted(folder.glob("journal-*-of-*.jsonl"))
    if not found:
        raise InputError.about(
            f"folder {str(folder)!r}", "a journal of python -m data_recipes.recap run", "none", "run it first"
        )
    return found

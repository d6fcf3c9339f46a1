"""What a journal says: which regions are finished, beside what `rgpt.asking.ledger` reads of requests.

Its own record:

    region    id, image, region, name, status, …                 a region is finished; once for each region
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rgpt.asking.answers import OK, REPEATED, fingerprint
from rgpt.asking.ledger import Ledger
from rgpt.errors import InputError

PICTURE, REGION, REPHRASE = "picture", "region", "rephrase"


class State(Ledger):
    """Built by `replay`, kept up to date by the run through the same method."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: set[str] = set()
        self.statuses: Counter[str] = Counter()
        self.captions: dict[str, set[bytes]] = {}
        """Picture → fingerprints of its regions' captions."""
        self.words = 0

    def replay(self, record: dict[str, Any]) -> None:
        """Take in one record. Raises InputError when a region is finished twice."""
        super().replay(record)
        if record.get("kind") == "region":
            self._finish(record)

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


def journals(folder: Path) -> list[Path]:
    """The journals of all shards in a folder, in order. Raises InputError when there is none."""
    found = sorted(folder.glob("journal-*-of-*.jsonl"))
    if not found:
        raise InputError.about(
            f"folder {str(folder)!r}", "a journal of python -m data_recipes.recap run", "none", "run it first"
        )
    return found

"""Stand-ins that answer without a model."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from types import SimpleNamespace


class FakeSession:
    """Says, word by word, the area of every region that a question mentions."""

    def __init__(self, engine: FakeEngine, image) -> None:
        self.engine, self.image, self.turns, self.regions = engine, image, [], {}

    def check(self, question: str) -> None:
        for region in self.regions.values():
            region.check_inside(self.image.height, self.image.width)

    def stream(self, question: str) -> Iterator[str]:
        asked = SimpleNamespace(image=self.image, regions=self.regions, history=self.turns, said=0)
        self.engine.streams.append(asked)
        words = ["Answer:"]
        for number in map(int, re.findall(r"<region(\d+)>", question)):
            mask = self.regions[number].to_mask(self.image.height, self.image.width)
            words += [f"<region{number}>", f"covers {mask.sum()} px."]
        words += ["word"] * self.engine.padding
        try:
            for asked.said, word in enumerate(words, 1):
                yield word + " "
                time.sleep(self.engine.delay)
        finally:
            self.engine.closed += 1

    def another(self) -> FakeSession:
        return FakeSession(self.engine, self.image)

    def ask_many(self, question: str, regions, *, as_number: int | None = None) -> dict[int, str]:
        self.engine.batches.append((question, list(regions)))
        time.sleep(self.engine.delay)
        areas = {n: int(self.regions[n].to_mask(self.image.height, self.image.width).sum()) for n in regions}
        return {n: f"<region{as_number or n}> covers {area} px." for n, area in areas.items()}


class FakeEngine:
    """Counts what was opened and closed, and keeps what every stream was asked with."""

    name = "fake"
    notes = "Knows areas only & nothing about <b>pictures</b>."

    def __init__(self) -> None:
        self.streams: list[SimpleNamespace] = []
        self.batches: list[tuple[str, list[int]]] = []
        self.opened, self.closed, self.delay, self.padding = 0, 0, 0.0, 0

    def open(self, image) -> FakeSession:
        self.opened += 1
        return FakeSession(self, image)

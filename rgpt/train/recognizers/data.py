"""What recognizers learn from: pictures with named regions, or pictures with captions.

Every source is a sequence of `Example`s. `Batches` draws from several evenly; a batch is decided by its step
alone, so a run that resumes sees what it would have seen.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rgpt.errors import InputError
from rgpt.train.recognizers.drawn import SCENES, Scenes
from rgpt.train.recognizers.example import Example, Source
from rgpt.train.recognizers.records import Captions, Detections

KINDS: dict[str, Any] = {"scenes": Scenes, "detections": Detections, "captions": Captions}


def open_data(settings: dict[str, Any]) -> Source:
    """The source of one entry of a config's `data`: `kind` and that class's arguments. Raises InputError."""
    if not isinstance(settings, dict):
        raise InputError.about("data", "entries of keys and values", repr(settings)[:60], "write kind: …")
    rest = dict(settings)
    kind = rest.pop("kind", None)
    if kind not in KINDS:
        raise InputError.about("data", f"kind {', '.join(KINDS)}", repr(kind))
    try:
        return KINDS[kind](**rest)
    except TypeError as error:
        raise InputError.about(f"data of kind {kind}", "its own settings", str(error)) from error


@dataclass(frozen=True)
class Batch:
    """Examples of one source, whose vocabulary is `names`."""

    examples: tuple[Example, ...]
    source: str
    names: Sequence[str]
    step: int


class Batches:
    """Batch number `step` for process `rank` of `world`; each source has the same chance."""

    def __init__(self, sources: Sequence[Source], size: int, seed: int) -> None:
        self.sources, self.size, self.seed = tuple(sources), size, seed
        names = [source.name for source in sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError.about(
                "data",
                "another name for each data set (its vocabulary is kept by it)",
                f"{', '.join(twice)} more than once",
                "give each entry its own name",
            )

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        rng = random.Random(f"source {self.seed} {step}")
        source = rng.choice(self.sources)
        first = (step * world + rank) * self.size
        examples = tuple(self._example(source, first + i) for i in range(self.size))
        return Batch(examples, source.name, source.names, step)

    def _example(self, source: Source, position: int) -> Example:
        epoch, index = divmod(position, len(source))
        if len(source) < SCENES or not getattr(source, "independent", False):
            # Files may lie in the order of their classes; a million drawn scenes need no shuffling.
            index = _permutation(len(source), f"{self.seed} {source.name} {epoch}")[index]
        return source.drawn(index, epoch) if isinstance(source, Captions | Detections) else source[index]


@lru_cache(maxsize=8)
def _permutation(count: int, key: str) -> array[int]:
    order = array("Q", range(count))
    random.Random(key).shuffle(order)
    return order

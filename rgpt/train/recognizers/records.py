"""Files of the data recipes as sources of examples: detection records and captions, a line each."""

from __future__ import annotations

import json
import math
import random
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.recognizers.region_set import RegionSet
from rgpt.regions import open_image, region_from_json
from rgpt.train.recognizers.example import Example


class Lines:
    """Byte offsets of a JSONL file's lines: random access without holding the file."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError.about(f"data {str(path)!r}", "a JSONL file", "none here")
        self.path, self.starts, offset = path, array("Q"), 0
        with open(path, "rb") as stream:
            for line in stream:
                if line.strip():
                    self.starts.append(offset)
                offset += len(line)
        if not self.starts:
            raise InputError.about(f"data {str(path)!r}", "lines", "none", "fill it")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with open(self.path, "rb") as stream:
            stream.seek(self.starts[index])
            try:
                value = json.loads(stream.readline())
            except ValueError as error:
                raise self.wrong(index, f"no JSON: {error}") from error
        if not isinstance(value, dict):
            raise self.wrong(index, "no object")
        return value

    def wrong(self, index: int, problem: str) -> InputError:
        """The sentence about a record, counted from 1."""
        return InputError(f"{self.path}, record {index + 1}: {problem}; repair or remove it.")


class Detections:
    """Detection records of the data recipes: `{"id", "image", "width", "height", "regions", "names"}` a line.

    Args:
        path: the JSONL file; pictures are relative to its folder.
        names: the data set's vocabulary as a list or a file of one name a line; absent: all names that occur,
            which reads the file once. Names with one text are merged (V3Det has 59 such).
        flip: mirror half of the pictures, with their regions; the same half every time, so that SAM tokens
            cached for the mirrored pixels are found again.
        jitter: least and most factor of `Example.jittered`, drawn anew in every epoch; cached tokens would
            never be found again.
        repeat: pictures with names that are on less than this share of all pictures come oftener, see
            `repeat_factors` (LVIS: 0.001); reads the file once.
    """

    def __init__(
        self,
        path: str,
        name: str = "",
        names: Any = None,
        flip: bool = False,
        jitter: Sequence[float] | None = None,
        repeat: float = 0.0,
    ) -> None:
        if jitter is not None and not (len(jitter) == 2 and 0 < jitter[0] <= jitter[1]):
            raise InputError.about("jitter of detections", "least and most", repr(jitter))
        if not repeat >= 0:
            raise InputError.about("repeat of detections", "a share, at least 0", repr(repeat))
        self.lines, self.flip, self.jitter = Lines(Path(path)), flip, jitter
        self.name = name or Path(path).stem
        self._names = names
        self.records = array("Q", range(len(self.lines)))
        if repeat:
            rng = random.Random(f"repeat {self.name}")
            # Names outside of a given vocabulary are no ground truth, however rare: they do not count.
            known = set(self.names)
            listed = [[name for name in self._names_of(i) if name in known] for i in self.records]
            factors = repeat_factors(listed, repeat)
            # 1.3 times is once, and in three of ten cases once more.
            times = [int(factor) + (rng.random() < factor % 1) for factor in factors]
            self.records = array("Q", (i for i, n in enumerate(times) for _ in range(n)))

    @cached_property
    def names(self) -> Sequence[str]:
        if isinstance(self._names, list):
            return self._names
        if self._names:
            from rgpt.recognizers.vocabulary import read_vocabulary

            return read_vocabulary(str(self._names)).given
        seen: dict[str, None] = {}
        for index in range(len(self.lines)):
            seen |= dict.fromkeys(self._names_of(index))
        return list(seen)

    def _names_of(self, record: int) -> list[str]:
        """All names of a record; a region may have several."""
        given = self.lines[record].get("names", ())
        return [name for own in given for name in ([own] if isinstance(own, str) else own)]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        return self.drawn(index, 0)

    def drawn(self, index: int, epoch: int) -> Example:
        """Picture `index` as this epoch draws it."""
        example = self._example(self.records[index])
        if self.jitter is None:
            return example
        return example.jittered(
            self.jitter[0], self.jitter[1], random.Random(f"jitter {self.name} {index} {epoch}")
        )

    def _example(self, index: int) -> Example:
        row = self.lines[index]
        try:
            image = open_image(self.lines.path.parent / row["image"])
            regions = tuple(region_from_json(region) for region in row["regions"])
            if (image.width, image.height) != (row["width"], row["height"]) or len(regions) != len(
                row["names"]
            ):
                raise InputError(
                    f"{image.width} x {image.height} pixels and {len(regions)} regions do not fit the record"
                )
            own = RegionSet(regions, image.height, image.width, source=self.name)
        except (InputError, KeyError, TypeError) as error:
            raise self.lines.wrong(index, f"{type(error).__name__}: {error}") from error
        names = tuple((name,) if isinstance(name, str) else tuple(name) for name in row["names"])
        example = Example(image, own, names)
        return example.flipped() if self.flip and random.Random(f"flip {index}").random() < 0.5 else example


def repeat_factors(names: Sequence[Sequence[str]], threshold: float) -> list[float]:
    """How often each picture comes: the largest √(threshold / share) of its names, at least 1.

    Args:
        names: of every picture. threshold: names on a smaller share of the pictures count as rare.

    Source: repeat-factor sampling of LVIS (arXiv 1908.03195, appendix B).
    """
    counts = Counter(name for own in names for name in set(own))
    rarity = {name: max(1.0, math.sqrt(threshold * len(names) / n)) for name, n in counts.items()}
    return [max((rarity[name] for name in own), default=1.0) for own in names]


class Captions:
    """Pictures with captions, `{"image", "captions": [...]}` a line; one caption is drawn at random, another
    one in each epoch."""

    def __init__(self, path: str, name: str = "") -> None:
        self.lines = Lines(Path(path))
        self.name = name or Path(path).stem
        self.names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Example:
        return self.drawn(index, 0)

    def drawn(self, index: int, epoch: int) -> Example:
        """Picture `index` with the caption that this epoch draws."""
        row = self.lines[index]
        try:
            image = open_image(self.lines.path.parent / row["image"])
            caption = random.Random(f"caption {index} {epoch}").choice(row["captions"])
        except (InputError, KeyError, TypeError, IndexError) as error:
            raise self.lines.wrong(index, f"{type(error).__name__}: {error}") from error
        return Example(image, RegionSet((), image.height, image.width, source=self.name), caption=caption)

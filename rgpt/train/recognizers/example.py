"""One training example: a picture with named regions, or with a caption."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image

from rgpt.recognizers.region_set import RegionSet
from rgpt.regions import Box, Frame, Region


@dataclass(frozen=True)
class Example:
    """A picture, its regions, each region's names (synonyms count together) and a caption (may be empty)."""

    image: Image.Image
    regions: RegionSet
    names: tuple[tuple[str, ...], ...] = ()
    caption: str = ""

    def flipped(self) -> Example:
        """Picture and regions mirrored together; a caption that says left or right is dropped."""
        frame = Frame(self.image, list(self.regions.regions)).flip_horizontal()
        moved = tuple(frame.regions[i] for i in sorted(frame.regions))
        caption = "" if re.search(r"\b(left|right)", self.caption, re.IGNORECASE) else self.caption
        own = replace_regions(self.regions, moved)
        return replace(self, image=frame.image, regions=own, caption=caption)

    def jittered(self, least: float, most: float, rng: random.Random) -> Example:
        """Large-scale jitter: everything `least` to `most` times as large on a picture of the same size, cut
        out anywhere or padded with black at the right and below; regions that were cut off are gone [A].
        """
        factor, (width, height) = rng.uniform(least, most), self.image.size
        frame = Frame(self.image.convert("RGB"), list(self.regions.regions))
        frame = frame.resize(max(1, round(height * factor)), max(1, round(width * factor)))
        left, top = rng.randint(0, max(0, frame.width - width)), rng.randint(0, max(0, frame.height - height))
        right, bottom = min(frame.width, left + width), min(frame.height, top + height)
        frame = frame.crop(Box(left, top, right, bottom), drop_outside=True).pad(height, width)
        kept = sorted(frame.regions)
        own = replace_regions(self.regions, tuple(frame.regions[i] for i in kept))
        return replace(self, image=frame.image, regions=own, names=tuple(self.names[i - 1] for i in kept))


def replace_regions(old: RegionSet, regions: tuple[Region, ...]) -> RegionSet:
    """The same picture's set with other regions."""
    return RegionSet(regions, old.height, old.width, source=old.source)


class Source(Protocol):
    """A data set: examples by number, and all names that occur."""

    name: str
    names: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

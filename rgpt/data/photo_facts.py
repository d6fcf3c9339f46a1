"""What a photograph's annotations say: directions, places, sizes, colours, and how often things are met.

Everything is computed from a `Photograph`'s boxes, outlines, class names, captions and, for colours, pixels;
never by a model. Directions, places and sizes are those of boxes in the picture; places are the thirds of the
picture in which a box has its centre.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rgpt.data.class_words import (
    COLOUR_SPELLINGS,
    COLOURED,
    PERSON,
    caption_phrase,
)
from rgpt.data.colour_names import colour_of
from rgpt.data.photographs import Photograph, PhotoObject, class_counts
from rgpt.data.scene_questions import DIRECTIONS
from rgpt.regions import Box

MIN_SIDE, MIN_AREA = 10, 80
"""Pixels and square pixels: smaller boxes cannot be told, and are asked about only with `too_small`."""
TINY_SHARE = 0.15
"""How likely a tiny object is chosen compared with another of its class."""
LARGE, SMALL = 0.2, 0.01
"""Shares of the picture that a box is called large or small at."""


@dataclass(frozen=True)
class NumberedPhoto:
    """A photograph some of whose objects got region numbers: region n is `objects[n - 1]`.

    `pixels` [H, W, 3] (uint8) are needed for colours alone.
    """

    photograph: Photograph
    objects: tuple[PhotoObject, ...]
    pixels: np.ndarray | None = field(default=None, compare=False)

    def __getitem__(self, number: int) -> PhotoObject:
        return self.objects[number - 1]

    @property
    def numbers(self) -> range:
        return range(1, len(self.objects) + 1)

    @cached_property
    def classes(self) -> frozenset[str]:
        """Of all that the picture holds, crowds among them."""
        return frozenset(item.name for item in self.photograph.objects)


def is_tiny(item: PhotoObject) -> bool:
    """Whether a region is too small to tell what it is."""
    width, height = item.box.x2 - item.box.x1, item.box.y2 - item.box.y1
    return min(width, height) < MIN_SIDE or item.box.area < MIN_AREA


def centre(box: Box) -> tuple[float, float]:
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2


def overlap(a: Box, b: Box) -> float:
    """Shared area as a share of the smaller box, in [0, 1]."""
    width, height = min(a.x2, b.x2) - max(a.x1, b.x1), min(a.y2, b.y2) - max(a.y1, b.y1)
    return width * height / min(a.area, b.area) if width > 0 and height > 0 else 0.0


def direction(photograph: Photograph, a: Box, b: Box) -> str | None:
    """Where `a` is as seen from `b`; None unless it is clear.

    Clear: the centres are a twentieth of the picture apart, one direction wins 1.5 to 1, and the boxes share
    at most a fifth of the smaller extent along it.
    """
    (ax, ay), (bx, by) = centre(a), centre(b)
    dx, dy = ax - bx, ay - by
    if max(abs(dx), abs(dy)) < 0.05 * max(photograph.width, photograph.height):
        return None
    if abs(dx) >= 1.5 * abs(dy):
        shared, least = min(a.x2, b.x2) - max(a.x1, b.x1), min(a.x2 - a.x1, b.x2 - b.x1)
        side = "left" if dx < 0 else "right"
    elif abs(dy) >= 1.5 * abs(dx):
        shared, least = min(a.y2, b.y2) - max(a.y1, b.y1), min(a.y2 - a.y1, b.y2 - b.y1)
        side = "above" if dy < 0 else "below"
    else:
        return None
    return side if shared <= 0.2 * least else None


def wrong_sides(a: Box, b: Box) -> list[str]:
    """The sides of `b` on which the centre of `a` is not at all."""
    (ax, ay), (bx, by) = centre(a), centre(b)
    holds = {"left": ax < bx, "right": ax > bx, "above": ay < by, "below": ay > by}
    return [side for side in DIRECTIONS if not holds[side]]


def place(photograph: Photograph, box: Box) -> str:
    """Where a box is in the picture: "in the upper left", "in the middle", "on the right side" …"""
    x, y = centre(box)
    column = ("left", "", "right")[min(2, int(3 * x / photograph.width))]
    row = ("upper", "", "lower")[min(2, int(3 * y / photograph.height))]
    if not row:
        return f"on the {column} side" if column else "in the middle"
    return f"in the {row} {column or 'middle'}"


def neighbours(photograph: Photograph, target: PhotoObject, side: str) -> list[PhotoObject] | None:
    """What stands next to `target` on that side, nearest first; None where it is not clear.

    Next to: clearly in that direction, within a third of the picture, and level with it (the boxes share half
    of the smaller extent across). Tiny things do not count; a crowd on that side makes it unclear.
    """
    across, along = (1, 0) if side in ("left", "right") else (0, 1)
    reach = (photograph.width, photograph.height)[along] / 3
    t, found = target.box.xyxy, []
    for item in photograph.objects:
        if item is target or is_tiny(item):
            continue
        b = item.box.xyxy
        level = min(t[across + 2], b[across + 2]) - max(t[across], b[across])
        extent = min(t[across + 2] - t[across], b[across + 2] - b[across])
        gap = t[along] - b[along + 2] if side in ("left", "above") else b[along] - t[along + 2]
        if level < 0.5 * extent or gap > reach:
            continue
        if direction(photograph, item.box, target.box) != side:
            if gap > -0.5 * (b[along + 2] - b[along]) and side not in wrong_sides(item.box, target.box):
                return None  # half beside, half in front: a person might name it or not
            continue
        if item.crowd:
            return None
        found.append((gap, item))
    return [item for _, item in sorted(found, key=lambda pair: pair[0])]


def phrases(photograph: Photograph, item: PhotoObject) -> list[str]:
    """What the captions say of the object, where it is the only one of its class; bare names left out."""
    if sum(other.name == item.name for other in photograph.objects) != 1 or is_tiny(item):
        return []
    found = (caption_phrase(caption, item.name) for caption in photograph.captions)
    return [phrase for phrase in found if phrase and len(phrase.split()) > 1 + len(item.name.split())]


def known_colour(n: NumberedPhoto, item: PhotoObject) -> str | None:
    """From the captions where they agree on one, else from the pixels where they are clear."""
    if item.name not in COLOURED or is_tiny(item):
        return None
    said = set()
    for phrase in phrases(n.photograph, item):
        words = phrase.split()
        head = words.index(item.name.split()[-1]) if item.name.split()[-1] in words else 0
        colours = [COLOUR_SPELLINGS[word] for word in words[:head] if word in COLOUR_SPELLINGS]
        said |= {" and ".join(colours)} if colours else set()
    if said:
        return said.pop() if len(said) == 1 else None
    return None if n.pixels is None else colour_of(n.pixels, item.region, item.box)


def size_word(photograph: Photograph, item: PhotoObject) -> str:
    """ "large", "small" or "" by the box's share of the picture."""
    share = item.box.area / (photograph.width * photograph.height)
    return "large" if share >= LARGE else "small" if share <= SMALL else ""


class Frequencies:
    """How often classes are, and from which a false "Is there …?" or "Is this …?" draws its class.

    The classes of false statements must be as frequent as those of true ones, or "person" alone would answer
    yes. As a false class must also be absent, plain draws would not have these frequencies: the weights are
    fitted in rounds (iterative proportional fitting) over all photographs.
    """

    def __init__(self, photographs: Sequence[Photograph]) -> None:
        counts = class_counts(photographs)
        self.names = tuple(sorted(counts))
        self.share = {name: counts[name] / max(1, counts.total()) for name in self.names}
        index = {name: i for i, name in enumerate(self.names)}
        has = np.zeros((len(photographs), len(self.names)), dtype=bool)
        region = np.zeros(has.shape)  # chance that a question's region is of the class
        for row, photograph in enumerate(photographs):
            for item in photograph.objects:
                if item.name in index:
                    has[row, index[item.name]] = True
            for item in photograph.singles:
                if not is_tiny(item):
                    region[row, index[item.name]] += self.weight(item)
        region /= np.maximum(region.sum(1, keepdims=True), 1e-9)
        present = has * self._by_name(self.class_weight)
        present /= np.maximum(present.sum(1, keepdims=True), 1e-9)
        self.absent_weight = self._fitted(present.sum(0), ~has)
        # Half of a region's false names stand elsewhere in the picture. Few classes do, so their weights get
        # a factor, found by bisection of its logarithm.
        low, high = 0.0, 12.0
        for _ in range(12):
            middle = (low + high) / 2
            self.elsewhere_factor = math.exp(middle)
            near = self.elsewhere_factor * has * (1 - region)
            self.region_weight = self._fitted(region.sum(0), near + ~has)
            weights = self._by_name(self.region_weight.__getitem__)
            share = near @ weights / np.maximum((near + ~has) @ weights, 1e-12)
            low, high = (low, middle) if share.mean() > 0.5 else (middle, high)

    def class_weight(self, name: str) -> float:
        return 1 / math.sqrt(self.share.get(name) or 1e-4)

    def weight(self, item: PhotoObject) -> float:
        """How likely an object is chosen: 1 / sqrt(frequency), so that people do not drown the rest."""
        return self.class_weight(item.name)

    def _by_name(self, value: Callable[[str], float]) -> np.ndarray:
        return np.array([value(name) for name in self.names])

    def _fitted(self, wanted: np.ndarray, allowed: np.ndarray) -> dict[str, float]:
        wanted = wanted / max(wanted.sum(), 1e-9)
        weights = wanted.copy()
        for _ in range(40):
            drawn = allowed * weights
            drawn = (drawn / np.maximum(drawn.sum(1, keepdims=True), 1e-12)).sum(0)
            weights *= wanted / np.maximum(drawn / max(drawn.sum(), 1e-12), 1e-12)
            weights /= max(weights.sum(), 1e-12)
        return dict(zip(self.names, weights.tolist(), strict=True))

    def false_name(self, name: str, classes: Iterable[str], rng: random.Random) -> str | None:
        """What a thing of class `name` is not; half of the time a class that is elsewhere among `classes`."""
        there = set(classes)
        factor = [self.elsewhere_factor if each in there else 1.0 for each in self.names]
        weights = [
            0.0 if each == name else f * self.region_weight[each]
            for each, f in zip(self.names, factor, strict=True)
        ]
        return rng.choices(self.names, weights)[0] if sum(weights) > 0 else None

    def absent(self, classes: Iterable[str], weights: dict[str, float], rng: random.Random) -> str | None:
        """A class that is not among `classes`, drawn by `weights`."""
        banned = set(classes)
        names = [name for name in self.names if name not in banned and weights[name] > 0]
        return rng.choices(names, [weights[name] for name in names])[0] if names else None


def choose_objects(
    photograph: Photograph, frequencies: Frequencies, rng: random.Random, count: int
) -> list[PhotoObject]:
    """Up to `count` objects in random order, rare classes rather than frequent ones.

    Of people two at most, of another class four.
    """
    pool = list(photograph.singles)
    # Sampling without replacement by weights (Efraimidis and Spirakis): the largest u^(1/w) win.
    keys = {
        item.id: math.log(rng.random() or 1e-12)
        / (frequencies.weight(item) * (TINY_SHARE if is_tiny(item) else 1.0))
        for item in pool
    }
    chosen: list[PhotoObject] = []
    taken: Counter[str] = Counter()
    for item in sorted(pool, key=lambda item: keys[item.id], reverse=True):
        if len(chosen) < count and taken[item.name] < (2 if item.name == PERSON else 4):
            chosen.append(item)
            taken[item.name] += 1
    rng.shuffle(chosen)
    return chosen

"""What readers of annotation files give: a picture's name, its size as claimed, and labelled objects.

Numbers are as written, in one of `UNITS`; `AnnotatedObject.in_pixels` brings every spelling of a geometry
(corners in any order, negative extents, turned boxes, fractions, percent) to one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

import numpy as np

from rgpt.errors import InputError
from rgpt.regions import RLE, Mask

UNITS = {"pixels": None, "fractions": 1, "percent": 100}
"""What the whole side of a picture is in each unit; None: its pixels."""
Ring = list[tuple[float, float]]
Corners = tuple[float, float, float, float]


@dataclass
class AnnotatedObject:
    """An object with its label: a box, an outline, or a mask.

    Args:
        box: two opposite corners (x1, y1, x2, y2).
        turn: degrees by which the box is turned clockwise, around its first corner or its centre.
        around: "corner" or "centre".
        polygon: one ring of (x, y).
        mask: runs row by row, the first of zeros, within the window (left, top, width, height) in pixels.
        key: where it stands in its file; unique there, e.g. "a.jpg#3", the third shape of a picture.
        problem: why the object is no region that is read ("ellipse is not read"); the rest is empty then.
    """

    label: str = ""
    box: Corners | None = None
    turn: float = 0.0
    around: str = "corner"
    polygon: Ring | None = None
    mask: tuple[list[int], tuple[int, int, int, int]] | None = None
    caption: str = ""
    problem: str = ""
    key: str = ""

    def in_pixels(self, unit: str, size: tuple[int, int]) -> tuple[Corners | None, Ring | None]:
        """(box, polygon) in pixels of a picture of `size` = (height, width): x1 <= x2 and y1 <= y2.

        A turned box is a polygon, unless it is turned to a box again.
        """
        whole = UNITS[unit]
        sx, sy = (size[1] / whole, size[0] / whole) if whole else (1.0, 1.0)
        ring = None if self.polygon is None else [(x * sx, y * sy) for x, y in self.polygon]
        if self.box is None:
            return None, ring
        x1, y1, x2, y2 = (value * scale for value, scale in zip(self.box, (sx, sy, sx, sy), strict=True))
        if self.turn % 360:
            pivot = (x1, y1) if self.around == "corner" else ((x1 + x2) / 2, (y1 + y2) / 2)
            turned = _turned([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], self.turn, pivot)
            if self.turn % 90:
                return None, turned
            (x1, y1), (x2, y2) = turned[0], turned[2]
        return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), ring


@dataclass
class AnnotatedPicture:
    """A picture as an annotation file has it.

    Args:
        name: as the file spells it.
        claim: (height, width) that the file says it has.
        unit: of the objects' numbers, one of `UNITS`.
        place: file and row, for messages.
    """

    name: str
    claim: tuple[int, int] | None = None
    objects: list[AnnotatedObject] = field(default_factory=list)
    unit: str = "pixels"
    place: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> AnnotatedPicture:
        """What `to_json` gave, after JSON has made lists of tuples."""
        claim = value["claim"] and tuple(value["claim"])
        return cls(**{**value, "claim": claim, "objects": [AnnotatedObject(**o) for o in value["objects"]]})


def window_mask(runs: Sequence[int], window: tuple[int, int, int, int], size: tuple[int, int]) -> RLE | None:
    """The mask of `AnnotatedObject.mask` in a picture of `size` = (height, width).

    None where runs and window contradict each other, reach out of the picture, or mark nothing.
    """
    (left, top, width, height), (picture_height, picture_width) = window, size
    if width < 1 or height < 1 or min(left, top) < 0:
        return None
    if left + width > picture_width or top + height > picture_height:
        return None
    if min(runs, default=-1) < 0 or sum(runs) != width * height:
        return None
    marked = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    full = np.zeros(size, dtype=bool)
    full[top : top + height, left : left + width] = marked
    return Mask(full).to_rle() if marked.any() else None


def number(value: Any, place: str) -> float:
    """A finite number, or its text (a decimal comma is read as a point).

    Args:
        place: file, row and field, for the message.

    Raises:
        InputError: it is none.
    """
    try:
        if isinstance(value, str):
            # float() would also take 1_000.
            result = float("-" if "_" in value else value.strip().replace(",", "."))
        else:
            result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        refuse(place, "a number", repr(value)[:60] if value is not None else "nothing")
    return result


def refuse(
    place: str, expected: str, actual: str, fix: str = "correct it or leave the object out"
) -> NoReturn:
    raise InputError.about(place, expected, actual, fix)


def _turned(corners: Ring, degrees: float, pivot: tuple[float, float]) -> Ring:
    """Points turned clockwise (y points down) around `pivot`."""
    quarter: dict[float, tuple[float, float]] = {90: (0.0, 1.0), 180: (-1.0, 0.0), 270: (0.0, -1.0)}
    angle = math.radians(degrees)
    cos, sin = quarter.get(degrees % 360, (math.cos(angle), math.sin(angle)))  # exact where it can be
    return [
        (
            pivot[0] + (x - pivot[0]) * cos - (y - pivot[1]) * sin,
            pivot[1] + (x - pivot[0]) * sin + (y - pivot[1]) * cos,
        )
        for x, y in corners
    ]

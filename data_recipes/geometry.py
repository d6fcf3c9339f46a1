"""Boxes of data sets made into regions, with what was wrong with them counted.

A data set's box may reach past the picture, be empty or be no number at all; none of it may end a run. Every
function takes the `Made` of the record, counts there and returns None where nothing usable is left.
"""

from __future__ import annotations

import random
from typing import Any

from data_recipes.runner import Made
from rgpt.formats.coco import NO_NUMBERS, cut_box, four_numbers
from rgpt.regions import RLE, Box, Polygon

REGION_KINDS = ("mask", "box", "mixed")


def xyxy_box(values: Any, height: int, width: int, made: Made) -> Box | None:
    """The box of two opposite corners [x1, y1, x2, y2] (pixels, half-open), cut to the picture."""
    corners = four_numbers(values)
    if corners is None:
        made.drop_region(NO_NUMBERS)
        return None
    box, problem, mended = cut_box(corners, (height, width))
    made.repaired.update(mended)
    if problem:
        made.drop_region(problem)
    return box


def xywh_box(values: Any, height: int, width: int, made: Made) -> Box | None:
    """COCO's [x, y, w, h]: x2 = x + w, with no pixel added."""
    numbers = four_numbers(values)
    corners = numbers and (numbers[0], numbers[1], numbers[0] + numbers[2], numbers[1] + numbers[3])
    return xyxy_box(corners, height, width, made)


def choose_region(box: Box, mask: Polygon | RLE | None, kind: str, rng: random.Random) -> Box | Polygon | RLE:
    """The region as `kind` of REGION_KINDS says. "mixed" draws: both forms must work at test time [A]."""
    wanted = rng.choice(("mask", "box")) if kind == "mixed" else kind
    return mask if wanted == "mask" and mask is not None else box


def boxes_overlap(a: Box, b: Box) -> float:
    """Shared area as a share of the smaller box, in [0, 1]."""
    w = min(a.x2, b.x2) - max(a.x1, b.x1)
    h = min(a.y2, b.y2) - max(a.y1, b.y1)
    return w * h / min(a.area, b.area) if w > 0 and h > 0 else 0.0

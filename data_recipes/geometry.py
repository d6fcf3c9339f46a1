"""Boxes and segmentations of data sets made into regions, with what was wrong with them counted.

A data set's box may reach past the picture, be empty or be no number at all; none of it may end a run. Every
function takes the `Made` of the record, counts there and returns None where nothing usable is left.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from data_recipes.runner import Made
from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Mask, Polygon

NO_NUMBERS = "box is not four numbers"
NO_EXTENT = "box without extent"
OUTSIDE = "box outside the picture"
CUT = "box cut at the border"
BOX_INSTEAD = "unusable segmentation, box used"
REGION_KINDS = ("mask", "box", "mixed")


def xyxy_box(values: Any, height: float, width: float, made: Made) -> Box | None:
    """The box [x1, y1, x2, y2] (pixels, half-open) cut to the picture."""
    try:
        x1, y1, x2, y2 = values
        finite = math.isfinite(x1) and math.isfinite(y1) and math.isfinite(x2) and math.isfinite(y2)
    except (TypeError, ValueError):
        finite = False
    if not finite:
        made.drop_region(NO_NUMBERS)
        return None
    if x2 <= x1 or y2 <= y1:
        made.drop_region(NO_EXTENT)
        return None
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        made.drop_region(OUTSIDE)
        return None
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        made.repaired[CUT] += 1
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    return Box(x1, y1, x2, y2)


def xywh_box(values: Any, height: float, width: float, made: Made) -> Box | None:
    """COCO's [x, y, w, h]: x2 = x + w, with no pixel added."""
    try:
        x, y, w, h = values
        corners: Any = (x, y, x + w, y + h)
    except (TypeError, ValueError):
        corners = None
    return xyxy_box(corners, height, width, made)


def coco_segmentation(segmentation: Any, height: int, width: int) -> Polygon | RLE | None:
    """COCO's three spellings as a region; None where there is nothing or it cannot be used.

    A list holds polygons [[x1, y1, x2, y2, …], …]; an object holds runs, as a list of integers (crowds) or
    as a string. A ring of fewer than three points is left out: pycocotools would read four numbers as a
    box.
    """
    try:
        if isinstance(segmentation, list):
            rings = [ring for ring in segmentation if isinstance(ring, list) and len(ring) >= 6]
            if not rings:
                return None
            polygon = Polygon.from_coco(rings)
            polygon.check_inside(height, width)
            return polygon
        if isinstance(segmentation, dict) and {"size", "counts"} <= set(segmentation):
            rle = RLE(segmentation["size"], segmentation["counts"])
            rle.check_inside(height, width)
            return rle
    except (InputError, TypeError, ValueError):
        pass
    return None


def union_mask(regions: Sequence[Polygon | RLE], height: int, width: int) -> RLE:
    """One mask of several regions."""
    mask = regions[0].to_mask(height, width)
    for region in regions[1:]:
        mask = mask | region.to_mask(height, width)
    return Mask(mask).to_rle()


def choose_region(box: Box, mask: Polygon | RLE | None, kind: str, rng: random.Random) -> Box | Polygon | RLE:
    """The region as `kind` of REGION_KINDS says. "mixed" draws: both forms must work at test time [A]."""
    wanted = rng.choice(("mask", "box")) if kind == "mixed" else kind
    return mask if wanted == "mask" and mask is not None else box


def boxes_overlap(a: Box, b: Box) -> float:
    """Shared area as a share of the smaller box, in [0, 1]."""
    w = min(a.x2, b.x2) - max(a.x1, b.x1)
    h = min(a.y2, b.y2) - max(a.y1, b.y1)
    return w * h / min(a.area, b.area) if w > 0 and h > 0 else 0.0

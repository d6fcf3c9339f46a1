"""The six kinds of region, as frozen values that validate themselves.

One coordinate convention for the whole project: pixels of the upright picture, x right, y down, half-open.
Pixel (i, j) of a mask covers [j, j+1) x [i, i+1); a box [x1, y1, x2, y2] covers [x1, x2) x [y1, y2).

Every region offers `to_mask(height, width)` -> bool [H, W], `bounds(height, width)` -> Box,
`check_inside(height, width)` and `to_json()`. What is partly outside is cut to the picture; what is
wholly outside is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from rgpt.errors import InputError
from rgpt.regions.masks import RLE, Mask
from rgpt.regions.shapes import Box, Point, Polygon, Scribble

Region = Box | Polygon | Mask | RLE | Scribble | Point

MAX_WORK = 4_000_000
"""What the regions of one request may be together, in `Geometry.work`: about a second [D]."""


def check_work(regions: Iterable[Region], height: int, width: int) -> int:
    """The work of regions together in a picture of this size; InputError when it is more than `MAX_WORK`."""
    total = sum(region.work(height, width) for region in regions)
    if total > MAX_WORK:
        raise InputError.about(
            "the regions",
            f"at most {MAX_WORK} pixels of edges and brush work and runs of masks together",
            str(total),
            "give fewer or simpler ones",
        )
    return total


__all__ = ["MAX_WORK", "RLE", "Box", "Mask", "Point", "Polygon", "Region", "Scribble", "check_work"]

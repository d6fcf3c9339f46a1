"""Intersection over union of two regions."""

from __future__ import annotations

from rgpt.errors import InputError
from rgpt.regions.values import RLE, Box, Mask, Region


def iou(a: Region, b: Region, height: int | None = None, width: int | None = None) -> float:
    """Intersection over union in 0..1.

    Two boxes are compared as continuous rectangles (no +1 pixel). Any other pair is compared pixel by pixel
    in a picture of `height` x `width`, which a `Mask` or `RLE` of the pair already tells.

    Raises InputError when the picture's size is needed and unknown, or a region lies outside it.
    """
    if isinstance(a, Box) and isinstance(b, Box):
        across = min(a.x2, b.x2) - max(a.x1, b.x1)
        down = min(a.y2, b.y2) - max(a.y1, b.y1)
        shared = max(0.0, across) * max(0.0, down)
        return shared / (a.area + b.area - shared)
    if height is None or width is None:
        sizes = [region.size for region in (a, b) if isinstance(region, Mask | RLE)]
        if not sizes:
            raise InputError.about(
                f"IoU of a {type(a).__name__} and a {type(b).__name__}",
                "the picture's size",
                "none",
                "pass height and width",
            )
        height, width = sizes[0]
    first, second = a.to_mask(height, width), b.to_mask(height, width)
    return float((first & second).sum() / (first | second).sum())

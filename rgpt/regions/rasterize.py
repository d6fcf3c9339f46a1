"""Shapes to boolean masks [H, W]. Pixel (i, j) covers [j, j+1) x [i, i+1); its centre is (j + ½, i + ½).

Discs and strokes take the pixels whose centre they contain, as boxes do. Polygons are rasterised by
pycocotools, so that a COCO annotation has exactly the area and box the COCO tools give it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rgpt.regions import rle

Ring = Sequence[tuple[float, float]]


def clip_ring(ring: Ring, x1: float, y1: float, x2: float, y2: float) -> list[tuple[float, float]]:
    """The part of a ring inside a rectangle (Sutherland-Hodgman): clip against one side after the other."""
    result = list(ring)
    for axis, limit, sign in ((0, x1, 1.0), (0, x2, -1.0), (1, y1, 1.0), (1, y2, -1.0)):
        before, result = result, []
        for index, point in enumerate(before):
            previous = before[index - 1]
            inside, was_inside = (sign * (p[axis] - limit) >= 0 for p in (point, previous))
            if inside != was_inside:
                # Scaled before subtracting, so that coordinates near the largest float do not overflow.
                p, q, edge = point[axis] / 4, previous[axis] / 4, limit / 4
                share = (edge - q) / (p - q)
                crossing = [
                    previous[0] * (1 - share) + point[0] * share,
                    previous[1] * (1 - share) + point[1] * share,
                ]
                crossing[axis] = limit
                result.append((crossing[0], crossing[1]))
            if inside:
                result.append(point)
    return result


def rings_to_mask(rings: Sequence[Ring], height: int, width: int) -> np.ndarray:
    """Mask [H, W] of the union of the rings (not even-odd: COCO has no holes), possibly empty."""
    from pycocotools import mask as coco_mask

    flat = []
    for ring in rings:
        xs, ys = [p[0] for p in ring], [p[1] for p in ring]
        if min(xs) < -width or max(xs) > 2 * width or min(ys) < -height or max(ys) > 2 * height:
            # pycocotools walks along every edge pixel by pixel: a far vertex would cost gigabytes.
            ring = clip_ring(ring, -width, -height, 2 * width, 2 * height)
        if len(ring) >= 3:  # a list of two points would be read as a box
            flat.append([coordinate for point in ring for coordinate in point])
    if not flat:
        return np.zeros((height, width), dtype=bool)
    encoded = coco_mask.merge(coco_mask.frPyObjects(flat, height, width))
    return rle.runs_to_mask(rle.decompress(encoded["counts"].decode("ascii")), height, width)


def stroke_to_mask(points: Ring, radius: float, height: int, width: int) -> np.ndarray:
    """Mask [H, W] of the pixels whose centre is within `radius` px of the polyline (one point: a disc)."""
    mask = np.zeros((height, width), dtype=bool)
    segments = list(pairwise(points)) or [(points[0], points[0])]
    for (ax, ay), (bx, by) in segments:
        left, right = _window(min(ax, bx) - radius, max(ax, bx) + radius, width)
        top, bottom = _window(min(ay, by) - radius, max(ay, by) + radius, height)
        if left >= right or top >= bottom:
            continue
        x = np.arange(left, right)[None, :] + 0.5 - ax
        y = np.arange(top, bottom)[:, None] + 0.5 - ay
        dx, dy = bx - ax, by - ay
        length = dx * dx + dy * dy
        along = np.clip((x * dx + y * dy) / length, 0.0, 1.0) if length > 0 else 0.0
        near = (x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius * radius
        mask[top:bottom, left:right] |= near
    return mask


def _window(low: float, high: float, size: int) -> tuple[int, int]:
    return int(min(max(math.floor(low), 0), size)), int(min(max(math.ceil(high), 0), size))


def mask_bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2), half-open, of the true pixels of a mask that has some."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

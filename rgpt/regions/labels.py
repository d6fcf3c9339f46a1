"""Where the numbers of drawn regions go: near their region, inside the picture, never on one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2; half-open pixels
CROWD = 48
"""Beyond so many labels only the coordinates next to where one belongs are tried: all would take minutes."""


def place_labels(
    anchors: Sequence[Rectangle],
    sizes: Sequence[tuple[int, int]],
    height: int,
    width: int,
    tips: Sequence[tuple[int, int]] | None = None,
) -> list[Rectangle]:
    """One rectangle per region, of `sizes` = (width, height), for regions with tight boxes `anchors`.

    `tips` = (x, y) of a region's highest pixel, where it is not the box's corner (a triangle, a stroke).
    Tried in order: above the tip, above the region's left corner, its right corner, below, beside,
    in its corners; then the nearest free place. Smaller regions choose first. No two overlap while
    there is room; after that the remaining labels take the place that overlaps least.
    """
    placed: dict[int, Rectangle] = {}

    def area(index: int) -> int:
        x1, y1, x2, y2 = anchors[index]
        return (x2 - x1) * (y2 - y1)

    for index in sorted(range(len(anchors)), key=area):
        taken = list(placed.values())
        # A number should not hide a small object next door, where another place exists.
        others = [anchors[i] for i in range(len(anchors)) if i != index and area(i) < area(index)]
        candidates = _candidates(anchors[index], sizes[index])
        if tips is not None:
            (x, y), (w, h) = tips[index], sizes[index]
            candidates.insert(0, (x, y - h, x + w, y))
        wanted = [_inside(place, height, width) for place in candidates]
        free = [place for place in wanted if not _shared(place, taken)]
        if free:
            placed[index] = min(free, key=lambda place: (_shared(place, others), wanted.index(place)))
        else:
            placed[index] = _nearest_free(wanted[0], taken, height, width)
    return [placed[index] for index in range(len(anchors))]


def _candidates(anchor: Rectangle, size: tuple[int, int]) -> list[Rectangle]:
    x1, y1, x2, y2 = anchor
    w, h = size
    corners = [
        (x1, y1 - h),
        (x2 - w, y1 - h),
        (x1, y2),
        (x2 - w, y2),
        (x2, y1),
        (x1 - w, y1),
        (x1, y1),
        (x2 - w, y1),
        (x1, y2 - h),
        (x2 - w, y2 - h),
    ]
    return [(x, y, x + w, y + h) for x, y in corners]


def _inside(place: Rectangle, height: int, width: int) -> Rectangle:
    x1, y1, x2, y2 = place
    x = max(0, min(x1, width - (x2 - x1)))
    y = max(0, min(y1, height - (y2 - y1)))
    return x, y, x + x2 - x1, y + y2 - y1


def _shared(place: Rectangle, others: Sequence[Rectangle]) -> int:
    total = 0
    for other in others:
        across = min(place[2], other[2]) - max(place[0], other[0])
        down = min(place[3], other[3]) - max(place[1], other[1])
        total += max(0, across) * max(0, down)
    return total


def _nearest_free(wanted: Rectangle, taken: Sequence[Rectangle], height: int, width: int) -> Rectangle:
    """The place with the least overlap (0 where there is room), of those the one nearest to `wanted`.

    On each axis that place lines up with `wanted`, touches a taken rectangle or lies at the picture's edge:
    those coordinates are all that must be tried.
    """
    w, h = wanted[2] - wanted[0], wanted[3] - wanted[1]
    xs = sorted({wanted[0], 0, width - w} | {t[2] for t in taken} | {t[0] - w for t in taken})
    ys = sorted({wanted[1], 0, height - h} | {t[3] for t in taken} | {t[1] - h for t in taken})
    if len(taken) > CROWD:
        xs = sorted(xs, key=lambda x: abs(x - wanted[0]))[:CROWD]
        ys = sorted(ys, key=lambda y: abs(y - wanted[1]))[:CROWD]
    x, y = (grid.ravel() for grid in np.meshgrid(xs, ys))
    distance = abs(x - wanted[0]) + abs(y - wanted[1])
    x, y = x.clip(0, max(0, width - w)), y.clip(0, max(0, height - h))
    others = np.array(taken).reshape(-1, 4).T[:, :, None]  # [4, taken, 1]
    across = np.minimum(x + w, others[2]) - np.maximum(x, others[0])
    down = np.minimum(y + h, others[3]) - np.maximum(y, others[1])
    overlap = (across.clip(0) * down.clip(0)).sum(0)
    best = int(np.lexsort((distance, overlap))[0])
    return int(x[best]), int(y[best]), int(x[best]) + w, int(y[best]) + h

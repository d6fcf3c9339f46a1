"""Shapes to the pixels that they cover. Pixel (i, j) covers [j, j+1) x [i, i+1), its centre is (j+½, i+½).

Discs and strokes take the pixels whose centre they contain, as boxes do. Polygons are rasterised by
pycocotools, so that a COCO annotation has exactly the area and box the COCO tools give it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rgpt.errors import InputError
from rgpt.regions import rle
from rgpt.regions.runs import united

Ring = Sequence[tuple[float, float]]
MAX_EDGES = 2_000_000
"""Pixels along the edges of one polygon, inside the picture: pycocotools walks along each of them, in steps
of a fifth of a pixel, and takes memory for every step [D]."""
MAX_ROWS = 2_000_000
"""Rows that the segments of one scribble cross, all together [D]."""
_ROWS_AT_ONCE = 200_000
_MARGIN = 8
"""Pixels by which a ring may stand out without being cut: a cut end is rounded anew by pycocotools."""


def clip_ring(ring: Ring | np.ndarray, x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """The part of a ring inside a rectangle, float64 `[N, 2]` (Sutherland-Hodgman): clip against one side
    after the other."""
    points = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
    for axis, limit, sign in ((0, x1, 1.0), (0, x2, -1.0), (1, y1, 1.0), (1, y2, -1.0)):
        inside = sign * (points[:, axis] - limit) >= 0
        if inside.all():
            continue
        previous, was_inside = np.roll(points, 1, axis=0), np.roll(inside, 1)
        # Scaled before subtracting, so that coordinates near the largest float do not overflow. What is
        # computed for edges that do not cross is thrown away.
        with np.errstate(all="ignore"):
            p, q = points[:, axis] / 4, previous[:, axis] / 4
            share = ((limit / 4 - q) / (p - q))[:, None]
            crossing = previous * (1 - share) + points * share
        crossing[:, axis] = limit
        both = np.stack([crossing, points], axis=1).reshape(-1, 2)
        points = both[np.stack([inside != was_inside, inside], axis=1).reshape(-1)]
    return points


def cut_rings(rings: Sequence[Ring], height: int, width: int) -> tuple[list[np.ndarray], int]:
    """The rings cut to the picture, `[N, 2]` each, N at least 3, and the length of their edges in pixels.

    Raises:
        InputError: their edges are longer than `MAX_EDGES` together.
    """
    cut, length = [], 0.0
    for ring in rings:
        points = np.asarray(ring, dtype=np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        if min(low) < -_MARGIN or high[0] > width + _MARGIN or high[1] > height + _MARGIN:
            points = clip_ring(points, -_MARGIN, -_MARGIN, width + _MARGIN, height + _MARGIN)
        if len(points) >= 3:  # pycocotools would read a list of two points as a box
            cut.append(points)
            length += np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    if length > MAX_EDGES:
        raise InputError.about(
            "polygon",
            f"edges of at most {MAX_EDGES} px together inside the {width} x {height} picture",
            f"{length:.0f} px",
            "simplify it or give a mask",
        )
    return cut, int(length)


def ring_runs(rings: Sequence[np.ndarray], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The union of rings of `cut_rings` (not even-odd: COCO has no holes), possibly empty: starts and stops
    of runs of pixels, counted column by column."""
    from pycocotools import mask as coco_mask

    starts, stops = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for ring in rings:
        encoded = coco_mask.frPyObjects([ring.reshape(-1).tolist()], height, width)[0]
        ends = np.cumsum(rle.decompress(encoded["counts"].decode("ascii")))
        stops.append(ends[1::2])
        starts.append(ends[0::2][: len(stops[-1])])
    begin, end = np.concatenate(starts), np.concatenate(stops)
    return united(begin[begin < end], end[begin < end])


def rows_crossed(strokes: Sequence[Ring], radius: float, height: int, width: int) -> int:
    """How many rows of the picture the segments of polylines cross, all together: the work they are.

    Raises:
        InputError: more than `MAX_ROWS`.
    """
    total = int(_segments(strokes, radius, height, width)[3].sum())
    if total > MAX_ROWS:
        raise InputError.about(
            "scribble",
            f"segments that cross at most {MAX_ROWS} rows of pixels together",
            str(total),
            "paint it with fewer strokes or give a mask",
        )
    return total


def stroke_rows(
    strokes: Sequence[Ring], radius: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels whose centre is within `radius` px of the polylines (one point: a disc).

    A segment with its round ends is convex, so it has one interval in each row: from the leftmost to the
    rightmost of its two discs and two long edges.

    Returns:
        Starts and stops of runs of pixels, counted row by row in rows of `width` + 1: the one more keeps the
        end of a row from touching the next.
    """
    a, b, top, count = _segments(strokes, radius, height, width)
    some = count > 0
    a, b, top, count = a[some], b[some], top[some], count[some]
    starts, stops = np.zeros(0, np.int64), np.zeros(0, np.int64)
    # Neighbouring segments overlap: in pieces, so that few intervals are held at once.
    pieces = np.cumsum(count) // _ROWS_AT_ONCE
    for piece in np.unique(pieces):
        one = pieces == piece
        begin, end = _intervals(a[one], b[one], top[one], count[one], radius, width)
        starts, stops = united(np.append(starts, begin), np.append(stops, end))
    return starts, stops


def _segments(
    strokes: Sequence[Ring], radius: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both ends of every segment, `[S, 2]`; its first row in the picture and how many it crosses, `[S]`."""
    lines = [np.asarray(stroke, dtype=np.float64) for stroke in strokes]
    a = np.concatenate([line if len(line) == 1 else line[:-1] for line in lines])
    b = np.concatenate([line[-1:] if len(line) == 1 else line[1:] for line in lines])
    low, high = np.minimum(a, b) - radius, np.maximum(a, b) + radius
    top = np.clip(np.floor(low[:, 1]), 0, height).astype(np.int64)
    count = np.clip(np.ceil(high[:, 1]), 0, height).astype(np.int64) - top
    count[(high[:, 0] <= 0) | (low[:, 0] >= width)] = 0
    return a, b, top, count


def _intervals(
    a: np.ndarray, b: np.ndarray, top: np.ndarray, count: np.ndarray, radius: float, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """`stroke_rows` of some segments, not united."""
    which = np.repeat(np.arange(len(count)), count)
    rows = np.arange(len(which)) + np.repeat(top - (np.cumsum(count) - count), count)
    y = rows + 0.5
    left, right = np.full(len(which), np.inf), np.full(len(which), -np.inf)
    with np.errstate(all="ignore"):  # far ends may overflow; what is not finite is passed over
        for ends in (a, b):
            half = np.sqrt(radius * radius - (y - ends[which, 1]) ** 2)
            left, right = np.fmin(left, ends[which, 0] - half), np.fmax(right, ends[which, 0] + half)
        along = b - a
        length = np.hypot(along[:, 0], along[:, 1])
        across = np.stack([-along[:, 1], along[:, 0]], axis=1) * (radius / length)[:, None]
        for sign in (1, -1):
            start, end = (a + sign * across)[which], (b + sign * across)[which]
            share = (y - start[:, 1]) / (end[:, 1] - start[:, 1])
            share[(share < 0) | (share > 1)] = np.nan
            x = start[:, 0] + share * (end[:, 0] - start[:, 0])
            left, right = np.fmin(left, x), np.fmax(right, x)
        begin = np.clip(np.ceil(left - 0.5), 0, width)
        end = np.clip(np.floor(right - 0.5) + 1, 0, width)
    some = begin < end
    line = rows[some] * (width + 1)
    return line + begin[some].astype(np.int64), line + end[some].astype(np.int64)


def mask_bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2), half-open, of the true pixels of a mask that has some."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

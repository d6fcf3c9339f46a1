"""A region's pixels as runs along one axis of the picture, and as disjoint rectangles: what a region costs
by its outline, not by the picture's pixels.
"""

from __future__ import annotations

import numpy as np


def united(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The union of intervals [start, stop), in order; those that touch become one."""
    if not len(starts):
        return starts, stops
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(stops[order])
    first = np.append(True, starts[1:] > reach[:-1])
    return starts[first], reach[np.append(first[1:], True)]


def to_runs(starts: np.ndarray, stops: np.ndarray, size: int) -> np.ndarray:
    """Disjoint intervals of [0, size) as runs in COCO's way: zeros first, in turn."""
    edges = np.stack([starts, stops], axis=1).reshape(-1)
    return np.diff(np.concatenate([[0], edges, [size]]))


def rectangles(starts: np.ndarray, stops: np.ndarray, length: int) -> np.ndarray:
    """Intervals of a picture's pixels, counted line by line, as int64 `[N, 4]`: (line, place, line, place).

    An interval over many lines of `length` becomes three: the rest of its first, whole lines, the last part.
    """
    first, last = starts // length, (stops - 1) // length
    a, b = starts - first * length, stops - last * length
    one = first == last
    pieces = [
        np.stack([first, a, first + 1, np.where(one, b, length)], axis=1),
        np.stack([first + 1, np.zeros_like(a), last, np.full_like(a, length)], axis=1)[last > first + 1],
        np.stack([last, np.zeros_like(a), last + 1, b], axis=1)[~one],
    ]
    return np.concatenate(pieces)


def bounds(found: np.ndarray) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) around rectangles, of which there are some."""
    x1, y1 = found[:, :2].min(axis=0)
    x2, y2 = found[:, 2:].max(axis=0)
    return int(x1), int(y1), int(x2), int(y2)

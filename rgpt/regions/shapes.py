"""Regions given by coordinates: boxes, polygons, scribbles, points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rgpt.errors import InputError
from rgpt.regions import rasterize, rle, runs
from rgpt.regions.checks import MAX_POINTS, finite, picture_size, plain, point_list, shown


def _outside(thing: str, height: int, width: int) -> InputError:
    return InputError.about(
        thing,
        f"at least a part inside the {width} x {height} picture",
        "nothing of it inside",
        "give coordinates in pixels of the upright picture, x to the right and y down",
    )


class Geometry:
    """What every region shares; subclasses give `to_mask` and, all but `Mask`, `rectangles`."""

    def to_mask(self, height: int, width: int) -> np.ndarray:
        """The region as a bool mask [H, W] with at least one true pixel; InputError when it is outside."""
        raise NotImplementedError

    def rectangles(self, height: int, width: int) -> np.ndarray:
        """The region's pixels as disjoint rectangles, int64 `[N, 4]` (x1, y1, x2, y2), in no order; no mask
        is made. InputError as `to_mask`."""
        raise NotImplementedError

    def check_inside(self, height: int, width: int) -> None:
        """InputError unless some part of the region lies in a picture of `height` x `width` pixels, and it is
        no more work there than a region may be."""
        raise NotImplementedError

    def work(self, height: int, width: int) -> int:
        """Steps that its rectangles take in such a picture: pixels along edges, rows or runs."""
        return 1

    def bounds(self, height: int, width: int) -> Box:
        """The tight box around the region's pixels, like pycocotools' `toBbox`."""
        return Box(*runs.bounds(self.rectangles(height, width)))


@dataclass(frozen=True)
class Box(Geometry):
    """[x1, x2) x [y1, y2) in pixels; fractions and parts outside the picture are allowed.

    Raises InputError on NaN, infinity and corners in the wrong order.
    """

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        for name in ("x1", "y1", "x2", "y2"):
            object.__setattr__(self, name, finite(getattr(self, name), "box", name))
        for low, high in (("x1", "x2"), ("y1", "y2")):
            if not getattr(self, low) < getattr(self, high):
                raise InputError.about(
                    f"box {shown(self.xyxy)}",
                    f"{low} < {high}",
                    f"{low} = {getattr(self, low):.10g} and {high} = {getattr(self, high):.10g}",
                    "give left, top, right, bottom",
                )

    @classmethod
    def from_coco(cls, xywh: Sequence[float]) -> Box:
        """From COCO's [x, y, width, height]."""
        if len(xywh) != 4:
            raise InputError.about("COCO box", "four numbers [x, y, w, h]", str(len(xywh)), "give all four")
        x, y, w, h = (finite(value, "COCO box", name) for value, name in zip(xywh, "xywh", strict=True))
        return cls(x, y, x + w, y + h)

    def to_coco(self) -> tuple[float, float, float, float]:
        """As COCO's (x, y, width, height)."""
        return self.x1, self.y1, self.x2 - self.x1, self.y2 - self.y1

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return self.x1, self.y1, self.x2, self.y2

    @property
    def area(self) -> float:
        """Square pixels, continuous (no +1)."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    def check_inside(self, height: int, width: int) -> None:
        height, width = picture_size(height, width)
        if self.x2 <= 0 or self.y2 <= 0 or self.x1 >= width or self.y1 >= height:
            raise _outside(f"box {shown(self.xyxy)}", height, width)

    def bounds(self, height: int, width: int) -> Box:
        """The box cut to the picture; not rounded to pixels."""
        self.check_inside(height, width)
        return Box(max(self.x1, 0), max(self.y1, 0), min(self.x2, width), min(self.y2, height))

    def rectangles(self, height: int, width: int) -> np.ndarray:
        self.check_inside(height, width)
        left, right = _span(self.x1, self.x2, width)
        top, bottom = _span(self.y1, self.y2, height)
        return np.array([[left, top, right, bottom]], dtype=np.int64)

    def to_mask(self, height: int, width: int) -> np.ndarray:
        """The pixels whose centre it contains; integer corners give exactly mask[y1:y2, x1:x2]."""
        ((left, top, right, bottom),) = self.rectangles(height, width)
        mask = np.zeros((height, width), dtype=bool)
        mask[top:bottom, left:right] = True
        return mask

    def to_json(self) -> dict[str, Any]:
        return {"box": [plain(value) for value in self.xyxy]}


@dataclass(frozen=True)
class Polygon(Geometry):
    """The union of one or several rings of at least three (x, y) points; rings need not be closed.

    `rings` may be given as a single ring. There are no holes, as in COCO. Rasterised as pycocotools does.
    """

    rings: tuple[tuple[tuple[float, float], ...], ...]

    def __init__(self, rings: Any) -> None:
        object.__setattr__(
            self, "rings", tuple(point_list(ring, "polygon", 3) for ring in _nested(rings, "polygon"))
        )

    @classmethod
    def from_coco(cls, segmentation: Sequence[Sequence[float]]) -> Polygon:
        """From COCO's [[x1, y1, x2, y2, ...], ...]."""
        for ring in segmentation:
            if len(ring) % 2:
                raise InputError.about(
                    "COCO polygon", "an even count of numbers", str(len(ring)), "give x, y pairs"
                )
        return cls([list(zip(ring[0::2], ring[1::2], strict=True)) for ring in segmentation])

    def _inner(self, height: int, width: int) -> np.ndarray:
        """The corners of its part in the picture, `[N, 2]`."""
        return np.concatenate([rasterize.clip_ring(ring, 0, 0, width, height) for ring in self.rings])

    def check_inside(self, height: int, width: int) -> None:
        height, width = picture_size(height, width)
        self.work(height, width)
        if any(0 < x < width and 0 < y < height for ring in self.rings for x, y in ring):
            return
        inner = self._inner(height, width)
        if not len(inner) or (inner.max(axis=0) <= 0).any() or (inner.min(axis=0) >= (width, height)).any():
            raise _outside("polygon", height, width)

    def work(self, height: int, width: int) -> int:
        return rasterize.cut_rings(self.rings, height, width)[1] + sum(map(len, self.rings))

    def _runs(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts and stops of its pixels, counted column by column."""
        self.check_inside(height, width)
        rings, _ = rasterize.cut_rings(self.rings, height, width)
        starts, stops = rasterize.ring_runs(rings, height, width)
        if not len(starts):  # a sliver between pixel centres
            x, y = self._inner(height, width).mean(axis=0)
            starts = np.array([min(int(x), width - 1) * height + min(int(y), height - 1)])
            stops = starts + 1
        return starts, stops

    def rectangles(self, height: int, width: int) -> np.ndarray:
        return runs.rectangles(*self._runs(height, width), height)

    def to_mask(self, height: int, width: int) -> np.ndarray:
        found = runs.to_runs(*self._runs(height, width), height * width)
        return rle.runs_to_mask(found, height, width)

    def to_json(self) -> dict[str, Any]:
        return {"polygon": _json_lines(self.rings)}


@dataclass(frozen=True)
class Scribble(Geometry):
    """Brush strokes: the pixels within width / 2 px of one or several polylines.

    `points` may be one stroke [(x, y), ...] or several; it is stored as a tuple of strokes.
    """

    points: tuple[tuple[tuple[float, float], ...], ...]
    width: float

    def __init__(self, points: Any, width: float) -> None:
        strokes = tuple(point_list(stroke, "scribble", 1) for stroke in _nested(points, "scribble"))
        object.__setattr__(self, "points", strokes)
        object.__setattr__(self, "width", _positive(width, "scribble", "width"))

    @property
    def _radius(self) -> float:
        # Half a pixel's diagonal: no thinner stroke can slip between the pixel centres.
        return max(self.width / 2, 0.7072)

    def work(self, height: int, width: int) -> int:
        return rasterize.rows_crossed(self.points, self._radius, height, width)

    def check_inside(self, height: int, width: int) -> None:
        height, width = picture_size(height, width)
        self.work(height, width)
        if not any(0 <= x < width and 0 <= y < height for stroke in self.points for x, y in stroke):
            self.rectangles(height, width)

    def rectangles(self, height: int, width: int) -> np.ndarray:
        height, width = picture_size(height, width)
        self.work(height, width)
        starts, stops = rasterize.stroke_rows(self.points, self._radius, height, width)
        if not len(starts):
            raise _outside("scribble", height, width)
        return _row_rectangles(starts, stops, width)

    def to_mask(self, height: int, width: int) -> np.ndarray:
        return _paint(self.rectangles(height, width), height, width)

    def to_json(self) -> dict[str, Any]:
        return {"scribble": {"points": _json_lines(self.points), "width": plain(self.width)}}


@dataclass(frozen=True)
class Point(Geometry):
    """A click, meaning a small disc of `radius` px.

    None as radius means 2 % of the picture's shorter side, at least 2 px [D].
    """

    x: float
    y: float
    radius: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", finite(self.x, "point", "x"))
        object.__setattr__(self, "y", finite(self.y, "point", "y"))
        if self.radius is not None:
            object.__setattr__(self, "radius", _positive(self.radius, "point", "radius"))

    def radius_in(self, height: int, width: int) -> float:
        """The disc's radius in a picture of this size, in px."""
        return self.radius if self.radius is not None else max(2.0, 0.02 * min(height, width))

    def check_inside(self, height: int, width: int) -> None:
        height, width = picture_size(height, width)
        if not (0 <= self.x < width and 0 <= self.y < height):
            raise _outside(f"point {shown((self.x, self.y))}", height, width)
        self.work(height, width)

    def work(self, height: int, width: int) -> int:
        return rasterize.rows_crossed([[(self.x, self.y)]], self.radius_in(height, width), height, width)

    def rectangles(self, height: int, width: int) -> np.ndarray:
        self.check_inside(height, width)
        disc = rasterize.stroke_rows([[(self.x, self.y)]], self.radius_in(height, width), height, width)
        own = int(self.y) * (width + 1) + int(self.x)
        return _row_rectangles(*runs.united(np.append(disc[0], own), np.append(disc[1], own + 1)), width)

    def to_mask(self, height: int, width: int) -> np.ndarray:
        return _paint(self.rectangles(height, width), height, width)

    def to_json(self) -> dict[str, Any]:
        values = (self.x, self.y) if self.radius is None else (self.x, self.y, self.radius)
        return {"point": [plain(value) for value in values]}


def _row_rectangles(starts: np.ndarray, stops: np.ndarray, width: int) -> np.ndarray:
    """Runs of `rasterize.stroke_rows` as rectangles one row high, in order."""
    y, x = starts // (width + 1), starts % (width + 1)
    return np.stack([x, y, x + stops - starts, y + 1], axis=1)


def _paint(rectangles: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bool mask [H, W] of rectangles one row high, in order."""
    starts, y, stops = rectangles[:, 0], rectangles[:, 1], rectangles[:, 2]
    found = runs.to_runs(y * width + starts, y * width + stops, height * width)
    return rle.runs_to_mask(found, width, height).T


def union_of_scribbles(scribbles: Sequence[Scribble], height: int, width: int) -> np.ndarray:
    """Bool mask [H, W] of what any of them covers; InputError when one is outside the picture."""
    found = np.concatenate([scribble.rectangles(height, width) for scribble in scribbles])
    line = found[:, 1] * (width + 1)
    return _paint(_row_rectangles(*runs.united(line + found[:, 0], line + found[:, 2]), width), height, width)


def _positive(value: Any, thing: str, name: str) -> float:
    number = finite(value, thing, name)
    if number <= 0:
        raise InputError.about(thing, f"{name} above 0", str(number), "give it in pixels")
    return number


def _nested(lines: Any, thing: str) -> list[Any]:
    """One line of points or several, always as a list of lines; `point_list` refuses what is none."""
    if isinstance(lines, str | bytes) or not hasattr(lines, "__iter__"):
        return [lines]
    listed = list(lines)
    first: Any = listed[0] if listed else None
    has_items = hasattr(first, "__len__") and not isinstance(first, Mapping) and len(first) > 0
    is_line = has_items and hasattr(first[0], "__len__")
    lines = listed if is_line else [listed]
    total = sum(len(line) for line in lines if hasattr(line, "__len__"))
    if total > MAX_POINTS:
        raise InputError.about(
            thing, f"at most {MAX_POINTS} points", str(total), "simplify it or give a mask"
        )
    return lines


def _json_lines(lines: tuple[tuple[tuple[float, float], ...], ...]) -> list[Any]:
    nested = [[[plain(x), plain(y)] for x, y in line] for line in lines]
    return nested[0] if len(nested) == 1 else nested


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """Indices whose centres lie in [low, high), cut to [0, size); the middle one when there is none."""
    low, high = min(max(low, 0.0), float(size)), min(max(high, 0.0), float(size))
    first, stop = math.ceil(low - 0.5), math.ceil(high - 0.5)
    if first >= stop:
        first = min(int((low + high) / 2), size - 1)
        stop = first + 1
    return first, stop

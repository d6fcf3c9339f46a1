"""The six kinds of region, as frozen values that validate themselves.

One coordinate convention for the whole project: pixels of the upright picture, x right, y down, half-open.
Pixel (i, j) of a mask covers [j, j+1) x [i, i+1); a box [x1, y1, x2, y2] covers [x1, x2) x [y1, y2).

Every region offers `to_mask(height, width)` -> bool [H, W], `bounds(height, width)` -> Box,
`check_inside(height, width)` and `to_json()`. What is partly outside is cut to the picture; what is
wholly outside is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rgpt.errors import InputError
from rgpt.regions import rasterize, rle
from rgpt.regions.checks import finite, picture_size, plain, point_list, shown


def _outside(thing: str, height: int, width: int) -> InputError:
    return InputError.about(
        thing,
        f"at least a part inside the {width} x {height} picture",
        "nothing of it inside",
        "give coordinates in pixels of the upright picture, x to the right and y down",
    )


def _check_same_size(thing: str, size: tuple[int, ...], height: int, width: int) -> None:
    height, width = picture_size(height, width)
    if size != (height, width):
        raise InputError.about(
            thing,
            f"the size of the picture, {width} x {height}",
            f"{size[1]} x {size[0]}",
            "make the mask on the upright picture at full size",
        )


class _Geometry:
    """What every region shares; subclasses give `to_mask`."""

    def to_mask(self, height: int, width: int) -> np.ndarray:
        """The region as a bool mask [H, W] with at least one true pixel; InputError when it is outside."""
        raise NotImplementedError

    def check_inside(self, height: int, width: int) -> None:
        """InputError unless some part of the region lies in a picture of `height` x `width` pixels."""
        raise NotImplementedError

    def bounds(self, height: int, width: int) -> Box:
        """The tight box around the region's pixels, like pycocotools' `toBbox`."""
        return Box(*rasterize.mask_bounds(self.to_mask(height, width)))


@dataclass(frozen=True)
class Box(_Geometry):
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

    def to_mask(self, height: int, width: int) -> np.ndarray:
        self.check_inside(height, width)
        return rasterize.box_to_mask(*self.xyxy, height, width)

    def to_json(self) -> dict[str, Any]:
        return {"box": [plain(value) for value in self.xyxy]}


@dataclass(frozen=True)
class Polygon(_Geometry):
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

    def _inner(self, height: int, width: int) -> list[tuple[float, float]]:
        return [point for ring in self.rings for point in rasterize.clip_ring(ring, 0, 0, width, height)]

    def check_inside(self, height: int, width: int) -> None:
        height, width = picture_size(height, width)
        inner = self._inner(height, width)
        xs, ys = [x for x, _ in inner], [y for _, y in inner]
        if not inner or max(xs) <= 0 or max(ys) <= 0 or min(xs) >= width or min(ys) >= height:
            raise _outside("polygon", height, width)

    def to_mask(self, height: int, width: int) -> np.ndarray:
        self.check_inside(height, width)
        mask = rasterize.rings_to_mask(self.rings, height, width)
        if not mask.any():  # a sliver between pixel centres
            inner = self._inner(height, width)
            x, y = (float(np.mean([point[axis] for point in inner])) for axis in (0, 1))
            mask[min(int(y), height - 1), min(int(x), width - 1)] = True
        return mask

    def to_json(self) -> dict[str, Any]:
        return {"polygon": _json_lines(self.rings)}


@dataclass(frozen=True, eq=False)
class Mask(_Geometry):
    """A bool (or integer, non-zero = true) array [H, W] of the picture's size with at least one true pixel.

    The array is copied and made read-only.
    """

    array: np.ndarray

    def __post_init__(self) -> None:
        given = np.asarray(self.array)
        if given.ndim != 2 or given.dtype.kind not in "bui":
            raise InputError.about(
                "mask",
                "a bool or integer array [height, width]",
                f"{given.dtype} of shape {list(given.shape)}",
                "pass for example `probability > 0.5`",
            )
        picture_size(given.shape[0], given.shape[1], thing="mask")
        array = given.astype(bool)
        if not array.any():
            raise InputError.about("mask", "at least one true pixel", "an empty mask", "mark something")
        array.setflags(write=False)
        object.__setattr__(self, "array", array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and np.array_equal(self.array, other.array)

    def __hash__(self) -> int:
        return hash((self.array.shape, np.packbits(self.array).tobytes()))

    def __repr__(self) -> str:
        height, width = self.array.shape
        return f"Mask({width} x {height}, {int(self.array.sum())} px)"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return int(self.array.shape[0]), int(self.array.shape[1])

    def check_inside(self, height: int, width: int) -> None:
        _check_same_size("mask", self.size, height, width)

    def to_mask(self, height: int, width: int) -> np.ndarray:
        self.check_inside(height, width)
        return self.array.copy()

    def to_rle(self) -> RLE:
        """The same pixels, run-length encoded and compressed."""
        return RLE.from_mask(self.array)

    def to_json(self) -> dict[str, Any]:
        return self.to_rle().to_json()


@dataclass(frozen=True)
class RLE(_Geometry):
    """A COCO run-length mask: `size` = (height, width), `counts` = compressed str/bytes or a list of runs.

    Everything is checked on construction, without allocating the mask. Stored as str or as a tuple of ints.
    """

    size: tuple[int, int]
    counts: str | tuple[int, ...]

    def __init__(self, size: Sequence[int], counts: str | bytes | Sequence[int]) -> None:
        if isinstance(size, str | bytes) or not hasattr(size, "__len__") or len(size) != 2:
            raise InputError.about(
                "RLE", "size as [height, width]", repr(size)[:40], "give two whole numbers"
            )
        object.__setattr__(self, "size", picture_size(size[0], size[1], thing="RLE size"))
        object.__setattr__(self, "counts", _plain_counts(counts, self.size))
        rle.check_runs(self._runs(), *self.size)

    @classmethod
    def from_mask(cls, mask: np.ndarray, compressed: bool = True) -> RLE:
        """Encode a bool mask [H, W]."""
        array = Mask(mask).array
        runs = rle.mask_to_runs(array)
        return cls(array.shape, rle.compress(runs) if compressed else [int(run) for run in runs])

    def _runs(self) -> np.ndarray:
        if isinstance(self.counts, str):
            return rle.decompress(self.counts)
        return np.array(self.counts, dtype=np.int64)

    @property
    def area(self) -> int:
        """Number of true pixels."""
        return int(self._runs()[1::2].sum())

    def check_inside(self, height: int, width: int) -> None:
        _check_same_size("RLE mask", self.size, height, width)

    def to_mask(self, height: int, width: int) -> np.ndarray:
        self.check_inside(height, width)
        return rle.runs_to_mask(self._runs(), *self.size)

    def to_json(self) -> dict[str, Any]:
        counts = self.counts if isinstance(self.counts, str) else list(self.counts)
        return {"mask": {"size": list(self.size), "counts": counts}}


@dataclass(frozen=True)
class Scribble(_Geometry):
    """Brush strokes: the pixels within width / 2 px of one or several polylines.

    `points` may be one stroke [(x, y), ...] or several; it is stored as a tuple of strokes.
    """

    points: tuple[tuple[tuple[float, float], ...], ...]
    width: float

    def __init__(self, points: Any, width: float) -> None:
        strokes = tuple(point_list(stroke, "scribble", 1) for stroke in _nested(points, "scribble"))
        object.__setattr__(self, "points", strokes)
        object.__setattr__(self, "width", finite(width, "scribble", "width"))
        _check_positive("scribble", "width", self.width)

    def _mask(self, height: int, width: int) -> np.ndarray:
        # Half a pixel's diagonal: no thinner stroke can slip between the pixel centres.
        radius = max(self.width / 2, 0.7072)
        mask = np.zeros((height, width), dtype=bool)
        for stroke in self.points:
            mask |= rasterize.stroke_to_mask(stroke, radius, height, width)
        return mask

    def check_inside(self, height: int, width: int) -> None:
        height, width = picture_size(height, width)
        inside = any(0 <= x < width and 0 <= y < height for stroke in self.points for x, y in stroke)
        if not inside and not self._mask(height, width).any():
            raise _outside("scribble", height, width)

    def to_mask(self, height: int, width: int) -> np.ndarray:
        self.check_inside(height, width)
        return self._mask(height, width)

    def to_json(self) -> dict[str, Any]:
        return {"scribble": {"points": _json_lines(self.points), "width": plain(self.width)}}


@dataclass(frozen=True)
class Point(_Geometry):
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
            object.__setattr__(self, "radius", finite(self.radius, "point", "radius"))
            _check_positive("point", "radius", self.radius)

    def radius_in(self, height: int, width: int) -> float:
        """The disc's radius in a picture of this size, in px."""
        return self.radius if self.radius is not None else max(2.0, 0.02 * min(height, width))

    def check_inside(self, height: int, width: int) -> None:
        height, width = picture_size(height, width)
        if not (0 <= self.x < width and 0 <= self.y < height):
            raise _outside(f"point {shown((self.x, self.y))}", height, width)

    def to_mask(self, height: int, width: int) -> np.ndarray:
        self.check_inside(height, width)
        mask = rasterize.stroke_to_mask([(self.x, self.y)], self.radius_in(height, width), height, width)
        mask[int(self.y), int(self.x)] = True
        return mask

    def to_json(self) -> dict[str, Any]:
        values = (self.x, self.y) if self.radius is None else (self.x, self.y, self.radius)
        return {"point": [plain(value) for value in values]}


Region = Box | Polygon | Mask | RLE | Scribble | Point


def _check_positive(thing: str, name: str, value: float | None) -> None:
    if value is None or value <= 0:
        raise InputError.about(thing, f"{name} above 0", str(value), "give it in pixels")


def _nested(lines: Any, thing: str) -> list[Any]:
    """One line of points or several, always as a list of lines."""
    if isinstance(lines, str | bytes) or not hasattr(lines, "__iter__"):
        raise InputError.about(
            thing, "a list of [x, y] points", repr(lines)[:40], "write [[x, y], [x, y], ...]"
        )
    listed = list(lines)
    if not listed:
        raise InputError.about(thing, "points", "an empty list", "write [[x, y], [x, y], ...]")
    first = listed[0]
    has_items = hasattr(first, "__len__") and not isinstance(first, Mapping) and len(first) > 0
    is_line = has_items and hasattr(first[0], "__len__")
    return listed if is_line else [listed]


def _json_lines(lines: tuple[tuple[tuple[float, float], ...], ...]) -> list[Any]:
    nested = [[[plain(x), plain(y)] for x, y in line] for line in lines]
    return nested[0] if len(nested) == 1 else nested


def _plain_counts(counts: Any, size: tuple[int, int]) -> str | tuple[int, ...]:
    """Counts as str or tuple of ints; refused when longer than any mask of this size could need."""
    if not isinstance(counts, str | bytes | Sequence | np.ndarray):
        raise InputError.about(
            "RLE", "counts as a string or a list", type(counts).__name__, "encode the mask again"
        )
    longest = 7 * (size[0] * size[1] + 2)
    if len(counts) > longest:
        raise InputError.about(
            "RLE",
            f"at most {longest} counts for {size[1]} x {size[0]}",
            str(len(counts)),
            "encode the mask again",
        )
    if isinstance(counts, bytes):
        return counts.decode("latin-1")  # checked for foreign characters when it is read
    if isinstance(counts, str):
        return counts
    for run in counts:
        if isinstance(run, bool) or not hasattr(run, "__index__") or not 0 <= int(run) <= size[0] * size[1]:
            raise InputError.about(
                "RLE",
                f"runs as whole numbers from 0 to {size[0] * size[1]}",
                repr(run)[:40],
                "encode the mask again",
            )
    return tuple(int(run) for run in counts)

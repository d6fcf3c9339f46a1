"""Regions given pixel by pixel: masks, plain and run-length encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rgpt.errors import InputError
from rgpt.regions import rasterize, rle, runs
from rgpt.regions.checks import picture_size
from rgpt.regions.shapes import Box, Geometry


@dataclass(frozen=True, eq=False)
class Mask(Geometry):
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
        return self is other or (isinstance(other, Mask) and np.array_equal(self.array, other.array))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Once for all: of a large mask it takes as long as laying it on a grid."""
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

    def bounds(self, height: int, width: int) -> Box:
        self.check_inside(height, width)
        return Box(*rasterize.mask_bounds(self.array))

    def to_rle(self) -> RLE:
        """The same pixels, run-length encoded and compressed."""
        return RLE.from_mask(self.array)

    def to_json(self) -> dict[str, Any]:
        return self.to_rle().to_json()


@dataclass(frozen=True)
class RLE(Geometry):
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

    def at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Its values at the pixels of these rows and columns, bool [rows, columns]."""
        places = columns[None, :] * self.size[0] + rows[:, None]
        return np.searchsorted(np.cumsum(self._runs()), places, side="right") % 2 == 1

    def work(self, height: int, width: int) -> int:
        return len(self.counts)

    def rectangles(self, height: int, width: int) -> np.ndarray:
        self.check_inside(height, width)
        ends = np.cumsum(self._runs())
        stops = ends[1::2]
        starts = ends[0::2][: len(stops)]
        return runs.rectangles(starts[starts < stops], stops[starts < stops], height)

    def to_json(self) -> dict[str, Any]:
        counts = self.counts if isinstance(self.counts, str) else list(self.counts)
        return {"mask": {"size": list(self.size), "counts": counts}}


def _check_same_size(thing: str, size: tuple[int, ...], height: int, width: int) -> None:
    height, width = picture_size(height, width)
    if size != (height, width):
        raise InputError.about(
            thing,
            f"the size of the picture, {width} x {height}",
            f"{size[1]} x {size[0]}",
            "make the mask on the upright picture at full size",
        )


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

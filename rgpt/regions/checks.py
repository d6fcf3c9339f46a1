"""Checks shared by the region values: numbers, picture sizes, printing of both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from rgpt.errors import InputError

MAX_PIXELS = 100_000_000  # pictures and masks above this are refused before anything is allocated [D]
MAX_POINTS = 100_000  # vertices of one polygon or scribble [D]


def finite(value: Any, thing: str, name: str) -> float:
    """`value` as a float; InputError when it is not a finite number (booleans are not numbers here)."""
    # The common cases first: asking the abstract class takes many times as long.
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and -MAX_PIXELS < value < MAX_PIXELS:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
        raise InputError.about(
            thing, f"{name} to be a finite number", shown, "give it in pixels of the picture"
        )
    return float(value)


def point_list(values: Any, thing: str, minimum: int) -> tuple[tuple[float, float], ...]:
    """A sequence of (x, y) pairs as nested tuples of floats, at least `minimum` of them."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InputError.about(
            thing, "a list of [x, y] points", type(values).__name__, "write [[x, y], [x, y], ...]"
        )
    listed = list(values)
    if len(listed) > MAX_POINTS:
        raise InputError.about(
            thing, f"at most {MAX_POINTS} points", str(len(listed)), "simplify it or give a mask"
        )
    result = []
    for index, pair in enumerate(listed):
        if isinstance(pair, str | bytes | Mapping) or not hasattr(pair, "__len__") or len(pair) != 2:
            raise InputError.about(
                thing, f"point {index} to be [x, y]", repr(pair)[:40], "give two numbers a point"
            )
        result.append(
            (finite(pair[0], thing, f"x of point {index}"), finite(pair[1], thing, f"y of point {index}"))
        )
    if len(result) < minimum:
        raise InputError.about(
            thing,
            f"at least {minimum} point{'s' if minimum > 1 else ''}",
            str(len(result)),
            "add points or use another kind of region",
        )
    return tuple(result)


def picture_size(
    height: Any, width: Any, thing: str = "picture size", max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """(height, width) as positive ints of at most `max_pixels` in all."""
    for value in (height, width):
        if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
            raise InputError.about(
                thing,
                "height and width as whole numbers of at least 1",
                f"{height!r} by {width!r}",
                "give the size of the upright picture in pixels",
            )
    height, width = int(height), int(width)
    if height * width > max_pixels:
        raise InputError.about(
            thing,
            f"at most {max_pixels} pixels",
            f"{width} x {height} = {height * width}",
            "make it smaller first",
        )
    return height, width


def plain(value: float) -> int | float:
    """60.0 as 60, so that JSON and messages show what the person wrote."""
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)


def shown(values: Iterable[float]) -> str:
    """Numbers for a message, e.g. ``[60, 150.5, 260, 330]``."""
    return "[" + ", ".join(f"{value:.10g}" for value in values) + "]"

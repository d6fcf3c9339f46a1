"""What the canvas sends becomes regions, checked like any request from outside, and back again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.session import Picture
from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Point, Polygon, Region, Scribble, check_work
from rgpt.regions.shapes import union_of_scribbles

MAX_REGIONS = 50
MAX_POINTS = 4000
"""Corners of one polygon, or points of one brush stroke."""
MAX_STROKES = 200
SHAPE_SIDE = 640
"""Longer side, in pixels, of the copy of a mask that is sent to the page to be shown there."""


def read_regions(value: object, picture: Picture | None) -> dict[int, Region]:
    """The regions in the value of a `RegionCanvas`, by number, cut to the picture.

    The value comes from a browser and is checked like any request: kinds, counts, numbers and sizes. Regions
    that were drawn on another picture (an event that a new picture overtook) are left out. The picture's size
    is the one known here; what the page says about it is not read.

    Raises:
        InputError: something in the value is not what the canvas sends, or exceeds a cap.
    """
    if picture is None or value is None:
        return {}
    if not isinstance(value, dict) or not isinstance(value.get("regions"), list):
        raise InputError("The drawing could not be read; reload the page.")
    if value.get("picture") != picture.token:
        return {}
    drawn = value["regions"]
    if len(drawn) > MAX_REGIONS:
        raise InputError(f"There are {len(drawn)} regions, more than the {MAX_REGIONS} allowed; remove some.")
    regions: dict[int, Region] = {}
    for entry in drawn:
        number = entry.get("id") if isinstance(entry, dict) else None
        if type(number) is not int or not 1 <= number <= 9999 or number in regions:
            raise InputError(
                f"A region has the number {str(number)[:20]!r}; numbers are whole, 1 to 9999, and differ."
            )
        try:
            region = _read_region(entry, picture)
            region.check_inside(picture.height, picture.width)
        except InputError as error:
            raise InputError(f"<region{number}>: {error}") from error
        regions[number] = region
    check_work(regions.values(), picture.height, picture.width)
    return regions


_FIELDS = {"box": "box", "polygon": "points", "point": "point", "brush": "strokes", "mask": "mask"}


def _read_region(entry: dict[str, Any], picture: Picture) -> Region:
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise InputError(f"its kind is {str(kind)[:20]!r}; it must be one of {', '.join(_FIELDS)}.")
    if set(entry) != {"id", "kind", _FIELDS[kind]}:
        raise InputError(
            f"a {kind} has exactly id, kind and {_FIELDS[kind]}, not {sorted(map(str, entry))[:8]}."
        )
    shape = entry[_FIELDS[kind]]
    if kind == "box":
        x1, y1, x2, y2 = _numbers(shape, 4, "the box")
        box = Box(x1, y1, x2, y2)
        box.check_inside(picture.height, picture.width)
        return box.bounds(picture.height, picture.width)
    if kind == "polygon":
        return Polygon([_points(shape, "the polygon", picture)])
    if kind == "point":
        x, y = _numbers(shape, 2, "the point")
        # The right and lower edges belong to the canvas but not to the half-open picture.
        return Point(_clip(x, picture.width - 0.5), _clip(y, picture.height - 0.5))
    if kind == "mask":
        # Masks stay here; the page knows them by name only.
        if not isinstance(shape, str) or shape not in picture.masks:
            raise InputError("its mask does not belong to this picture; remove it.")
        return picture.masks[shape]
    return _brush(shape, picture)


def _brush(strokes: object, picture: Picture) -> Region:
    """The union of the strokes: a `Scribble` when all have one width, else the pixels."""
    if not isinstance(strokes, list) or not 1 <= len(strokes) <= MAX_STROKES:
        raise InputError(f"a brush region is a list of 1 to {MAX_STROKES} strokes.")
    by_width: dict[float, list[list[tuple[float, float]]]] = {}
    for stroke in strokes:
        if not isinstance(stroke, dict) or set(stroke) != {"width", "points"}:
            raise InputError("a brush stroke has exactly width and points.")
        (width,) = _numbers([stroke["width"]], 1, "the brush width")
        if not 0 < width <= max(picture.width, picture.height):
            raise InputError(
                f"the brush is {width:g} px wide; it must be above 0 and no wider than the picture."
            )
        points = _thinned(_points(stroke["points"], "a stroke", picture), width / 12)
        by_width.setdefault(width, []).append(points)
    scribbles = [Scribble(lines, width) for width, lines in by_width.items()]
    if len(scribbles) == 1:
        return scribbles[0]
    check_work(scribbles, picture.height, picture.width)
    return RLE.from_mask(union_of_scribbles(scribbles, picture.height, picture.width))


def _points(values: object, thing: str, picture: Picture) -> list[tuple[float, float]]:
    """[[x, y], …] moved into the picture."""
    if not isinstance(values, list) or not values:
        raise InputError(f"{thing} has no points.")
    if len(values) > MAX_POINTS:
        raise InputError(f"{thing} has {len(values)} points, more than the {MAX_POINTS} allowed.")
    pairs = (_numbers(pair, 2, f"a point of {thing}") for pair in values)
    return [(_clip(x, picture.width), _clip(y, picture.height)) for x, y in pairs]


def _numbers(values: object, count: int, thing: str) -> list[float]:
    good = isinstance(values, list) and len(values) == count and all(type(v) in (int, float) for v in values)
    # The range first: a Python int may be too large for isfinite.
    if not good or not all(abs(v) < 1e9 and math.isfinite(v) for v in values):  # type: ignore[attr-defined]
        raise InputError(f"{thing} needs {count} finite numbers, got {str(values)[:60]}.")
    return [float(v) for v in values]  # type: ignore[attr-defined]


def _clip(value: float, most: float) -> float:
    return min(max(value, 0.0), float(most))


def _thinned(points: list[tuple[float, float]], step: float) -> list[tuple[float, float]]:
    """The points without those nearer than `step` to the one kept before; the last one stays."""
    kept = points[:1]
    for point in points[1:]:
        if math.dist(point, kept[-1]) >= step:
            kept.append(point)
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


# ------------------------------------------------------------------ back to the page


def to_canvas(regions: Mapping[int, Region], picture: Picture) -> list[dict[str, Any]]:
    """The entries of the canvas value that show these regions.

    What the page cannot draw itself (masks, polygons of several rings, points with a radius) becomes a mask
    of the picture.
    """
    return [{"id": number, **_entry(region, picture)} for number, region in sorted(regions.items())]


def _entry(region: Region, picture: Picture) -> dict[str, Any]:
    # A box that has a name goes back under the name by which the page knows it.
    if isinstance(region, Box) and picture.label(region) is None:
        return {"kind": "box", "box": list(region.xyxy)}
    if isinstance(region, Polygon) and len(region.rings) == 1 and len(region.rings[0]) <= MAX_POINTS:
        return {"kind": "polygon", "points": [list(point) for point in region.rings[0]]}
    if isinstance(region, Point) and region.radius is None:
        return {"kind": "point", "point": [region.x, region.y]}
    if isinstance(region, Scribble) and len(region.points) <= MAX_STROKES:
        strokes = [{"width": region.width, "points": [list(p) for p in line]} for line in region.points]
        if all(len(line) <= MAX_POINTS for line in region.points):
            return {"kind": "brush", "strokes": strokes}
    return {"kind": "mask", "mask": add_mask(picture, region)}


def add_mask(picture: Picture, region: Region) -> str:
    """Give the picture a mask (of a box: the box, unrounded) that the page may show; returns its name.

    Raises:
        InputError: the picture has very many already.
    """
    if isinstance(region, Box):
        kept: Region = region.bounds(picture.height, picture.width)
    elif isinstance(region, RLE):
        kept = region
    else:
        kept = RLE.from_mask(region.to_mask(picture.height, picture.width))
    for name, known in list(picture.masks.items()):
        if known == kept:
            return name
    if len(picture.masks) >= picture.MOST_MASKS:
        raise InputError(
            f"This picture has {picture.MOST_MASKS} masks, the most it can have; open the picture anew."
        )
    name = f"m{len(picture.masks) + 1}"
    picture.masks[name] = kept
    return name


def shapes(picture: Picture, names: list[str]) -> dict[str, dict[str, Any]]:
    """What the page needs to show masks: tight bounds in picture pixels, a small copy as runs, and the label
    as [name, score], where there is one.

    `runs` count false and true pixels in turn, row by row, of a `size[0]` x `size[1]` (height, width) copy.
    """
    found = {}
    for name in names:
        region = picture.masks[name]
        height, width = picture.height, picture.width
        scale = min(1.0, SHAPE_SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        columns, rows = (
            ((np.arange(small) + 0.5) * (full / small)).astype(np.int64)
            for small, full in zip(size, (width, height), strict=True)
        )
        flat = _sampled(region, rows, columns, height, width).reshape(-1)
        edges = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
        label = picture.labels.get(name)
        found[name] = {
            "label": label and [label.name, label.score],
            "bounds": list(region.bounds(height, width).xyxy),
            "size": [size[1], size[0]],
            "runs": [0, *runs] if flat[0] else runs,
        }
    return found


def _sampled(region: Region, rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bool [rows, columns]: the region at these pixels; no mask of the picture's size is made."""
    if isinstance(region, RLE):
        return region.at(rows, columns)
    ((x1, y1, x2, y2),) = region.rectangles(height, width)
    return ((rows >= y1) & (rows < y2))[:, None] & ((columns >= x1) & (columns < x2))[None, :]

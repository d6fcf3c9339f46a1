"""Regions from JSON objects and from the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rgpt.errors import InputError
from rgpt.regions.image import open_encoded
from rgpt.regions.values import RLE, Box, Mask, Point, Polygon, Region, Scribble

KINDS = ("box", "polygon", "mask", "point", "scribble")
_FORMS = "box:x1,y1,x2,y2, polygon:x,y,x,y,x,y, point:x,y, mask:FILE.png or rle:FILE.json"


def region_from_json(value: Any) -> Region:
    """The region of a JSON object with exactly one of the keys in KINDS.

    {"box": [x1, y1, x2, y2]}, {"polygon": [[x, y], ...] or a list of such rings},
    {"mask": {"size": [H, W], "counts": str or [int, ...]}}, {"point": [x, y] or [x, y, radius]},
    {"scribble": {"points": [[x, y], ...] or a list of strokes, "width": w}}; in pixels of the picture.

    A mask becomes an `RLE`. Raises InputError on unknown or missing keys and on whatever the values refuse.
    """
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in KINDS:
        keys = f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
        raise InputError.about(
            "region",
            f"an object with exactly one of {', '.join(KINDS)}",
            keys[:120],
            'write for example {"box": [60, 150, 260, 330]}',
        )
    kind, content = next(iter(value.items()))
    if kind == "box":
        return Box(*_numbers(content, "box", (4,)))
    if kind == "point":
        return Point(*_numbers(content, "point", (2, 3)))
    if kind == "polygon":
        return Polygon(content)
    if kind == "scribble":
        fields = _fields(content, "scribble", ("points", "width"))
        return Scribble(fields["points"], fields["width"])
    fields = _fields(content, "mask", ("size", "counts"))
    return RLE(fields["size"], fields["counts"])


def parse_region(text: str) -> Region:
    """The region of a command-line argument.

    box:x1,y1,x2,y2 | polygon:x,y,x,y,x,y,... | point:x,y[,radius] | mask:FILE (a picture, see
    `mask_from_image`) | rle:FILE (JSON with size and counts).

    Raises InputError that names the argument.
    """
    kind, colon, content = text.partition(":")
    kind = kind.strip().lower()
    if not colon or kind not in ("box", "polygon", "point", "mask", "rle"):
        raise InputError.about(
            f"region {text[:80]!r}", _FORMS, "another form", "write the kind, a colon, the rest"
        )
    if kind == "mask":
        return mask_from_image(open_encoded(content))
    if kind == "rle":
        return _rle_file(Path(os.path.expanduser(content)))
    values = _split(content, text)
    if kind == "box":
        return Box(*_numbers(values, "box", (4,)))
    if kind == "point":
        return Point(*_numbers(values, "point", (2, 3)))
    if len(values) % 2:
        raise InputError.about(
            f"region {text[:80]!r}", "an even count of numbers", str(len(values)), "give x, y pairs"
        )
    return Polygon(list(zip(values[0::2], values[1::2], strict=True)))


def mask_from_image(image: Image.Image) -> Mask:
    """The marked pixels of a mask picture, at the picture's size.

    Where the picture has transparent pixels, the more opaque half of the scale is marked; in palette pictures
    every entry but number 0; otherwise brightness above 127, or above 0 where there is only 0 and 1.
    """
    if image.mode == "P" and "transparency" not in image.info:
        return Mask(np.asarray(image) > 0)
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"))
        if alpha.min() < 128:
            return Mask(alpha > 127)
        image = rgba
    if image.mode.startswith(("I", "F")):
        return Mask(np.asarray(image) > 0)
    grey = np.asarray(image.convert("L"))
    # JPEG leaves noise around black, so small values count only where nothing larger exists.
    return Mask(grey > (127 if grey.max(initial=0) > 1 else 0))


def _rle_file(path: Path) -> RLE:
    thing = f"RLE file {str(path)[:200]!r}"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError.about(thing, "an existing file", "nothing at this path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError.about(
            thing, "JSON with size and counts", str(error), "write the mask again"
        ) from error
    if isinstance(value, Mapping) and set(value) == {"mask"}:
        value = value["mask"]
    fields = _fields(value, thing, ("size", "counts"))
    return RLE(fields["size"], fields["counts"])


def _fields(content: Any, thing: str, names: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(content, Mapping) or set(content) != set(names):
        found = (
            f"the keys {sorted(map(str, content))}"
            if isinstance(content, Mapping)
            else type(content).__name__
        )
        raise InputError.about(
            thing, f"an object with exactly {' and '.join(names)}", found[:120], "add or remove keys"
        )
    return content


def _numbers(values: Any, thing: str, counts: tuple[int, ...]) -> list[Any]:
    if (
        isinstance(values, str | bytes | Mapping)
        or not hasattr(values, "__len__")
        or len(values) not in counts
    ):
        found = str(len(values)) if isinstance(values, list | tuple) else type(values).__name__
        raise InputError.about(
            thing,
            f"{' or '.join(map(str, counts))} numbers",
            found,
            "give pixels: left, top, right, bottom" if thing == "box" else "give pixels: x, y",
        )
    return list(values)


def _split(content: str, text: str) -> list[float]:
    values = []
    for part in content.split(","):
        try:
            values.append(float(part))
        except ValueError as error:
            raise InputError.about(
                f"region {text[:80]!r}",
                "numbers with commas between them",
                repr(part.strip()[:40]),
                "write for example box:60,150,260,330",
            ) from error
    return values

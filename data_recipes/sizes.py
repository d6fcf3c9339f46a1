"""A picture's size without decoding it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


def upright_size(path: Path | str) -> tuple[int, int] | None:
    """(height, width) of the upright picture, read from its header; None when there is no readable picture.

    A camera held sideways notes it in EXIF: height and width are then exchanged.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return (width, height) if sideways else (height, width)

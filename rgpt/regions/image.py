"""Pictures in: from a path, bytes or a PIL image to an upright RGB picture, or one clear sentence."""

from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rgpt.errors import InputError
from rgpt.regions.checks import MAX_PIXELS

# Named so that a file never starts Ghostscript (EPS) or another surprising decoder.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")


def open_image(source: str | Path | bytes | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The upright RGB picture of a path, encoded bytes or a PIL image.

    EXIF rotation is applied; transparency is laid on white; CMYK, palette, grey and 16-bit become 8-bit RGB;
    the first frame of an animation is taken. The size is checked before anything is decoded.

    Raises InputError when the file is missing, empty, truncated, no picture, or has more than `max_pixels`.
    """
    opened = open_encoded(source, max_pixels)
    try:
        upright = ImageOps.exif_transpose(opened)
    except Exception:  # damaged EXIF says nothing about the pixels: keep them as they lie
        upright = opened
    result = _to_rgb(upright)
    # A remaining orientation tag would turn the picture again on the next call.
    return Image.frombytes("RGB", result.size, result.tobytes())


def open_encoded(source: str | Path | bytes | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture as stored: decoded, in its own mode (of a mask the palette matters), not turned upright."""
    name, opened = _open(source, max_pixels)
    _check_size(name, opened.width, opened.height, max_pixels)
    try:
        opened.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError.about(
            name, "a complete picture", f"one that breaks off ({error})", "save or copy it again"
        ) from error
    return opened


def _open(source: str | Path | bytes | Image.Image, max_pixels: int) -> tuple[str, Image.Image]:
    if isinstance(source, Image.Image):
        return "picture", source
    if isinstance(source, bytes | bytearray):
        name, data = "picture", bytes(source)
    elif isinstance(source, str | Path):
        path = Path(os.path.expanduser(source))  # Path.expanduser raises for an unknown ~user
        name = f"picture {str(source)[:200]!r}"
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise InputError.about(name, "an existing file", "nothing at this path") from error
        except (OSError, ValueError) as error:
            kind = (
                "a folder"
                if isinstance(error, IsADirectoryError)
                else getattr(error, "strerror", None) or str(error)
            )
            raise InputError.about(
                name, "a readable picture file", kind, "give the path of one picture"
            ) from error
    else:
        raise InputError.about(
            "picture", "a path, bytes or a PIL image", type(source).__name__, "convert it first"
        )
    if not data:
        raise InputError.about(name, "a picture", "an empty file", "save or copy it again")
    try:
        # Without init() only the commonest formats are known; some builds of Pillow lack AVIF or WebP.
        Image.init()
        known = [kind for kind in FORMATS if kind in Image.OPEN]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit speaks instead
            return name, Image.open(io.BytesIO(data), formats=known)
    except Image.DecompressionBombError as error:
        # Pillow's own limit lies above ours and speaks first; it does so before decoding, too.
        found = re.search(r"\d+", str(error))
        raise _too_large(name, f"{found.group() if found else 'more'} pixels", max_pixels) from error
    except UnidentifiedImageError as error:
        raise InputError.about(
            name,
            "a picture (PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF ...)",
            "data in no such format",
            "convert it to PNG or JPEG",
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError.about(
            name, "a complete picture", f"one that cannot be read ({error})", "save it again"
        ) from error


def _check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise InputError.about(name, "at least one pixel", f"{width} x {height}", "give another picture")
    if width * height > max_pixels:
        raise _too_large(name, f"{width} x {height} = {width * height}", max_pixels)


def _too_large(name: str, actual: str, max_pixels: int) -> InputError:
    return InputError.about(name, f"at most {max_pixels} pixels", actual, "make it smaller first")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (
        "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    ):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_eight_bits(image), "L").convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> np.ndarray:
    """Deep grey [H, W] as uint8: 16-bit values by their full range, others by the largest value present."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(values.max(initial=0.0))
    if image.mode == "F":
        full = 1.0 if largest <= 1.0 else 255.0 if largest <= 255.0 else largest
    else:
        # convert("L") would clip everything above 255 to white.
        full = 65535.0 if largest <= 65535.0 else largest
    return np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8)

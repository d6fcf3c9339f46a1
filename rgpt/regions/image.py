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
from rgpt.regions.checks import MAX_PIXELS, picture_size
from rgpt.regions.encoded import check_parts, read_file, without_large_text

# Named so that a file never starts Ghostscript (EPS) or another surprising decoder.
# No ICO: it is decoded while it is opened, before its size could be refused.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")


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
    # A picture of its own: a remaining orientation tag would turn it again on the next call.
    clean = Image.new("RGB", result.size)
    clean.paste(result)
    return clean


def open_encoded(source: str | Path | bytes | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture as stored: decoded, in its own mode (of a mask the palette matters), not turned upright."""
    if isinstance(source, Image.Image):
        return _loaded("picture", source, max_pixels)
    name, data = _bytes_of(source)
    data = check_parts(name, data)
    try:
        return _loaded(name, _opened(name, data, max_pixels), max_pixels)
    except InputError:
        if (lean := without_large_text(data)) == data:
            raise
        return _loaded(name, _opened(name, lean, max_pixels), max_pixels)


def _loaded(name: str, opened: Image.Image, max_pixels: int) -> Image.Image:
    picture_size(opened.height, opened.width, name, max_pixels)
    try:
        opened.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError.about(
            name, "a complete picture", f"one that breaks off ({error})", "save or copy it again"
        ) from error
    return opened


def _bytes_of(source: str | Path | bytes) -> tuple[str, bytes]:
    """The picture's name for messages, and its bytes."""
    if isinstance(source, bytes | bytearray):
        name, data = "picture", bytes(source)
    elif isinstance(source, str | Path):
        path = Path(os.path.expanduser(source))  # Path.expanduser raises for an unknown ~user
        name = f"picture {str(source)[:200]!r}"
        try:
            data = read_file(path, name)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError.about(name, "an existing file", "nothing at this path") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError.about(
                name, "a readable picture file", reason, "give the path of one picture"
            ) from error
    else:
        raise InputError.about(
            "picture", "a path, bytes or a PIL image", type(source).__name__, "convert it first"
        )
    if not data:
        raise InputError.about(name, "a picture", "an empty file", "save or copy it again")
    return name, data


def _opened(name: str, data: bytes, max_pixels: int) -> Image.Image:
    """The picture with only its header read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit speaks instead
            return Image.open(io.BytesIO(data), formats=known_formats())
    except Image.DecompressionBombError as error:
        # Pillow's own limit lies above ours and speaks first; it does so before decoding, too.
        count = re.search(r"\d+", str(error))
        actual = f"{count.group() if count else 'more'} pixels"
        raise InputError.about(
            name, f"at most {max_pixels} pixels", actual, "make it smaller first"
        ) from error
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


def known_formats() -> list[str]:
    """Those of `FORMATS` that this build of Pillow reads; some lack AVIF or WebP."""
    Image.init()  # without it only the commonest are known
    return [kind for kind in FORMATS if kind in Image.OPEN]


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
    stored = np.asarray(image)
    # A band of rows at a time: as float64, a large picture would take eight times its bytes, and twice.
    bands = [slice(top, top + 256) for top in range(0, len(stored), 256)]

    def floats(band: slice) -> np.ndarray:
        return np.nan_to_num(stored[band].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)

    largest = max(float(floats(band).max(initial=0.0)) for band in bands)
    if image.mode == "F":
        full = 1.0 if largest <= 1.0 else 255.0 if largest <= 255.0 else largest
    else:
        # convert("L") would clip everything above 255 to white.
        full = 65535.0 if largest <= 65535.0 else largest
    result = np.empty(stored.shape, dtype=np.uint8)
    for band in bands:
        result[band] = np.clip(np.rint(floats(band) * (255.0 / full)), 0, 255)
    return result

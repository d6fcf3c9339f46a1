"""Pictures in: from a path, bytes or a PIL image to an upright RGB picture, or one clear sentence."""

from __future__ import annotations

import io
import os
import re
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from rgpt.errors import InputError
from rgpt.regions.checks import MAX_PIXELS, picture_size

# Named so that a file never starts Ghostscript (EPS) or another surprising decoder.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


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
    if isinstance(source, Image.Image):
        return _loaded("picture", source, max_pixels)
    name, data = _bytes_of(source)
    try:
        return _loaded(name, _opened(name, data, max_pixels), max_pixels)
    except InputError:
        if (lean := without_large_text(data)) == data:
            raise
        return _loaded(name, _opened(name, lean, max_pixels), max_pixels)


def without_large_text(data: bytes) -> bytes:
    """A PNG without the texts and colour profiles that make Pillow refuse it; anything else as it is.

    Pillow expands them to at most 1 MB each, and ends over a damaged one as over damaged pixels. None of them
    changes a pixel here; small ones stay, since an EXIF turn may stand in them.
    """
    if not data.startswith(_PNG):
        return data
    kept, place, budget = [_PNG], len(_PNG), PngImagePlugin.MAX_TEXT_CHUNK
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind, content = data[place + 4 : place + 8], data[place + 8 : end - 4]
        size = _expanded(kind, content, budget) if kind in _PNG_TEXT else 0
        whole = not size or zlib.crc32(kind + content).to_bytes(4, "big") == data[end - 4 : end]
        if whole and size <= budget:
            kept.append(data[place:end])
            budget -= size
        place = end
    return b"".join(kept)


def _expanded(kind: bytes, content: bytes, limit: int) -> int:
    """Bytes of a PNG's text or profile when it is unpacked; more than `limit` is not counted to the end."""
    if kind == b"tEXt" or (kind == b"iTXt" and content.partition(b"\0")[2][:1] == b"\0"):
        return len(content)
    rest = content.partition(b"\0")[2]
    packed = rest[1:] if kind != b"iTXt" else rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    try:
        return len(content) + len(zlib.decompressobj().decompress(packed, limit + 1))
    except zlib.error:
        return limit + 1


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
            data = path.read_bytes()
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
        # Without init() only the commonest formats are known; some builds of Pillow lack AVIF or WebP.
        Image.init()
        known = [kind for kind in FORMATS if kind in Image.OPEN]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit speaks instead
            return Image.open(io.BytesIO(data), formats=known)
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

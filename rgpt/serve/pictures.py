"""A picture's URL → its bytes → an upright RGB picture. Caps come before decoding."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import ImageOps

from rgpt.errors import InputError
from rgpt.regions import Mask, open_image
from rgpt.regions.image import open_encoded
from rgpt.serve.errors import ApiError, from_input_error
from rgpt.serve.settings import Settings

if TYPE_CHECKING:
    from PIL import Image

_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w-]+=[\w.-]+)*);base64,", re.IGNORECASE)


@dataclass(frozen=True)
class SentPicture:
    """Encoded bytes as they were sent; `key` is the same for the same bytes read in the same way.

    Args:
        alpha_is_region: there are no `regions`, so an alpha channel is one.
        param: where it stood in the request.
    """

    data: bytes = field(repr=False)
    alpha_is_region: bool
    param: str
    key: str

    @classmethod
    def of(cls, data: bytes, alpha_is_region: bool, param: str, who: str = "") -> SentPicture:
        """`who`: what is kept of one API key's pictures is not used for another's."""
        digest = hashlib.sha256(data).hexdigest()
        return cls(data, alpha_is_region, param, f"{who}:{int(alpha_is_region)}:{digest}")


def read_data_url(url: str, param: str, settings: Settings) -> bytes:
    """The bytes of `data:image/…;base64,…`.

    Raises:
        ApiError: `invalid_image`: another form, no base64, too many bytes.
    """
    header = _DATA.match(url)
    if header is None:
        raise ApiError(
            "invalid_image",
            f"The picture's URL begins {url[:40]!r}: expected data:image/png;base64, or the like.",
            param=param,
        )
    kind = (header[1] or "image/").lower()
    if not kind.startswith("image/") or kind.startswith("image/svg"):
        raise ApiError(
            "invalid_image", f"A picture of type {kind} is not taken: convert it to PNG or JPEG.", param=param
        )
    length = (len(url) - header.end()) * 3 // 4
    if length > settings.max_image_bytes + 2:
        raise ApiError(
            "invalid_image",
            f"The picture has about {length} bytes: at most {settings.max_image_bytes} are taken.",
            param=param,
        )
    try:
        return base64.b64decode(url[header.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError("invalid_image", f"The picture is not base64 ({error}).", param=param) from None


def open_sent(sent: SentPicture, settings: Settings) -> tuple[Image.Image, Mask | None]:
    """The upright RGB picture and, where it stands for a region, its alpha.

    An RGBA picture sent without `regions` keeps its colours everywhere, and its more opaque half is region1;
    otherwise what is transparent is laid on white.

    Raises:
        ApiError: `invalid_image`: no picture, one that breaks off, too many pixels, nothing opaque.
    """
    try:
        if not sent.alpha_is_region:
            return open_image(sent.data, settings.max_image_pixels), None
        stored = open_encoded(sent.data, settings.max_image_pixels)
        if stored.mode != "RGBA":
            return open_image(stored, settings.max_image_pixels), None
        try:
            stored = ImageOps.exif_transpose(stored)
        except Exception:  # damaged EXIF says nothing about the pixels, as in open_image
            stored.getexif().clear()
        alpha = np.asarray(stored.getchannel("A")) > 127
        if not alpha.any():
            raise InputError(
                "The picture's alpha channel stands for region1 but marks nothing: send regions, or RGB."
            )
        return open_image(stored.convert("RGB"), settings.max_image_pixels), Mask(alpha)
    except InputError as error:
        raise from_input_error(error, "invalid_image", sent.param) from None

"""A picture's URL → its bytes → an upright RGB picture. Caps come before decoding."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import numpy as np

from rgpt.errors import InputError
from rgpt.files import sha256
from rgpt.regions import Mask, open_image
from rgpt.regions.encoded import claimed_pixels
from rgpt.regions.square import SquarePicture
from rgpt.serve.decoding import open_with_alpha
from rgpt.serve.errors import ApiError, from_input_error
from rgpt.serve.settings import Settings
from rgpt.serve.workers import TooLong, Workers, decoding_memory, finished

if TYPE_CHECKING:
    from PIL import Image

QUICK_BYTES, QUICK_PIXELS, QUICK_SECONDS = 2**20, 4_000_000, 0.5
"""What decodes in the lane that is never blocked for long."""
_BASE64 = re.compile(r"; *base64\Z", re.IGNORECASE)


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
        return cls(data, alpha_is_region, param, f"{who}:{int(alpha_is_region)}:{sha256(data)}")


def read_data_url(url: str, param: str, settings: Settings) -> bytes:
    """The bytes of `data:image/…;base64,…`, as browsers read such URLs.

    That is the Fetch standard's `data:` URL processor and Infra's forgiving base64: anything may be
    percent-encoded, base64 may be wrapped and without padding, and without `;base64` the bytes are there as
    they are. No type, or one that says nothing, is taken: the bytes tell what they are.

    Raises:
        ApiError: `invalid_image`: another form, no base64, too many bytes.
    """
    url = url.strip()
    if url[:5].lower() != "data:":
        raise ApiError(
            "invalid_image",
            f"The picture's URL begins {url[:20]!r}: expected data:image/png;base64,….",
            param=param,
        )
    header, comma, body = url.partition("#")[0][5:].partition(",")
    if not comma:
        raise ApiError(
            "invalid_image",
            f"The picture's URL begins {url[:40]!r}: expected data:image/png;base64, or the like.",
            param=param,
        )
    header = re.sub(r"[\t\n\r]", "", header).strip()
    kind = header.partition(";")[0].strip().lower() or "image/"
    if (not kind.startswith("image/") and kind != "application/octet-stream") or kind.startswith("image/svg"):
        raise ApiError(
            "invalid_image",
            f"A picture of type {kind[:40]} is not taken: convert it to PNG or JPEG.",
            param=param,
        )
    data = unquote_to_bytes(body)
    encoded = _BASE64.search(header) is not None
    if encoded:
        data = data.translate(None, b"\t\n\f\r ")
        if len(data) % 4 == 0:
            data = data.removesuffix(b"=").removesuffix(b"=")
    length = len(data) * 3 // 4 if encoded else len(data)
    if length > settings.max_image_bytes:
        raise ApiError(
            "invalid_image",
            f"The picture has {length} bytes: at most {settings.max_image_bytes} are taken.",
            param=param,
        )
    if not encoded:
        return data
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        hint = ", the alphabet must be + and /, not - and _" if {*b"-_"} & {*data} else ""
        raise ApiError("invalid_image", f"The picture is not base64 ({error}{hint}).", param=param) from None


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
        image, alpha = open_with_alpha(sent.data, settings.max_image_pixels)
        return image, None if alpha is None else Mask(alpha)
    except InputError as error:
        raise from_input_error(error, "invalid_image", sent.param) from None


async def see_sent(
    sent: SentPicture, settings: Settings, workers: Workers, processor: Any
) -> tuple[SquarePicture, Mask | None]:
    """As `open_sent`, in a process of `workers`, and only what a model with this processor sees of it."""
    arguments = (sent.data, sent.alpha_is_region, settings.max_image_pixels)
    look = processor.image_size, processor.image_mean, processor.image_std
    pixels = claimed_pixels(sent.data)
    slow = len(sent.data) > QUICK_BYTES or pixels is None or pixels > QUICK_PIXELS

    async def see(slow: bool) -> tuple[SquarePicture, Mask | None]:
        task = workers.submit(
            "rgpt.serve.decoding:decode_square",
            *arguments,
            *look,
            thing="The picture",
            slow=slow,
            seconds=settings.decode_seconds if slow else QUICK_SECONDS,
            memory=decoding_memory(settings.max_image_pixels),
        )
        values, (seen, *alpha) = await finished(task)
        height, width = values["height"], values["width"]
        region = None
        if alpha:
            bits = np.unpackbits(alpha[0], count=height * width)
            region = Mask(bits.view(bool).reshape(height, width))
        return SquarePicture(seen, height, width), region

    try:
        try:
            return await see(slow)
        except TooLong:
            if slow:
                raise
            return await see(True)
    except InputError as error:
        raise from_input_error(error, "invalid_image", sent.param) from None

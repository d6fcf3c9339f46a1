"""What the processes of `rgpt.serve.workers` do: pictures and regions to arrays. Light to import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from rgpt.errors import InputError
from rgpt.regions import Region, open_image, region_weights
from rgpt.regions.image import open_encoded
from rgpt.regions.square import to_pixels

Outcome = tuple[dict[str, Any], list[np.ndarray]]


def open_with_alpha(data: bytes, max_pixels: int) -> tuple[Image.Image, np.ndarray | None]:
    """The upright RGB picture; of RGBA its colours everywhere, and its more opaque half, bool [H, W].

    Raises:
        InputError: as `open_image`, or nothing is opaque.
    """
    stored = open_encoded(data, max_pixels)
    if stored.mode != "RGBA":
        return open_image(stored, max_pixels), None
    try:
        stored = ImageOps.exif_transpose(stored)
    except Exception:  # damaged EXIF says nothing about the pixels, as in open_image
        stored.getexif().clear()
    alpha = np.asarray(stored.getchannel("A")) > 127
    if not alpha.any():
        raise InputError(
            "The picture's alpha channel stands for region1 but marks nothing: send regions, or RGB."
        )
    return open_image(stored.convert("RGB"), max_pixels), alpha


def decode(data: bytes, max_pixels: int) -> Outcome:
    """uint8 [H, W, 3]."""
    return {}, [np.asarray(open_image(data, max_pixels))]


def decode_square(
    data: bytes,
    alpha_is_region: bool,
    max_pixels: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Outcome:
    """`to_pixels`, and the picture's `height` and `width`; where its alpha is a region, that too, eight
    pixels a byte."""
    alpha = None
    if alpha_is_region:
        image, alpha = open_with_alpha(data, max_pixels)
    else:
        image = open_image(data, max_pixels)
    arrays = [to_pixels(image, size, mean, std)]
    if alpha is not None:
        arrays.append(np.packbits(alpha))
    return {"height": image.height, "width": image.width}, arrays


def weigh(regions: Sequence[Region], height: int, width: int, grid: int) -> Outcome:
    """`region_weights`, float32 `[N, grid, grid]`, of those that have any; `refused`: the others' places, and
    why."""
    rows, refused = [], []
    for place, region in enumerate(regions):
        try:
            rows.append(region_weights(region, height, width, grid))
        except InputError as error:
            refused.append((place, str(error)))
    return {"refused": refused}, [np.stack(rows) if rows else np.zeros((0, grid, grid), np.float32)]

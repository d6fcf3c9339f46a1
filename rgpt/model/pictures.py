"""A picture in any form that people hand over becomes an upright RGB picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from transformers.image_utils import load_image

from rgpt.errors import InputError
from rgpt.regions import open_image

Picture = Image.Image | str | Path | bytes | np.ndarray


def as_picture(source: Picture) -> Image.Image:
    """An upright RGB picture from a PIL image, path, URL, encoded bytes or uint8 array `[H, W(, 3)]`."""
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        source = load_image(source)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or not (
            source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (3, 4))
        ):
            raise InputError(
                f"a picture array must be uint8 [H, W, 3], [H, W, 4] or [H, W], not {source.dtype} "
                f"{list(source.shape)}: convert it, or pass a PIL image."
            )
        source = Image.fromarray(source)
    return open_image(source)

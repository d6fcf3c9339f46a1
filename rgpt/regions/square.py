"""A picture of any size becomes a model's square input: padded, never cropped, so that no region is cut
off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from rgpt.regions.weights import square_padding

# A square of this side is made at full size; a larger one (a very long, thin picture) is shrunk before it
# is padded, or a 50,000 x 2,000 picture would need 7.5 GB of padding.
_LARGEST_SQUARE = 12_000


@dataclass(frozen=True, eq=False)
class SquarePicture:
    """What a model sees of a picture, float32 `[3, S, S]`, and the size in pixels that regions count in."""

    pixels: np.ndarray = field(repr=False)
    height: int
    width: int


def to_pixels(
    picture: Image.Image,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    fill: Sequence[float] | None = None,
) -> np.ndarray:
    """RGB picture -> float32 `[3, size, size]`: LLaVA's "pad" [D], bicubic with antialiasing, then (x -
    mean) / std.

    The square is the longer side of the picture, filled with the mean colour, the picture centred: the same
    geometry as `square_padding`, which places the region masks. `fill` is the colour of the padding in 0..1
    where it is not the mean.
    """
    side, (left, top) = square_padding(picture.height, picture.width)
    if side > _LARGEST_SQUARE:
        scale = 8 * size / side
        shape = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(shape, Image.Resampling.BICUBIC)
        side, (left, top) = square_padding(picture.height, picture.width)
    if picture.width != picture.height:
        square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in fill or mean))
        square.paste(picture, (left, top))
        picture = square
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture, dtype=np.float32) / np.float32(255)  # [size, size, 3]
    normalised = (pixels - np.asarray(mean, dtype=np.float32)) / np.asarray(std, dtype=np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))

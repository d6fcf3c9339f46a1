"""A stand-in for SAM."""

from __future__ import annotations

import numpy as np

from rgpt.regions import Mask


class Halves:
    """The half of the picture that was clicked, nothing in its top row of pixels; everything is both."""

    name = "halves"

    def mask_at(self, picture, points) -> Mask | None:
        x, y = points[0]
        mask = np.zeros((picture.height, picture.width), dtype=bool)
        half = picture.width // 2
        mask[:, :half] = x < half
        mask[:, half:] = x >= half
        return Mask(mask) if y >= 1 else None

    def everything(self, picture, most: int) -> list[Mask]:
        return [self.mask_at(picture, [(x, 1)]) for x in (0, picture.width)][:most]

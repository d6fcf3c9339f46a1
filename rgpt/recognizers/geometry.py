"""Where a picture's pixels lie on a model's canvas, and how much of each grid cell a region covers.

Boxes are xyxy, half-open, in pixels; "original" means the upright picture, "model" the resized canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SAM_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
SAM_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)


@dataclass(frozen=True)
class Geometry:
    """A height x width picture, resized to content_height x content_width at the canvas's top left corner.

    The canvas may be larger than the content: the rest is padding at the right and at the bottom.
    """

    height: int
    width: int
    content_height: int
    content_width: int
    canvas_height: int
    canvas_width: int

    @classmethod
    def squash(cls, height: int, width: int, side: int) -> Geometry:
        """The whole picture stretched to side x side; its aspect is lost, nothing is cut."""
        return cls(height, width, side, side, side, side)

    @classmethod
    def longest_side(cls, height: int, width: int, side: int) -> Geometry:
        """The longer side becomes `side`, the rest of the square is padding (SAM)."""
        scale = side / max(height, width)
        return cls(height, width, _round(height * scale), _round(width * scale), side, side)

    @classmethod
    def short_side(cls, height: int, width: int, short: int, longest: int) -> Geometry:
        """The shorter side becomes `short` unless the longer one would pass `longest`; no padding."""
        scale = min(short / min(height, width), longest / max(height, width))
        size = _round(height * scale), _round(width * scale)
        return cls(height, width, *size, *size)

    def on_canvas(self, canvas_height: int, canvas_width: int) -> Geometry:
        """The same content on a canvas of another size."""
        return Geometry(
            self.height, self.width, self.content_height, self.content_width, canvas_height, canvas_width
        )

    @property
    def scale_xy(self) -> tuple[float, float]:
        return self.content_width / self.width, self.content_height / self.height

    def to_model(self, xy: Tensor) -> Tensor:
        """Original -> model pixels for `[..., 2k]` alternating x, y (boxes, points)."""
        return xy * xy.new_tensor(self.scale_xy * (xy.shape[-1] // 2))

    def to_original(self, xy: Tensor) -> Tensor:
        """Model -> original pixels for `[..., 2k]` alternating x, y."""
        return xy / xy.new_tensor(self.scale_xy * (xy.shape[-1] // 2))

    def pixels(self, image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        """RGB picture -> `[3, canvas_height, canvas_width]` float32, normalised, padding exactly zero.

        Bilinear with antialiasing (Pillow's), the same at training and inference.
        """
        content = image.convert("RGB").resize(
            (self.content_width, self.content_height), Image.Resampling.BILINEAR
        )
        values = torch.from_numpy(np.array(content)).permute(2, 0, 1).float() / 255
        values = (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        canvas = torch.zeros(3, self.canvas_height, self.canvas_width)
        canvas[:, : self.content_height, : self.content_width] = values
        return canvas

    def cells(self, grid_height: int, grid_width: int) -> tuple[np.ndarray, np.ndarray]:
        """Edges `[grid_height + 1]`, `[grid_width + 1]` of the canvas's cells, in original pixels."""
        across, down = self.scale_xy
        rows = np.arange(grid_height + 1) * (self.canvas_height / grid_height / down)
        return rows, np.arange(grid_width + 1) * (self.canvas_width / grid_width / across)


def _round(value: float) -> int:
    return max(1, int(value + 0.5))

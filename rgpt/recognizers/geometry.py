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

    def cell_overlap(self, grid_height: int, grid_width: int) -> tuple[Tensor, Tensor]:
        """Two matrices `[grid_height, height]` and `[grid_width, width]`: the share of each row (column) of
        cells that each original pixel row (column) covers. A cell's weight under a mask is then rows @ mask
        @ columnsᵀ, exactly, whatever the scale."""
        rows = _overlap(grid_height, self.canvas_height, self.content_height, self.height)
        columns = _overlap(grid_width, self.canvas_width, self.content_width, self.width)
        return rows, columns

    def box_weights(self, boxes: Tensor, grid_height: int, grid_width: int) -> Tensor:
        """Original boxes `[N, 4]` -> `[N, grid_height, grid_width]`: the share of each cell that a box
        covers."""
        scaled = self.to_model(boxes.float())
        columns = _interval_overlap(scaled[:, 0], scaled[:, 2], grid_width, self.canvas_width)
        rows = _interval_overlap(scaled[:, 1], scaled[:, 3], grid_height, self.canvas_height)
        return rows[:, :, None] * columns[:, None, :]


def _round(value: float) -> int:
    return max(1, int(value + 0.5))


def _overlap(cells: int, canvas: int, content: int, size: int) -> Tensor:
    edges = torch.arange(size + 1, dtype=torch.float64) * (content / size)
    return _interval_overlap(edges[:-1], edges[1:], cells, canvas).T.float()


def _interval_overlap(low: Tensor, high: Tensor, cells: int, canvas: int) -> Tensor:
    """Intervals `[N]` in canvas pixels -> `[N, cells]`: the share of each cell's length that they cover."""
    edges = torch.arange(cells + 1, device=low.device, dtype=low.dtype) * (canvas / cells)
    shared = torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])
    return shared.clamp_min(0) * (cells / canvas)

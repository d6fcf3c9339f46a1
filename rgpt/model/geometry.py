"""Where a region is and how large, as a vector: read off the area shares that its features are pooled with.

Axes: I pictures, R regions a picture (padded), G x G the refined grid, D the language model's width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MEASURES = 5
FREQUENCIES = (1, 2, 4)


def region_measures(region_masks: Tensor) -> Tensor:
    """`[I, R, G, G]` area shares -> `[I, R, 5]`: centre x, y, spread x, y, and the root of the area.

    Everything is a share of the padded square's side, in 0..1. The spread is the standard deviation times the
    root of 3: of a box that is half its side. A row of zeros (padding) gives zeros.
    """
    weights = region_masks.float()
    side = weights.shape[-1]
    total = weights.sum((-2, -1)).clamp_min(torch.finfo(torch.float32).tiny)  # [I, R]
    places = (torch.arange(side, device=weights.device) + 0.5) / side
    measures = []
    for axis in (-2, -1):  # summed over rows: columns remain, which is x
        profile = weights.sum(axis) / total[..., None]  # [I, R, G]
        centre = (profile * places).sum(-1)
        variance = (profile * (places - centre[..., None]) ** 2).sum(-1)
        measures.append((centre, (3 * variance).clamp_min(0).sqrt()))
    (x, width), (y, height) = measures
    area = weights.sum((-2, -1)).sqrt() / side
    return torch.stack([x, y, width, height, area], dim=-1)


class RegionGeometry(nn.Module):
    """`[I, R, G, G]` area shares -> `[I, R, D]`, to be added to region vectors [D].

    The measures and their sines and cosines at a few frequencies, so that small differences of place are as
    easy to read as large ones; then one linear layer.
    """

    def __init__(self, text_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(MEASURES * (1 + 2 * len(FREQUENCIES)), text_size)
        self.linear.init_std = 0.02  # type: ignore[assignment]

    def forward(self, region_masks: Tensor) -> Tensor:
        measures = region_measures(region_masks)  # [I, R, 5]
        angles = [math.pi * frequency * measures for frequency in FREQUENCIES]
        waves = [measures, *(wave for angle in angles for wave in (angle.sin(), angle.cos()))]
        return self.linear(torch.cat(waves, dim=-1).to(self.linear.weight.dtype))

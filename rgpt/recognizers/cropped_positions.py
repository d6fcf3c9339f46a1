"""Positional embeddings cropped at random while pretraining, so that a region's positions are nothing new
later.

RO-ViT, arXiv 2305.07011 (CVPR 2023), section 3.1 [P]; sizes and sampling from the released function [A].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align
from torchvision.transforms import RandomResizedCrop

UPSAMPLED = 64  # cells a side from which crops are taken
AREA, ASPECT = (0.1, 1.0), (0.5, 2.0)


def random_crops(count: int, sampler: str = "resized_crop", side: int = UPSAMPLED) -> Tensor:
    """Crop boxes xyxy `[count, 4]` on a side x side grid, from torch's global generator.

    `resized_crop`: area 0.1..1, aspect 0.5..2, whole cells (the released function's description). `corners`:
    the paper's text, x1 ~ U(0, 1), x2 ~ U(x1, 1), the same for y, drawn again until the area is at least 0.1:
    smaller crops on the average, biased to the lower right.
    """
    if sampler == "corners":
        return _corner_crops(count) * side
    canvas = torch.empty(1, side, side)
    rows = []
    for _ in range(count):
        top, left, height, width = RandomResizedCrop.get_params(canvas, scale=AREA, ratio=ASPECT)  # type: ignore[arg-type]
        rows.append([left, top, left + width, top + height])
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def _corner_crops(count: int) -> Tensor:
    rows = [torch.zeros(0, 4)]
    while sum(map(len, rows)) < count:
        low = torch.rand(max(16, 6 * count), 2)
        high = low + torch.rand_like(low) * (1 - low)
        rows.append(torch.cat([low, high], 1)[(high - low).prod(1) >= AREA[0]])
    return torch.cat(rows)[:count]


def upsample(positions: Tensor, side: int = UPSAMPLED) -> Tensor:
    """`[g, g, d]` -> `[side, side, d]`, bilinear with half-pixel centres."""
    grid = positions.permute(2, 0, 1)[None]
    return F.interpolate(grid, (side, side), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)


def crop_positions(positions: Tensor, crops: Tensor, aligned: bool = True, side: int = UPSAMPLED) -> Tensor:
    """Positions of each crop, one sample a cell.

    Args:
        positions: `[g, g, d]` learned. crops: xyxy `[B, 4]` on the up-sampled side x side grid.
        aligned: False shifts by half an up-sampled cell, as the released function does (parity). Either way a
            full-size crop is *not* `positions` itself: up-sampling and sampling back smooths.

    Returns:
        `[B, g, g, d]`.
    """
    upsampled = upsample(positions, side).permute(2, 0, 1)[None]
    boxes = torch.cat([crops.new_zeros(len(crops), 1), crops], 1).to(upsampled)
    cut = roi_align(upsampled, boxes, positions.shape[0], 1.0, sampling_ratio=1, aligned=aligned)
    return cut.permute(0, 2, 3, 1)


def whole_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """All positions resized to a height x width token grid, `[height, width, d]`: detection and plain
    tests. Where they shrink, every position counts (`antialias`), as in jax.image.resize of the source."""
    if positions.shape[:2] == (height, width):
        return positions
    grid = positions.permute(2, 0, 1)[None]
    resized = F.interpolate(grid, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return resized[0].permute(1, 2, 0)

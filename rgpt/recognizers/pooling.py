"""Three ways from a feature map and regions to features a region.

`mask_average` is the same mean as the chat model's pooling (a test holds the two together); recognizers and
the chat model are siblings that do not import one another. On a box aligned to cells it equals the
mean of `roi_features` with one sample a cell; on other boxes the two legitimately differ.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

ROI_BLOCK = 256  # RoIs cut out at once: 1,000 of RegionCLIP's 14 x 14 x 1024 would be 800 MB


def mask_average(feature: Tensor, weights: Tensor) -> Tensor:
    """`[C, h, w]` features under `[N, h, w]` weights (shares of cells, see `RegionSet.weights`) -> `[N,
    C]`."""
    flat = weights.flatten(1).to(feature.dtype)
    total = flat.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (flat / total) @ feature.flatten(1).T


def roi_features(feature: Tensor, boxes: Tensor, size: int, scale: float, sampling_ratio: int = -1) -> Tensor:
    """RoIAlign v2 (aligned) of xyxy `boxes` `[N, 4]` in model pixels -> `[N, C, size, size]`.

    `scale` is cells a pixel. `aligned=True` matters: with False every RoI is shifted by half a cell, and one
    that is smaller than a cell becomes a cell.
    """
    return roi_align(feature[None], [boxes.to(feature.dtype)], size, scale, sampling_ratio, aligned=True)


def roi_average(feature: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    """The mean of each RoI: `[C, h, w]`, `[N, 4]` -> `[N, C]`, sampled as F-VLM and its successors do [A]:
    once in the middle of each of size x size bins, where a cell's centre has its number for coordinate.

    That is half a cell further right and down than `roi_features`; a box smaller than a cell stays small.
    """
    return roi_features(feature, boxes + 0.5 / scale, size, scale, sampling_ratio=1).mean((2, 3))

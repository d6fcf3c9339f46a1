"""Mask pooling: one vector a region, the mean of the refined features under its mask.

Axes: I pictures, R regions a picture (padded), C channels, G x G the refined grid.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pool_regions(refined: Tensor, region_masks: Tensor) -> Tensor:
    """Region vector = sum(w f) / sum(w), all regions of all pictures in one batched product.

    Args:
        refined: `[I, C, G, G]` features.
        region_masks: `[I, R, G, G]`, w >= 0: the share of each cell that the region covers. A row of zeros is
            padding and pools to zeros.

    Returns:
        `[I, R, C]`, in the features' dtype.

    Area weights rather than a resampled mask [D]: a region much smaller than a cell keeps a weight, hence a
    vector.
    """
    if region_masks.shape[0] != refined.shape[0] or region_masks.shape[-2:] != refined.shape[-2:]:
        raise ValueError(
            f"region_masks are {tuple(region_masks.shape)} but the refined map is {tuple(refined.shape)}: "
            "both need the same number of pictures and the same grid."
        )
    tiny = torch.finfo(torch.float32).tiny
    weights = region_masks.flatten(2).float()  # [I, R, G*G]
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(tiny)
    # Half precision rounds the weights. Dividing by the sum of the *rounded* ones keeps the result a true
    # average: a constant map pools to the constant in any dtype.
    weights = weights.to(refined.dtype)
    total = weights.sum(-1, keepdim=True, dtype=torch.float32).clamp_min(tiny)  # [I, R, 1]
    pooled = torch.bmm(weights, refined.flatten(2).transpose(1, 2))  # [I, R, C]
    return (pooled / total).to(refined.dtype)

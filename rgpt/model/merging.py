"""Patch merge: the refined map is averaged down to the grid of image tokens that the language model reads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def merge_patches(refined: Tensor, merge_grid: int) -> Tensor:
    """`[I, C, G, G]` -> `[I, T, C]` with T = merge_grid^2, row by row from the top left.

    Adaptive average pooling of the *refined* map [A]; the grid size is ours [D]. Where the grid divides,
    plain average pooling is the same thing and faster.
    """
    side = refined.shape[-1]
    if side % merge_grid == 0:
        merged = F.avg_pool2d(refined, side // merge_grid)
    else:
        merged = F.adaptive_avg_pool2d(refined, merge_grid)
    return merged.flatten(2).transpose(1, 2)

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


def fold_blocks(tokens: Tensor, side: int) -> Tensor:
    """`[I, side^2, C]` -> `[I, ceil(side / 2)^2, 4C]`: every 2 x 2 block of cells is one long vector [A].

    An odd side gets a row and a column of zeros first. The trap: blocks come out column by column, unlike the
    cells that went in, and published connectors were trained on that order.
    """
    cells = tokens.unflatten(1, (side, side))  # [I, row, column, C]
    cells = F.pad(cells, (0, 0, 0, side % 2, 0, side % 2))
    blocks = cells.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # [I, row block, 2, column block, 2, C]
    return blocks.permute(0, 3, 1, 2, 4, 5).flatten(3).flatten(1, 2)

"""From the refined map to what the language model reads: pooled regions, merged patches, the connector.

Axes: B rows of text, L tokens a row, I pictures, R regions a picture (padded), C channels, G x G the refined
grid, T image tokens a picture, D the language model's width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN


def pool_regions(refined: Tensor, region_masks: Tensor) -> Tensor:
    """One vector a region, the mean of the features under its mask: sum(w f) / sum(w).

    All regions of all pictures in one batched product.

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


def scaled_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that a fresh model starts with outputs as large as its inputs."""
    layer = nn.Linear(inputs, outputs)
    layer.init_std = inputs**-0.5  # type: ignore[assignment]
    return layer


class Connector(nn.Module):
    """Linear, activation, Linear: `[..., C]` -> `[..., D]`, for image and region vectors ([P] fig. 2).

    With `blocks`, the first layer reads four cells at once, normalised: `[..., 4C]` -> `[..., D]` [A].
    """

    def __init__(
        self, vision_size: int, text_size: int, activation: str = "gelu", *, blocks: bool = False
    ) -> None:
        super().__init__()
        inputs = 4 * vision_size if blocks else vision_size
        self.norm = nn.LayerNorm(inputs) if blocks else nn.Identity()
        self.linear_1 = scaled_linear(inputs, text_size)
        self.activation = ACT2FN[activation]
        self.linear_2 = scaled_linear(text_size, text_size)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.linear_2(self.activation(self.linear_1(self.norm(vectors))))


def placeholder_mask(
    input_ids: Tensor | None, inputs_embeds: Tensor | None, embeddings: nn.Module, token_id: int
) -> Tensor:
    """`[B, L]` bool: where the placeholder stands, by id, or by embedding when there are no ids."""
    if input_ids is not None and input_ids.numel() > 0:
        return input_ids == token_id
    assert inputs_embeds is not None
    row = embeddings(torch.tensor(token_id, device=inputs_embeds.device))
    return (inputs_embeds == row.to(inputs_embeds.dtype)).all(-1)

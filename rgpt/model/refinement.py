"""Refinement: the tower's coarse map becomes one that is four times finer, so that small regions keep cells.

Paper, "two deconvolutions, x4" [P]; layer order, norm and its epsilon follow the authors' public code [A].
Axes: B pictures, C channels, h, w the tower's grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Deconvolution(nn.ConvTranspose2d):
    """Stride 2, kernel 2, over cells `[B, h, w, C]` -> `[B, 2h, 2w, C]`; the weights are ConvTranspose2d's.

    Its blocks do not overlap: every cell writes 2 x 2 cells of its own, so the layer is one product of
    matrices and a change of order. Channels stay last, where the norm and the pooling want them, too. On a
    CPU this trains several times as fast as ConvTranspose2d itself (docs/benchmarks.md).
    """

    def __init__(self, channels: int, std: float) -> None:
        super().__init__(channels, channels, kernel_size=2, stride=2)
        self.init_std = std  # of the weights in a fresh model
        self.bias: nn.Parameter  # always there

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """`[B, h, w, C]` -> `[B, 2h, 2w, C]`; `output_size` is torch's and not used."""
        b, h, w, c = input.shape
        blocks = input @ self.weight.permute(0, 2, 3, 1).flatten(1)  # [B, h, w, row, column, C] but flat
        rows = blocks.view(b, h, w, 2, 2, c).transpose(2, 3)  # [B, h, row, w, column, C]
        return rows.reshape(b, 2 * h, 2 * w, c) + self.bias.to(rows.dtype)  # under autocast they differ


class DeconvRefinement(nn.Module):
    """`[B, C, h, w]` -> `[B, C, 4h, 4w]` with two stride-2 deconvolutions.

    Plain (the paper's): deconv, norm, GELU, deconv, GELU; no norm after the second.
    Residual [D]: nearest upsampling plus the same layers without the last GELU (a correction must be able
    to be negative) and with the last layer at zero, so that an untrained model is the tower it was built
    from.
    """

    def __init__(self, channels: int, *, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        # An output cell sums over the C channels of one cell, hence the scale.
        self.deconv_1 = Deconvolution(channels, channels**-0.5)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.deconv_2 = Deconvolution(channels, 0.0 if residual else channels**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        cells = features.permute(0, 2, 3, 1)  # [B, h, w, C]
        fine = self.deconv_2(F.gelu(self.norm(self.deconv_1(cells))))  # [B, 4h, 4w, C]
        if self.residual:
            b, h, w, c = cells.shape
            # Every cell is added to its 4 x 4 block, without writing out the upsampled map.
            fine = (fine.view(b, h, 4, w, 4, c) + cells[:, :, None, :, None]).view_as(fine)
        else:
            fine = F.gelu(fine)
        return fine.permute(0, 3, 1, 2)


class BilinearRefinement(nn.Module):
    """`[B, C, h, w]` -> `[B, C, 4h, 4w]` without parameters: the paper's ablation."""

    def forward(self, features: Tensor) -> Tensor:
        return F.interpolate(features, scale_factor=4, mode="bilinear", align_corners=False)


def build_refinement(kind: str, channels: int) -> nn.Module:
    """`deconv`, `residual`, `bilinear` (all x4) or `none` (x1)."""
    if kind == "none":
        return nn.Identity()
    if kind == "bilinear":
        return BilinearRefinement()
    return DeconvRefinement(channels, residual=kind == "residual")

"""Refinement: the tower's coarse map becomes one that is four times finer, so that small regions keep cells.

Paper, "two deconvolutions, x4" [P]; layer order, norm and its epsilon follow the authors' public code [A].
Axes: B pictures, C channels, h, w the tower's grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of a `[B, C, h, w]` map, one cell at a time."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _scaled_deconv(channels: int, std: float) -> nn.ConvTranspose2d:
    """Twice the side; `init_std` is the scale of the weights in a fresh model."""
    layer = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
    layer.init_std = std  # type: ignore[assignment]
    return layer


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
        # Blocks of a stride-2, kernel-2 deconvolution do not overlap: an output cell sums over the C
        # channels of one.
        self.deconv_1 = _scaled_deconv(channels, channels**-0.5)
        self.norm = ChannelLayerNorm(channels, eps=1e-6)
        self.deconv_2 = _scaled_deconv(channels, 0.0 if residual else channels**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        fine = self.deconv_2(F.gelu(self.norm(self.deconv_1(features))))
        if not self.residual:
            return F.gelu(fine)
        return F.interpolate(features, scale_factor=4, mode="nearest") + fine


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

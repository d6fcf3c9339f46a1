"""Frozen parts: no gradients, and eval mode that survives `.train()` of the whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Frozen(nn.Module):
    """Holds a module whose parameters never train and which stays in eval mode, dropout and batch norm
    included. Attributes of the held module are reached as `frozen.module`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        module.requires_grad_(False)
        module.eval()

    def train(self, mode: bool = True) -> Frozen:
        self.training = mode
        self.module.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


@torch.no_grad()
def unit_gain_(module: nn.Module) -> nn.Module:
    """Redraw every weight so that layers neither shrink nor swell what passes (std = 1/√fan-in).

    For frozen networks that stay random: transformers draws with std 0.02 (SAM: 1e-10), and with small widths
    next to nothing of the picture would come through. SAM's random Fourier positions get low
    frequencies: at transformers' own scale, half the width, neighbouring positions have nothing in common.
    """
    for part in module.modules():
        positions: Any = getattr(part, "positional_embedding", None)
        if isinstance(part, nn.Linear | nn.Conv2d):
            fan_in = part.weight[0].numel()
            nn.init.normal_(part.weight, std=fan_in**-0.5)
        elif isinstance(part, nn.ConvTranspose2d):
            nn.init.normal_(part.weight, std=part.in_channels**-0.5)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=1.0)
        elif positions is not None and positions.shape[0] == 2:
            nn.init.normal_(positions, std=0.25)  # [2, frequencies]: no table of learned positions
    return module

"""Frozen parts: no gradients, and eval mode that survives `.train()` of the whole."""

from __future__ import annotations

from typing import Any

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

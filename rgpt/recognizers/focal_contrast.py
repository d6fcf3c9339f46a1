"""RO-ViT's focal contrastive loss: every (picture, text) pair of the batch is a yes/no question."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_contrastive_loss(
    logits: Tensor, target: Tensor | None = None, gamma: float = 1.0, divide_by: float | None = None
) -> Tensor:
    """L = -Σ (1 - p_t)^γ log p_t with p_t = σ(±x) (α = 0.5 and a factor 2 in front: no balancing).

    Args:
        logits: x `[B, K]`, cosine / temperature, plus a bias if the caller has one. The published loss has
        none;
            without one a tiny run hardly moved in 200 steps, with -5 it learned.
        target: bool `[B, K]`, True where text and picture belong together; None is the diagonal.
        divide_by: a constant, B by default. γ = 0 is SigLIP's loss.

    For a square batch picture -> text and text -> picture are the same sum, so one is computed.
    """
    if target is None:
        target = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    signed = torch.where(target, logits, -logits)
    # (1 - p_t)^γ = σ(-signed)^γ = exp(-γ softplus(signed)): stable where 1 - p_t would round to 0.
    elements = torch.exp(-gamma * F.softplus(signed)) * F.softplus(-signed)
    return elements.sum() / (divide_by if divide_by is not None else len(logits))

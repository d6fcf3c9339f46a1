"""RO-ViT's score of a region: the trained detector and the frozen pretrained tower, weighted apart for
classes that were trained with and for those that were not. A pure function, because it is where errors
hide."""

from __future__ import annotations

import torch
from torch import Tensor

BASE_WEIGHT, NOVEL_WEIGHT = 0.35, 0.65
OBJECTNESS_POWER = 3.0


def ensemble(
    detector: Tensor,
    frozen: Tensor,
    is_base: Tensor | None,
    base_weight: float = BASE_WEIGHT,
    novel_weight: float = NOVEL_WEIGHT,
) -> Tensor:
    """s_c = p_c^(1-w) z_c^w, background from the detector alone, rows renormalised to 1.

    Args:
        detector: p `[N, 1 + C]`, softmax over background (column 0) and all classes.
        frozen: z `[N, 1 + C]`, the same softmax from the frozen tower's RoI mean.
        is_base: bool `[C]`; None: nothing is known, so the novel weight applies to all.

    Returns:
        `[N, 1 + C]`. Both weights 0 give `detector` back.
    """
    classes = detector.shape[1] - 1
    known = (
        torch.zeros(classes, dtype=torch.bool) if is_base is None else is_base.cpu().bool().reshape(classes)
    )
    weight = torch.where(known, base_weight, novel_weight).to(detector)
    mixed = detector[:, 1:] ** (1 - weight) * frozen[:, 1:] ** weight
    scores = torch.cat([detector[:, :1], mixed], 1)
    return scores / scores.sum(1, keepdim=True).clamp_min(1e-12)


def shrink_boxes(boxes: Tensor, factor: float) -> Tensor:
    """Boxes xyxy scaled about their centres. 1.0 for RO-ViT; DITO looks with the frozen tower at 0.7."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * factor
    return torch.cat([center - half, center + half], 1)

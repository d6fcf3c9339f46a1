"""RegionCLIP's pseudo-labels and its three pretraining losses, each a pure function of embeddings.

Axes: R kept regions of a batch, K concepts, D the text space, B pictures with captions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rgpt.recognizers.clip_towers import unit

TEMPERATURE = 0.01
KEEP_ABOVE = 0.1
REGIONS_PROPOSED, REGIONS_SAMPLED = 300, 100


class PseudoLabels(NamedTuple):
    """`concept` `[R]` of each kept region, `kept` `[R]` indices of the regions, `logits` `[R, K]` of the
    teacher."""

    concept: Tensor
    kept: Tensor
    logits: Tensor


def pseudo_labels(
    teacher: Tensor, bank: Tensor, temperature: float = TEMPERATURE, keep_above: float = KEEP_ABOVE
) -> PseudoLabels:
    """What the frozen teacher calls each region.

    Args:
        teacher: `[N, D_t]` the teacher's region embeddings. bank: `[K, D_t]` its unit concept rows.

    A region is kept when its best concept has more than `keep_above` of the softmax; if none passes, all are.
    """
    logits = unit(teacher) @ bank.T / temperature
    best, concept = logits.softmax(-1).max(-1)
    kept = torch.nonzero(best > keep_above).flatten()
    if not len(kept):
        kept = torch.arange(len(teacher), device=teacher.device)
    return PseudoLabels(concept[kept], kept, logits[kept])


def region_text_contrast(
    student: Tensor,
    concept: Tensor,
    bank: Tensor,
    temperature: float = TEMPERATURE,
    dedup: bool = False,
) -> Tensor:
    """Each region against the concepts of the whole batch: -log of its own concept's share of the softmax.

    Args:
        student: `[R, D]`. concept: `[R]` rows of `bank` `[K, D]` unit.
        dedup: each concept of the batch once (the paper's form). False, the published code's: a concept
        counts
            as often as it occurs, among the positives and among all.

    Computed as logsumexp over positives minus logsumexp over all, which cannot underflow.
    """
    if not len(student):
        return student.sum()
    columns = concept.unique() if dedup else concept
    scores = unit(student) @ bank[columns].T / temperature
    positive = concept[:, None] == columns[None]
    own = scores.masked_fill(~positive, float("-inf")).logsumexp(-1)
    return (scores.logsumexp(-1) - own).mean()


def distillation(
    student: Tensor, bank: Tensor, teacher_logits: Tensor, temperature: float = TEMPERATURE
) -> Tensor:
    """KL(teacher ‖ student) over the whole concept pool, mean over the regions.

    Args:
        student: `[R, D]`. bank: `[K, D]` unit. teacher_logits: `[R, K]`, already divided by the temperature.
    """
    if not len(student):
        return student.sum()
    own = (unit(student) @ bank.T / temperature).log_softmax(-1)  # softmax().log() could reach -inf
    return F.kl_div(own, teacher_logits.log_softmax(-1), reduction="batchmean", log_target=True)


def image_text_contrast(images: Tensor, captions: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Symmetric InfoNCE of whole pictures `[B, D]` and their captions `[B, D]`, gathered beforehand."""
    scores = unit(images) @ unit(captions).T / temperature
    target = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2

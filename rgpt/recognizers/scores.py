"""From embeddings to named, scored regions: rules, fusion with objectness, suppression of duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from rgpt.errors import InputError
from rgpt.recognizers.region_set import RegionSet
from rgpt.regions import RLE

RULES = ("softmax", "softmax_zero_background", "softmax_background_prompt", "sigmoid")
COMBINES = ("none", "product", "sqrt_sigmoid", "sqrt_logit", "power")


def probabilities(logits: Tensor, rule: str, background: Tensor | None = None) -> Tensor:
    """`[N, C]` logits -> `[N, C]` probabilities.

    `softmax_zero_background` adds a class whose logit is 0 (RegionCLIP's zero weight vector),
    `softmax_background_prompt` one with the logits `background` `[N]`; both are dropped from the result, so
    rows then sum to less than 1. `sigmoid` looks at each class alone.
    """
    if rule == "sigmoid":
        return logits.sigmoid()
    if rule == "softmax_zero_background":
        background = logits.new_zeros(len(logits))
    elif rule == "softmax":
        return logits.softmax(-1)
    elif rule != "softmax_background_prompt":
        raise InputError.about("rule", f"one of {', '.join(RULES)}", repr(rule))
    if background is None:
        raise InputError.about(f"rule {rule}", "logits of a background text", "none", "embed one")
    return torch.cat([logits, background[:, None]], 1).softmax(-1)[:, :-1]


def combine(probs: Tensor, regions: RegionSet, how: str, delta: float = 3.0) -> Tensor:
    """Class probabilities `[N, C]` fused with the regions' objectness.

    `product` (RegionSpot) p·o; `sqrt_sigmoid` √(p·σ(o)), our default for RegionCLIP; `sqrt_logit` √(p·logit)
    as RegionCLIP publishes it: unbounded, NaN for negative logits, which then vanish from the detections;
    `power` (RO-ViT) o^δ·p. Without scores, objectness is 1.

    Raises:
        InputError: an unknown rule, or `sqrt_logit` on regions without logits.
    """
    if how == "sqrt_logit":
        if regions.logits is None:
            raise InputError.about(
                "combine sqrt_logit",
                "regions with RPN logits",
                f"regions from {regions.source}",
                "use sqrt_sigmoid",
            )
        return (probs * regions.logits.to(probs)[:, None]).sqrt()
    if how not in COMBINES:
        raise InputError.about("combine", f"one of {', '.join(COMBINES)}", repr(how))
    if how == "none" or regions.scores is None:
        return probs
    objectness = regions.scores.to(probs)[:, None]
    if how == "product":
        return probs * objectness
    if how == "sqrt_sigmoid":
        return (probs * objectness).sqrt()
    return objectness**delta * probs


@dataclass(frozen=True)
class Detections:
    """Kept (box, class) pairs of one picture, best first: `boxes` `[K, 4]` original pixels, `scores` `[K]`,
    `labels` `[K]` rows of the vocabulary, `region` `[K]` the region each came from. `masks`: of each its
    pixels, or None where none was painted; None: they were not asked for."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    region: Tensor
    masks: tuple[RLE | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls, masks: bool = False) -> Detections:
        """Nothing found."""
        whole = torch.zeros(0, dtype=torch.long)
        return cls(torch.zeros(0, 4), torch.zeros(0), whole, whole, () if masks else None)

    def best(self, most: int, floor: float = 0.0) -> Detections:
        """On the CPU, the first `most` of those whose score is above `floor`."""
        kept = torch.nonzero(self.scores > floor).flatten()[:most]
        parts = [value[kept].cpu() for value in (self.boxes, self.scores, self.labels, self.region)]
        masks = None if self.masks is None else tuple(self.masks[i] for i in kept.tolist())
        return Detections(parts[0], parts[1], parts[2], parts[3], masks)


@dataclass(frozen=True)
class RegionScores:
    """How well every name fits every region of one picture: `logits`, `probs` `[N, C]`."""

    names: tuple[str, ...]
    logits: Tensor
    probs: Tensor
    rule: str
    regions: RegionSet

    def labels(self) -> list[str]:
        """The likeliest name of each region."""
        return [self.names[i] for i in self.probs.argmax(1).tolist()] if len(self.regions) else []

    def topk(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """(name, probability) pairs, best first, at most `k` a region."""
        values, indices = self.probs.topk(min(k, len(self.names)), dim=1)
        return [
            [(self.names[i], p) for i, p in zip(row, ps, strict=True)]
            for row, ps in zip(indices.tolist(), values.tolist(), strict=True)
        ]

    def detections(
        self,
        k: int = 300,
        how: str = "none",
        delta: float = 3.0,
        before: int | None = None,
        floor: float = 0.0,
        nms: float | None = None,
        soft_sigma: float | None = None,
    ) -> Detections:
        """(box, class) pairs with their scores, at most `k` of them.

        Args:
            how: see `combine`.
            before: cut to this many pairs by probability *before* objectness enters (RegionSpot: 900).
            floor: scores must be above it.
            nms: IoU of hard suppression within a class. soft_sigma: Gaussian soft suppression instead.
        """
        scores = combine(self.probs, self.regions, how, delta).flatten()
        order = self.probs.flatten()
        if before is not None and before < len(order):
            outside = torch.ones_like(order, dtype=torch.bool)
            outside[order.topk(before).indices] = False
            scores = scores.masked_fill(outside, float("nan"))
        kept = torch.nonzero(scores > floor).flatten()  # NaN is not above anything: those pairs vanish
        scores = scores[kept]
        region = kept // max(1, len(self.names))
        labels = kept % max(1, len(self.names))
        boxes = self.regions.as_boxes().to(scores.device)[region]
        if soft_sigma is not None:
            chosen, scores = soft_nms(boxes, scores, labels, sigma=soft_sigma)
        elif nms is not None:
            from torchvision.ops import batched_nms

            chosen = batched_nms(boxes, scores, labels, nms)
            scores = scores[chosen]
        else:
            scores, chosen = scores.sort(descending=True, stable=True)
        chosen, scores = chosen[:k], scores[:k]
        return Detections(boxes[chosen], scores, labels[chosen], region[chosen])


def soft_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, sigma: float = 0.5, prune: float = 0.001
) -> tuple[Tensor, Tensor]:
    """Gaussian soft suppression within a class: take the best, multiply the others of its class by
    exp(-IoU²/σ), drop what falls under `prune`, repeat.

    Args:
        boxes: `[N, 4]` xyxy. scores: `[N]`. labels: `[N]`.

    Returns:
        indices `[K]` and their lowered scores `[K]`, best first.
    """
    kept, lowered = [], []
    for label in labels.unique().tolist():
        index = torch.nonzero(labels == label).flatten()
        own = scores[index].clone()
        alive = own > prune
        overlap = box_iou(boxes[index], boxes[index])
        while alive.any():
            best = int(own.masked_fill(~alive, -1.0).argmax())
            kept.append(int(index[best]))
            lowered.append(float(own[best]))
            alive[best] = False
            own = torch.where(alive, own * torch.exp(-(overlap[best] ** 2) / sigma), own)
            alive &= own > prune
    result = torch.tensor(kept, dtype=torch.long, device=boxes.device)
    values = torch.tensor(lowered, dtype=scores.dtype, device=scores.device)
    order = values.argsort(descending=True, stable=True)
    return result[order], values[order]

"""RegionCLIP's transfer head: region embeddings, a frozen text bank, a background logit of zero, box
deltas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rgpt.recognizers.base import ImageState
from rgpt.recognizers.detection_parts import BoxCoder, sample_rois
from rgpt.recognizers.detector_files import load_beside, save_beside
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.regionclip import RegionClip
from rgpt.recognizers.scores import Detections, RegionScores
from rgpt.recognizers.vocabulary import TextBank, Vocabulary

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class HeadSettings(NamedTuple):
    """Published: COCO γ 0.5, background 0.2, plain mean, floor 0.001; LVIS γ 0 (no focal scaling), background
    0.8, mean weighted as torch's cross entropy does it, floor 0.02."""

    gamma: float = 0.5
    background_weight: float = 0.2
    weighted_mean: bool = False
    floor: float = 0.001
    how: str = "none"
    per_image: int = 100
    soft_sigma: float = 0.5


COCO = HeadSettings()
LVIS = HeadSettings(0.0, 0.8, True, 0.02, "sqrt_sigmoid", 300)


def focal_scaled_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    gamma: float = 0.5,
    background_weight: float = 0.2,
    weighted_mean: bool = False,
) -> Tensor:
    """Softmax cross entropy times (1 - p_y)^γ, background rows times their weight.

    Args:
        logits: `[N, C + 1]`, background last. labels: `[N]`, C for background.
        weighted_mean: divide by the sum of the weights (torch's weighted cross entropy) instead of by N. The
            published COCO and LVIS configurations differ in this.
    """
    if not len(labels):
        return logits.sum() * 0.0
    loss = F.cross_entropy(logits, labels, reduction="none")
    if gamma:
        loss = loss * (1 - torch.exp(-loss)).clamp_min(0) ** gamma  # exp(-loss) is p_y
    weight = torch.where(labels == logits.shape[1] - 1, background_weight, 1.0).to(loss)
    return (loss * weight).sum() / (weight.sum() if weighted_mean else len(labels))


class RegionClipDetector(nn.Module):
    """A `RegionClip` whose regions are proposals that class-agnostic deltas refine."""

    def __init__(self, recognizer: RegionClip, settings: HeadSettings = COCO) -> None:
        super().__init__()
        self.recognizer, self.settings = recognizer, settings
        self.box_deltas = nn.Linear(recognizer.embedding_dim, 4)
        nn.init.normal_(self.box_deltas.weight, std=0.001)
        nn.init.zeros_(self.box_deltas.bias)
        self.coder = BoxCoder(BOX_WEIGHTS)

    def losses(
        self,
        states: Sequence[ImageState],
        proposals: Sequence[RegionSet],
        gt: Sequence[tuple[Tensor, Tensor]],
        bank: TextBank,
    ) -> dict[str, Tensor]:
        """Classification and box losses of one step.

        Args:
            gt: a picture's boxes `[G, 4]` in original pixels and rows of the bank `[G]`.
        """
        logits, labels, box_losses, sampled = [], [], [], 0
        for state, own, (boxes, classes) in zip(states, proposals, gt, strict=True):
            device = self.recognizer.device
            truth = state.geometry.to_model(boxes.float()).to(device)
            rois = sample_rois(state.geometry.to_model(own.as_boxes()).to(device), truth, classes.to(device))
            embedded = self.recognizer.roi_embeddings(state.maps["feature"], rois.boxes)
            class_logits = self.recognizer.logit_scale * F.normalize(embedded, dim=-1) @ bank.weights.T
            logits.append(F.pad(class_logits, (0, 1)))  # the background class: a zero weight vector
            labels.append(torch.where(rois.labels < 0, len(bank.names), rois.labels))
            positive = rois.labels >= 0
            if positive.any():
                target = self.coder.encode_single(truth[rois.matched[positive]], rois.boxes[positive])
                box_losses.append((self.box_deltas(embedded[positive]) - target).abs().sum())
            sampled += len(rois.boxes)
        settings = self.settings
        box = torch.stack(box_losses).sum() / max(1, sampled) if box_losses else logits[0].sum() * 0.0
        return {
            "loss_class": focal_scaled_cross_entropy(
                torch.cat(logits),
                torch.cat(labels),
                settings.gamma,
                settings.background_weight,
                settings.weighted_mean,
            ),
            "loss_box": box,
        }

    @torch.no_grad()
    def detect(
        self, images: Sequence[Any], proposals: Sequence[RegionSet], vocabulary: Vocabulary
    ) -> list[Detections]:
        """Refined, named and softly suppressed boxes in original pixels; the vocabulary is free at test
        time."""
        bank = self.recognizer.encode_vocabulary(vocabulary)
        states = self.recognizer.encode_images(images)
        results = []
        for state, own in zip(states, proposals, strict=True):
            boxes = state.geometry.to_model(own.as_boxes()).to(self.recognizer.device)
            embedded = self.recognizer.roi_embeddings(state.maps["feature"], boxes)
            refined = boxes
            if len(boxes):
                refined = self.coder.decode_single(self.box_deltas(embedded), boxes)
            moved, kept = _moved(own, state.geometry.to_original(refined.cpu()))
            scores: RegionScores = self.recognizer.score(embedded[kept], bank, moved)
            s = self.settings
            results.append(scores.detections(s.per_image, s.how, floor=s.floor, soft_sigma=s.soft_sigma))
        return results


def _moved(regions: RegionSet, boxes: Tensor) -> tuple[RegionSet, Tensor]:
    """The set at new boxes, less those that a delta moved out of the picture, and which were kept."""
    cut = boxes.clone()
    cut[:, 0::2] = cut[:, 0::2].clamp(0, regions.width)
    cut[:, 1::2] = cut[:, 1::2].clamp(0, regions.height)
    kept = (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
    moved = RegionSet.of_boxes(
        boxes, regions.height, regions.width, regions.scores, regions.logits, regions.source
    )
    return moved, kept


def save_transfer(detector: RegionClipDetector, folder: Path | str) -> None:
    """Write recognizer, box deltas and settings into one folder."""
    save_beside(detector.recognizer, detector, detector.settings._asdict(), folder)


def load_transfer(folder: Path | str) -> RegionClipDetector:
    """Read what `save_transfer` wrote. Raises InputError when the folder holds something else."""
    return load_beside(
        folder, "regionclip", "regionclip-transfer", lambda r, s: RegionClipDetector(r, HeadSettings(**s))
    )

"""A proposal network whose objectness is how central an anchor lies in its object, not whether there is one.

F-VLM's centerness variant as RO-ViT's authors release it [A]. torchvision's `RegionProposalNetwork` gives
anchor bookkeeping and the filtering of proposals (and keeps the scores, which its own `forward` throws away);
targets, losses and the left-top-right-bottom coding are written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import box_iou

from rgpt.recognizers.detection_parts import Matcher, Sampler, centerness, decode_ltrb

STRIDES_AN_ANCHOR = 8  # at the published strides 4, 8, 16, 32: anchors of 32, 64, 128, 256
SAMPLED = 256
MOST_POSITIVE = 255
SCORE_IOU = (0.3, 0.1)  # from / below: positive / negative for the score
BOX_IOU = 0.7  # from: positive for the box
BOX_WEIGHT = 8.0


class CenternessHead(nn.Module):
    """Two 3x3 convolutions shared by all levels, a LayerNorm of each level's own, then score and
    distances."""

    def __init__(self, channels: int, levels: int = 4) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(LayerNorm2d(channels, eps=1e-6) for _ in range(2)) for _ in range(levels)
        )
        self.score = nn.Conv2d(channels, 1, 1)
        self.distances = nn.Conv2d(channels, 4, 1)
        for layer in (self.score, self.distances):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(cast(Tensor, layer.bias))
        nn.init.constant_(cast(Tensor, self.distances.bias), 0.5)  # start at the anchor itself

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Levels `[B, channels, h, w]` -> score logits `[B, 1, h, w]` and distances `[B, 4, h, w]` each."""
        scores, distances = [], []
        for level, norms in zip(levels, self.norms, strict=True):
            hidden = level
            for convolution, norm in zip(self.convolutions, cast(nn.ModuleList, norms), strict=True):
                hidden = torch.relu(norm(convolution(hidden)))
            scores.append(self.score(hidden))
            distances.append(self.distances(hidden))
        return scores, distances


class CenternessRpn(RegionProposalNetwork):
    """One square anchor a cell, 8 `strides` (pixels a cell of each level) wide; score target centerness (L1),
    box loss 8 (1 - IoU)."""

    def __init__(
        self,
        channels: int,
        post_nms: int = 1000,
        pre_nms: int = 2000,
        strides: Sequence[float] = (4, 8, 16, 32),
    ) -> None:
        sizes = tuple((int(STRIDES_AN_ANCHOR * stride),) for stride in strides)
        super().__init__(
            AnchorGenerator(sizes, ((1.0,),) * len(sizes)),
            CenternessHead(channels),
            fg_iou_thresh=SCORE_IOU[0],
            bg_iou_thresh=SCORE_IOU[1],
            batch_size_per_image=SAMPLED,
            positive_fraction=MOST_POSITIVE / SAMPLED,
            pre_nms_top_n={"training": pre_nms, "testing": pre_nms},
            post_nms_top_n={"training": post_nms, "testing": post_nms},
            nms_thresh=0.7,
        )
        self.nms_training, self.nms_testing = 0.7, 1.0  # 1.0: nothing is suppressed, the heads will do it

    def forward(  # type: ignore[override]
        self,
        features: dict[str, Tensor],
        image_size: tuple[int, int],
        truth: Sequence[Tensor] | None = None,
    ) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """Proposals of every picture.

        Args:
            features: levels by name, `[B, channels, h, w]`. image_size: (height, width) of the canvas.
            truth: a picture's ground-truth boxes `[G, 4]`; asks for the losses.

        Returns:
            boxes `[P, 4]` and score logits `[P]` a picture, best first; losses (empty without `truth`).
        """
        levels = list(features.values())
        batch = len(levels[0])
        scores, distances = self.head(levels)
        canvas = ImageList(levels[0].new_zeros(batch, 3, *image_size), [image_size] * batch)
        anchors = self.anchor_generator(canvas, levels)
        counts = [score[0].numel() for score in scores]
        flat_scores, flat_distances = concat_box_prediction_layers(scores, distances)
        logits = flat_scores.reshape(batch, -1)
        offsets = flat_distances.reshape(batch, -1, 4)
        decoded = decode_ltrb(torch.stack(anchors), offsets)
        self.nms_thresh = self.nms_training if self.training else self.nms_testing
        boxes, kept_scores = self.filter_proposals(
            decoded.detach(), logits.detach().flatten(), [image_size] * batch, counts
        )
        losses = {}
        if truth is not None:
            losses = self.losses(anchors, logits, decoded, truth)
        return boxes, [torch.logit(score, eps=1e-6) for score in kept_scores], losses

    def losses(
        self, anchors: Sequence[Tensor], logits: Tensor, decoded: Tensor, truth: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """L1 between σ(o) and centerness over sampled anchors, and 8 (1 - IoU) over all anchors of a box;
        both divided by 256 a picture."""
        score_loss, box_loss = logits.sum() * 0.0, decoded.sum() * 0.0
        for own, scores, boxes, gt in zip(anchors, logits, decoded, truth, strict=True):
            labels, wanted = score_targets(own, gt)
            positive, negative = Sampler(SAMPLED, MOST_POSITIVE / SAMPLED)([labels])
            chosen = positive[0].bool() | negative[0].bool()
            score_loss = score_loss + (scores.sigmoid() - wanted)[chosen].abs().sum()
            if len(gt):
                matches = Matcher(BOX_IOU, BOX_IOU, allow_low_quality_matches=True)(box_iou(gt, own))
                mine = matches >= 0
                box_loss = box_loss + BOX_WEIGHT * (1 - paired_iou(boxes[mine], gt[matches[mine]])).sum()
        total = SAMPLED * len(anchors)
        return {"loss_rpn_score": score_loss / total, "loss_rpn_box": box_loss / total}


def score_targets(anchors: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
    """Labels `[A]` (1 positive, 0 negative, -1 ignored) and centerness targets `[A]` of one picture's
    anchors."""
    if not len(gt):
        none = anchors.new_zeros(len(anchors))
        return none.long(), none
    matches = Matcher(*SCORE_IOU, allow_low_quality_matches=True)(box_iou(gt, anchors))
    labels = torch.where(matches >= 0, 1, torch.where(matches == Matcher.BELOW_LOW_THRESHOLD, 0, -1))
    wanted = centerness(anchors, gt[matches.clamp_min(0)])
    return labels, torch.where(labels == 1, wanted, torch.zeros_like(wanted))


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of row i of `a` with row i of `b`, both `[N, 4]`; inverted boxes count as empty."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp_min(0).prod(1)
    area_a = (a[:, 2:] - a[:, :2]).clamp_min(0).prod(1)
    area_b = (b[:, 2:] - b[:, :2]).clamp_min(0).prod(1)
    return shared / (area_a + area_b - shared).clamp_min(1e-9)

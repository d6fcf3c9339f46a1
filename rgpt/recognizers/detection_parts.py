"""The pieces of torchvision's detectors that both detectors here use, in one place because some are private.

Boxes are xyxy pixels of the model's canvas.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection import _utils as detection_utils
from torchvision.ops import box_iou

Matcher = detection_utils.Matcher
BoxCoder = detection_utils.BoxCoder
Sampler = detection_utils.BalancedPositiveNegativeSampler
IGNORED = -1


class SampledRois(NamedTuple):
    """RoIs of one picture chosen for a training step: `boxes` `[S, 4]`, `labels` `[S]` (-1 is background),
    `matched` `[S]` the index of each RoI's own ground-truth box (0 for background, meaningless there)."""

    boxes: Tensor
    labels: Tensor
    matched: Tensor


def sample_rois(
    proposals: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    count: int = 512,
    positive_fraction: float = 0.25,
    iou: float = 0.5,
) -> SampledRois:
    """Choose RoIs: the ground truth joins the proposals, IoU from `iou` up is positive, a quarter at most
    is."""
    boxes = torch.cat([proposals, gt_boxes])
    if not len(gt_boxes):
        labels = torch.full((len(boxes),), -1, dtype=torch.long, device=boxes.device)
        matched = torch.zeros_like(labels)
    else:
        matches = Matcher(iou, iou, allow_low_quality_matches=False)(box_iou(gt_boxes, boxes))
        matched = matches.clamp_min(0)
        labels = torch.where(matches >= 0, gt_labels[matched], torch.full_like(matched, -1))
    positive, negative = Sampler(count, positive_fraction)([(labels >= 0).long()])
    chosen = torch.nonzero(positive[0].bool() | negative[0].bool()).flatten()
    return SampledRois(boxes[chosen], labels[chosen], matched[chosen])


def encode_ltrb(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Distances from each anchor's centre to the sides of its box, in anchor sizes: `[N, 4]` left, top,
    right, bottom."""
    return detection_utils.BoxLinearCoder(normalize_by_size=True).encode(anchors, boxes)


def decode_ltrb(anchors: Tensor, distances: Tensor) -> Tensor:
    """The boxes of `encode_ltrb`'s distances."""
    return detection_utils.BoxLinearCoder(normalize_by_size=True).decode(distances, anchors)


def centerness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """√(min(l,r)/max(l,r) · min(t,b)/max(t,b)) of each anchor's centre in its box `[N]`: 1 in the middle, 0
    on and outside the border. Written out because torchvision's FCOS divides without care and leaves outside
    points non-zero."""
    left, top, right, bottom = encode_ltrb(anchors, boxes).unbind(-1)
    inside = (left > 0) & (top > 0) & (right > 0) & (bottom > 0)
    across = torch.minimum(left, right) / torch.maximum(left, right).clamp_min(1e-9)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp_min(1e-9)
    return torch.where(inside, (across * down).clamp_min(0).sqrt(), torch.zeros_like(across))

"""PASCAL VOC's average precision: one class, one IoU, boxes of whole pixels whose last one counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.metrics.referring import Corners, box_iou

Scored = tuple[float, Corners]


def voc_ap(
    truths: Mapping[str, Sequence[Corners]],
    detections: Mapping[str, Sequence[Scored]],
    iou: float = 0.5,
    points: int | None = None,
) -> float | None:
    """AP by picture name; None without ground truth.

    Args:
        truths: boxes `(x1, y1, x2, y2)` in pixels.
        detections: (score, box) pairs. The best box of a truth counts once; later ones on it are wrong.
        points: 11 for the old rule (mean of 11 recall levels); None for the area under every point.
    """
    total = sum(map(len, truths.values()))
    if not total:
        return None
    ordered = sorted(
        ((score, picture, box) for picture, listed in detections.items() for score, box in listed),
        key=lambda row: -row[0],
    )
    taken: set[tuple[str, int]] = set()
    right, curve = 0, []  # curve: (recall, precision) after each detection
    for rank, (_, picture, box) in enumerate(ordered, start=1):
        overlaps = [box_iou(box, truth, pixel=1.0) for truth in truths.get(picture, ())]
        best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= iou and (picture, best) not in taken:
            taken.add((picture, best))
            right += 1
        curve.append((right / total, right / rank))
    if points is not None:
        levels = [n / (points - 1) for n in range(points)]
        return sum(max((p for r, p in curve if r >= level), default=0.0) for level in levels) / points
    area, reached = 0.0, 0.0
    for position, (recall, _) in enumerate(curve):
        if recall > reached:
            area += (recall - reached) * max(precision for _, precision in curve[position:])
            reached = recall
    return area

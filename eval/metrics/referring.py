"""Referring expression comprehension: the share of expressions whose box was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Referred:
    """What was answered: a box, `nothing` ("No corresponding options found."), or neither (unreadable)."""

    box: Corners | None = None
    nothing: bool = False
    failed: str | None = None


def box_iou(a: Corners, b: Corners, pixel: float = 0.0) -> float:
    """IoU of two boxes `(x1, y1, x2, y2)` in pixels; 0 when both are empty.

    `pixel` is added to every side: 0 for continuous boxes, 1 for boxes of whole pixels whose last one counts
    (the notebook of the refer toolbox, VOC).
    """
    across = min(a[2], b[2]) - max(a[0], b[0]) + pixel
    down = min(a[3], b[3]) - max(a[1], b[1]) + pixel
    shared = max(0.0, across) * max(0.0, down)
    areas = ((r[2] - r[0] + pixel) * (r[3] - r[1] + pixel) for r in (a, b))
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


def referring_scores(
    truths: Sequence[Corners | None], answers: Sequence[Referred], iou: float = 0.5, pixel: float = 0.0
) -> dict[str, Any]:
    """
    Args:
        truths: the box of each expression; None where nothing in the picture fits it.
        answers: what was said, in the same order.

    Returns:
        `accuracy` over all items: a box at `iou` or more, or `nothing` where nothing fits. `precision_at_1`
        and `mean_iou` over the items that have a box, `no_match` over the others (None where there are none).
        `unparsed`: answers that are neither.
    """
    if len(truths) != len(answers):
        raise ValueError(f"{len(truths)} boxes and {len(answers)} answers")
    pairs = list(zip(truths, answers, strict=True))
    overlaps = [box_iou(t, a.box, pixel) if a.box else 0.0 for t, a in pairs if t is not None]
    found = [overlap >= iou for overlap in overlaps]
    refused = [a.nothing for t, a in pairs if t is None]
    return {
        "accuracy": _mean([*found, *refused]),
        "precision_at_1": _mean(found),
        "mean_iou": _mean(overlaps),
        "no_match": _mean(refused),
        "n_no_match": len(refused),
        "unparsed": sum(a.box is None and not a.nothing and not a.failed for _, a in pairs),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

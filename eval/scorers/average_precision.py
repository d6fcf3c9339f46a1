"""Detections against a ground truth: which evaluator, boxes or masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.layouts.coco import CocoTruth, Detection
from eval.layouts.files import show
from eval.metrics.detection import AveragePrecision, coco_ap, lvis_ap
from rgpt.errors import InputError


def average_precision(
    detections: Sequence[Detection], truth: CocoTruth, iou_type: str = "bbox"
) -> tuple[dict[str, Any], AveragePrecision]:
    """Figures for a table (with `iou_type` and `evaluator`: LVIS's where the truth is LVIS), and all values.

    Raises:
        InputError: an unknown `iou_type`, or masks are to be compared and a detection has none.
    """
    if iou_type not in ("bbox", "segm"):
        raise InputError.about("iou_type", "bbox or segm", show(iou_type))
    if iou_type == "segm":
        truth = truth.with_masks()
    rows = []
    for d in detections:
        row: dict[str, Any] = {"image_id": d.image_id, "category_id": d.category_id, "score": d.score}
        if iou_type == "segm" or d.bbox is None:
            row["segmentation"] = d.segmentation
        else:
            row["bbox"] = d.bbox
        rows.append(row)
    evaluate = lvis_ap if truth.is_lvis else coco_ap
    result = evaluate(truth.as_dataset(), rows, iou_type)
    return {**result.stats, "iou_type": iou_type, "evaluator": "lvis" if truth.is_lvis else "coco"}, result

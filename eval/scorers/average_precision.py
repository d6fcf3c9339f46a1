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
    rows = []
    for d in detections:
        row: dict[str, Any] = {"image_id": d.image_id, "category_id": d.category_id, "score": d.score}
        if iou_type == "segm":
            if d.segmentation is None:
                raise InputError.about("iou_type segm", "masks in every row", "a row without", "use bbox")
            row["segmentation"] = d.segmentation
        else:
            row["bbox"] = d.bbox if d.bbox is not None else _box_of(d.segmentation)
        rows.append(row)
    evaluate = lvis_ap if truth.is_lvis else coco_ap
    result = evaluate(truth.as_dataset(), rows, iou_type)
    return {**result.stats, "iou_type": iou_type, "evaluator": "lvis" if truth.is_lvis else "coco"}, result


def _box_of(rle: Any) -> list[float]:
    from pycocotools import mask as coco_mask

    return [float(v) for v in coco_mask.toBbox(rle)]

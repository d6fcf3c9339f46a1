"""Average precision: COCO's by pycocotools, LVIS's federated AP by faster-coco-eval.

The order of detections matters where scores tie (both evaluators sort stably): the caller decides it.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COCO_STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
LVIS_STATS = {
    "AP": "AP_all", "AP50": "AP_50", "AP75": "AP_75", "APs": "AP_small",
    "APm": "AP_medium", "APl": "AP_large",
    "APr": "APr", "APc": "APc", "APf": "APf",
    "AR@300": "AR_all", "ARs@300": "AR_small", "ARm@300": "AR_medium", "ARl@300": "AR_large",
}  # fmt: skip
LVIS_DETECTIONS = 300


@dataclass(frozen=True)
class AveragePrecision:
    """`stats` by name, AP and AP50 by category id; -1 (the evaluators' mark) has become None: nothing to
    find."""

    stats: dict[str, float | None]
    by_category: dict[int, float | None]
    by_category_50: dict[int, float | None]

    def group(self, categories: Collection[int]) -> tuple[float | None, float | None]:
        """Mean AP and AP50 of those of the categories that have something to find; None where none has."""
        means = []
        for table in (self.by_category, self.by_category_50):
            values = [v for i, v in table.items() if i in categories and v is not None]
            means.append(sum(values) / len(values) if values else None)
        return means[0], means[1]


def coco_ap(
    truth: dict[str, Any],
    detections: Sequence[dict[str, Any]],
    iou_type: str = "bbox",
    image_ids: Iterable[int] | None = None,
) -> AveragePrecision:
    """COCOeval's twelve numbers (AP@[.5:.95] and so on), by pycocotools.

    Args:
        truth: a COCO dictionary; it is changed (hand over a copy).
        detections: `{image_id, category_id, score, bbox [x, y, w, h] px}` or with `segmentation` for "segm".
        image_ids: evaluate these images only.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # both print progress, and summarize the table
        evaluation = COCOeval(*_indexed(COCO, truth, detections), iou_type)
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = dict(zip(COCO_STATS, map(_number, evaluation.stats), strict=True))
    return AveragePrecision(stats, *_by_category(evaluation))


def lvis_ap(
    truth: dict[str, Any], detections: Sequence[dict[str, Any]], iou_type: str = "bbox"
) -> AveragePrecision:
    """LVIS's federated AP with APr, APc, APf; specs: recognizers §0.8.

    Detections of classes that are neither present in a picture nor listed as absent there are ignored, and so
    are unmatched ones of classes not annotated exhaustively. Detections are first cut to the best 300 of each
    picture over all categories: faster-coco-eval's own limit is for each picture *and category*, which reads
    too high.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    detections = top_per_image(detections, LVIS_DETECTIONS)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval_faster(
            *_indexed(COCO, truth, detections), iou_type, lvis_style=True, print_function=lambda *_: None
        )
        evaluation.params.maxDets = [LVIS_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = evaluation.stats_as_dict
    stats = {ours: _number(found[theirs]) for ours, theirs in LVIS_STATS.items()}
    return AveragePrecision(stats, *_by_category(evaluation))


def top_per_image(detections: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The `limit` best detections of each picture, over all categories; order kept, ties to the first."""
    by_image: dict[int, list[int]] = defaultdict(list)
    for index, detection in enumerate(detections):
        by_image[detection["image_id"]].append(index)
    keep = {
        index
        for indices in by_image.values()
        for index in sorted(indices, key=lambda i: -detections[i]["score"])[:limit]
    }
    return [d for index, d in enumerate(detections) if index in keep]


def _indexed(coco_class: Any, truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
    """Ground truth and detections as the evaluator's own objects. `loadRes` fails on an empty list.

    Annotations are numbered anew, from 1: to both evaluators a match with annotation 0 is no match.
    """
    numbered = [{**each, "id": number} for number, each in enumerate(truth["annotations"], start=1)]
    truth = {**truth, "annotations": numbered}
    expected = coco_class()
    expected.dataset = truth
    expected.createIndex()
    if detections:
        return expected, expected.loadRes([dict(d) for d in detections])
    found = coco_class()
    found.dataset = {k: truth[k] for k in ("images", "categories")} | {"annotations": []}
    found.createIndex()
    return expected, found


def _number(value: float) -> float | None:
    return None if value == -1 else float(value)


def _by_category(evaluation: Any) -> tuple[dict[int, float | None], dict[int, float | None]]:
    """AP and AP50 of each category: mean over IoU (or at the first, 0.5) and recall of precision
    [T, R, K, A, M] at all sizes."""
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    tables = []
    for part in (precision, precision[:1]):
        values: dict[int, float | None] = {}
        for position, category in enumerate(evaluation.params.catIds):
            valid = part[:, :, position]
            valid = valid[valid > -1]
            values[int(category)] = float(valid.mean()) if valid.size else None
        tables.append(values)
    return tables[0], tables[1]

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
    by_category: dict[Any, float | None]
    by_category_50: dict[Any, float | None]

    def group(self, categories: Collection[Any]) -> tuple[float | None, float | None]:
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
        detections: `{image_id, category_id, score, bbox [x, y, w, h] px}`, or `segmentation` (an RLE) instead
            of the box: "segm" compares it, "bbox" takes box and size from it.
        image_ids: evaluate these images only.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    numbers = Numbers(truth)
    with contextlib.redirect_stdout(io.StringIO()):  # both print progress, and summarize the table
        evaluation = COCOeval(*_indexed(COCO, truth, detections, numbers, iou_type), iou_type)
        if image_ids is not None:
            evaluation.params.imgIds = sorted(numbers.image[i] for i in image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = dict(zip(COCO_STATS, map(_number, evaluation.stats), strict=True))
    return AveragePrecision(stats, *_by_category(evaluation, numbers))


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

    numbers = Numbers(truth)
    detections = _judged(top_per_image(detections, LVIS_DETECTIONS), truth)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval_faster(
            *_indexed(COCO, truth, detections, numbers, iou_type),
            iou_type,
            lvis_style=True,
            print_function=lambda *_: None,
        )
        evaluation.params.maxDets = [LVIS_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = evaluation.stats_as_dict
    stats = {ours: _number(found[theirs]) for ours, theirs in LVIS_STATS.items()}
    return AveragePrecision(stats, *_by_category(evaluation, numbers))


def top_per_image(detections: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The `limit` best detections of each picture, over all categories; order kept, ties to the first."""
    by_image: dict[Any, list[int]] = defaultdict(list)
    for index, detection in enumerate(detections):
        by_image[detection["image_id"]].append(index)
    keep = {
        index
        for indices in by_image.values()
        for index in sorted(indices, key=lambda i: -detections[i]["score"])[:limit]
    }
    return [d for index, d in enumerate(detections) if index in keep]


def _judged(detections: Sequence[dict[str, Any]], truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Detections of classes that are present in their picture or listed as absent there.

    faster-coco-eval passes over the others itself, but stumbles over masks of a picture where all are such.
    """
    listed = {image["id"]: set(image.get("neg_category_ids") or ()) for image in truth["images"]}
    for annotation in truth["annotations"]:
        listed[annotation["image_id"]].add(annotation["category_id"])
    return [d for d in detections if d["category_id"] in listed[d["image_id"]]]


class Numbers:
    """What the evaluators call images and categories, by our ids: numbers from 1, in the same order.

    Both want numbers, and to both a match with annotation 0 is no match.
    """

    def __init__(self, truth: dict[str, Any]) -> None:
        self.image, self.category = (_numbered(truth[name]) for name in ("images", "categories"))


def _numbered(listed: Sequence[dict[str, Any]]) -> dict[Any, int]:
    return {id_: n for n, id_ in enumerate(sorted((each["id"] for each in listed), key=id_order), start=1)}


def id_order(value: Any) -> tuple[bool, Any]:
    """A key that sorts ids of a file that has numbers and words among them."""
    return isinstance(value, str), value


def _indexed(
    coco_class: Any,
    truth: dict[str, Any],
    detections: Sequence[dict[str, Any]],
    numbers: Numbers,
    iou_type: str,
) -> tuple[Any, Any]:
    """Ground truth and detections as the evaluator's own objects, with what is compared and no more.

    Detections as `loadRes` makes them: one known by its mask keeps the mask's area, also where boxes are
    compared. `loadRes` itself decides this for a whole file by its first row, and fails on an empty list.
    """
    from pycocotools import mask as coco_mask

    images = []
    for image in truth["images"]:
        lists = {
            key: [numbers.category[c] for c in image[key] if c in numbers.category]
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
            if image.get(key) is not None
        }
        images.append({**image, **lists, "id": numbers.image[image["id"]]})
    categories = [{**each, "id": numbers.category[each["id"]]} for each in truth["categories"]]

    def numbered(each: dict[str, Any], n: int) -> dict[str, Any]:
        ids = {
            "id": n,
            "image_id": numbers.image[each["image_id"]],
            "category_id": numbers.category[each["category_id"]],
        }
        drop = () if iou_type == "segm" else ("segmentation",)
        return {key: value for key, value in each.items() if key not in drop} | ids

    found = []
    for n, detection in enumerate(detections, start=1):
        mask = detection.get("segmentation")
        if "bbox" in detection:
            box = detection["bbox"]
            area = box[2] * box[3]
        else:
            box, area = coco_mask.toBbox(mask).tolist(), float(coco_mask.area(mask))
        found.append({**numbered(detection, n), "bbox": box, "area": area, "iscrowd": 0})
    expected = [numbered(annotation, n) for n, annotation in enumerate(truth["annotations"], start=1)]
    made = []
    for listed in (expected, found):
        index = coco_class()
        index.dataset = {"info": {}, "images": images, "annotations": listed, "categories": categories}
        index.createIndex()
        made.append(index)
    return made[0], made[1]


def _number(value: float) -> float | None:
    return None if value == -1 else float(value)


def _by_category(
    evaluation: Any, numbers: Numbers
) -> tuple[dict[Any, float | None], dict[Any, float | None]]:
    """AP and AP50 of each category: mean over IoU (or at the first, 0.5) and recall of precision
    [T, R, K, A, M] at all sizes."""
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    own = {n: id_ for id_, n in numbers.category.items()}
    tables = []
    for part in (precision, precision[:1]):
        values: dict[Any, float | None] = {}
        for position, category in enumerate(evaluation.params.catIds):
            valid = part[:, :, position]
            valid = valid[valid > -1]
            values[own[int(category)]] = float(valid.mean()) if valid.size else None
        tables.append(values)
    return tables[0], tables[1]

"""The answer rows of RegionGPT's and SpatialRGPT's region classification script [A].

    {"question_id": "…/COCO_val2014_000000000042.jpg", "text": "dog", "gt_name": "dog", "score": 1.0,
     "bbox": [[x1, y1, x2, y2]], "image_id": 42, "model_id": …, "metadata": {}}

They name no annotation: each row is matched to the annotation of its picture with this box and name.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from eval.layouts.coco import CocoTruth, clean_name
from eval.layouts.fields import Ids, check_number, field_of, has_rows, id_text, words_of
from eval.layouts.files import PathOrValue, row_name, show
from rgpt.errors import InputError

TOLERANCE = 0.5  # pixels; people round boxes


@dataclass(frozen=True)
class AnswerRow:
    """One generated answer about the box of annotation `ann_id`."""

    ann_id: Any
    text: str
    gt_name: str
    score: float


def are_answer_rows(value: Any) -> bool:
    return has_rows(value, "text", "gt_name", "image_id")


def read_answer_rows(value: list[Any], truth: CocoTruth, source: PathOrValue) -> list[AnswerRow]:
    """Checked rows in file order; of rows that are the same, the first.

    Raises:
        InputError: unknown pictures or boxes, two different answers about a box, NaN scores.
    """
    images = {id_text(i, truth.source): i for i in truth.images}
    given = [field_of(row, "image_id", row_name(source, index)) for index, row in enumerate(value)]
    image_ids = [images[text] for text in Ids(images, "image id").find(given, source, "image_id")]
    free: dict[Any, list[Any]] = defaultdict(list)
    for id_, annotation in truth.annotations.items():
        if not annotation["iscrowd"]:
            free[annotation["image_id"]].append(id_)
    taken: dict[Any, int] = {}
    rows = []
    for index, (row, image_id) in enumerate(zip(value, image_ids, strict=True)):
        thing = row_name(source, index)
        text, gt_name = words_of(row, "text", thing, empty=True), words_of(row, "gt_name", thing)
        box = field_of(row, "bbox", thing)
        box = box[0] if isinstance(box, list) and len(box) == 1 else box
        if not isinstance(box, list | tuple) or len(box) != 4:
            raise InputError.about(f"{thing}, bbox", "[[x1, y1, x2, y2]]", show(row["bbox"]))
        x1, y1, x2, y2 = (check_number(v, f"{thing}, bbox") for v in box)
        close = {i: _distance(truth.annotations[i]["bbox"], x1, y1, x2, y2) for i in free[image_id]}
        named = [
            (i in taken, distance, i)
            for i, distance in close.items()
            if distance <= TOLERANCE
            and truth.name(truth.annotations[i]["category_id"]) == clean_name(gt_name)
        ]
        if not named:
            raise InputError.about(
                f"{thing}, bbox and gt_name",
                f"the box and name of an annotation of image {image_id}",
                f"{gt_name!r} at {show(list(box))}",
                "the ground truth may be of another split or data set",
            )
        ann_id = min(named, key=lambda found: found[:2])[2]
        if ann_id in taken:
            if row == value[taken[ann_id]]:
                continue
            raise InputError.about(
                thing,
                "one row for each annotation",
                f"another one of annotation {ann_id}, first in row {taken[ann_id] + 1}",
                "remove one of the two",
            )
        taken[ann_id] = index
        score = check_number(row.get("score", 1.0), f"{thing}, score")
        rows.append(AnswerRow(ann_id, text, gt_name, score))
    return rows


def _distance(box: list[float], x1: float, y1: float, x2: float, y2: float) -> float:
    """Largest difference of a side, in pixels."""
    x, y, w, h = box
    return max(abs(x - x1), abs(y - y1), abs(x + w - x2), abs(y + h - y2))

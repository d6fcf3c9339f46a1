"""The answer rows of RegionGPT's and SpatialRGPT's region classification script [A].

    {"question_id": "…/COCO_val2014_000000000042.jpg", "text": "dog", "gt_name": "dog", "score": 1.0,
     "bbox": [[x1, y1, x2, y2]], "image_id": 42, "model_id": …, "metadata": {}}

They name no annotation: each row is matched to the annotation of its picture with this box and name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval.layouts.coco import CocoTruth, clean_name
from eval.layouts.files import PathOrValue, row_name, show
from eval.layouts.rows import check_known, check_score
from rgpt.errors import InputError

TOLERANCE = 0.5  # pixels; people round boxes


@dataclass(frozen=True)
class AnswerRow:
    """One generated answer about the box of annotation `ann_id`."""

    ann_id: int
    text: str
    gt_name: str
    score: float


def are_answer_rows(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, Mapping) and {"text", "gt_name", "bbox", "image_id"} <= set(row) for row in value
    )


def read_answer_rows(value: list[Any], truth: CocoTruth, source: PathOrValue) -> list[AnswerRow]:
    """Checked rows in file order. Raises InputError: unknown pictures or boxes, a box twice, NaN scores."""
    check_known((str(r["image_id"]) for r in value), {str(i) for i in truth.images}, source, "image id")
    free: dict[Any, list[int]] = defaultdict(list)
    for id_, annotation in truth.annotations.items():
        if not annotation["iscrowd"]:
            free[annotation["image_id"]].append(id_)
    taken: dict[int, int] = {}
    rows = []
    for index, row in enumerate(value):
        thing = row_name(source, index)
        for key in ("text", "gt_name"):
            if not isinstance(row[key], str):
                raise InputError.about(f"{thing}, {key}", "words", show(row[key]))
        box = row["bbox"][0] if isinstance(row["bbox"], list) and len(row["bbox"]) == 1 else row["bbox"]
        if not isinstance(box, list | tuple) or len(box) != 4:
            raise InputError.about(f"{thing}, bbox", "[[x1, y1, x2, y2]]", show(row["bbox"]))
        x1, y1, x2, y2 = (check_score(v, f"{thing}, bbox") for v in box)
        close = {i: _distance(truth.annotations[i]["bbox"], x1, y1, x2, y2) for i in free[row["image_id"]]}
        named = [
            (distance, i in taken, i)
            for i, distance in close.items()
            if distance <= TOLERANCE
            and truth.name(truth.annotations[i]["category_id"]) == clean_name(row["gt_name"])
        ]
        if not named:
            raise InputError.about(
                thing,
                f"the box and name of an annotation of image {row['image_id']}",
                f"{row['gt_name']!r} at {show(list(box))}",
                "the ground truth may be of another split or data set",
            )
        named.sort(key=lambda found: (found[1], found[0], found[2]))
        ann_id = named[0][2]
        if ann_id in taken:
            raise InputError.about(
                thing,
                "one row for each annotation",
                f"annotation {ann_id} a second time, first in row {taken[ann_id] + 1}",
                "remove one of the two",
            )
        taken[ann_id] = index
        score = check_score(row.get("score", 1.0), f"{thing}, score")
        rows.append(AnswerRow(ann_id, row["text"], row["gt_name"], score))
    return rows


def _distance(box: list[float], x1: float, y1: float, x2: float, y2: float) -> float:
    """Largest difference of a side, in pixels."""
    x, y, w, h = box
    return max(abs(x - x1), abs(y - y1), abs(x + w - x2), abs(y + h - y2))

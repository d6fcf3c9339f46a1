"""Finding and naming things: average precision over a whole vocabulary, and of base and novel names apart.

`generalised` [P]: all names compete in one run, then the AP of some is averaged (RegionCLIP and RO-ViT report
AP50 of COCO's 48 base and 17 novel names so). A run with the novel names alone is easier and another number.
COCO's AP by pycocotools; LVIS's federated AP where the ground truth is LVIS.

A picture without a row is refused, one with an empty list of detections is not; a failed one found nothing.
COCO results say nothing of pictures without detections: all of the ground truth's count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from eval.layouts.coco import CocoTruth, Detection, are_results, read_results
from eval.layouts.files import PathOrValue, name_of, row_name, show
from eval.layouts.rows import are_rows, check_complete, check_known, read_predictions, read_rows
from eval.scorers.average_precision import average_precision
from eval.scorers.options import DEFAULTS, Options
from eval.scorers.region_classification import read_restricted
from rgpt.errors import InputError

PROTOCOLS = ("generalised",)


def score(
    gt: PathOrValue, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """AP and its relatives, with `base` also AP and AP50 of base and novel names; None: nothing to find.

    Raises:
        InputError: files of the wrong layout, of another split, incomplete, NaN scores, unknown base names,
            masks that are wanted and missing.
    """
    truth = read_restricted(gt, options)
    value = read_predictions(predictions)
    if options.ids is not None and isinstance(value, list):
        value = [row for row in value if isinstance(row, Mapping) and str(row.get("image_id")) in options.ids]
    failed, n = 0, len(truth.images)
    if are_results(value):
        found = read_results(value, truth, predictions)
    elif are_rows(value):
        answered, failed, truth, found = _from_rows(value, truth, predictions, options)
        n = answered
    else:
        raise InputError.about(
            name_of(predictions),
            "rows of eval.run detection or COCO results",
            show(value),
            "eval/README.md shows the layouts",
        )
    stats, result = average_precision(found, truth, options.iou_type)
    count = Counter(a["category_id"] for a in truth.annotations.values() if not a["iscrowd"])
    per_class: dict[str, dict[str, Any]] = {
        truth.name(i): {"n": count[i], "AP": value, "AP50": result.by_category_50[i]}
        for i, value in result.by_category.items()
        if value is not None
    }
    if options.base is not None:
        groups = base_and_novel(truth, options.base)
        for group, categories in groups.items():
            stats[f"AP_{group}"], stats[f"AP50_{group}"] = result.group(categories)
            stats[f"names_{group}"] = len(categories)
            for name in {truth.name(i) for i in categories} & set(per_class):
                per_class[name]["names"] = group
    detected = {"detections": len(found), "n": n, "failed": failed, "protocol": PROTOCOLS[0]}
    return {**stats, "per_class": per_class, **detected}


def base_and_novel(truth: CocoTruth, base: tuple[str, ...]) -> dict[str, set[int]]:
    """Category ids of the names trained with, and of all others. Raises InputError on an unknown name."""
    from rgpt.recognizers.vocabulary import mark_base

    ids = list(truth.categories)
    marks = dict(zip(ids, mark_base([truth.name(i) for i in ids], base), strict=True))
    return {"base": {i for i in ids if marks[i]}, "novel": {i for i in ids if not marks[i]}}


def _from_rows(
    value: list[Any], truth: CocoTruth, source: PathOrValue, options: Options
) -> tuple[int, int, CocoTruth, list[Detection]]:
    """(pictures, failed, the truth of these pictures, detections in the order of picture ids)."""
    rows = read_rows(value, source)
    ids = {str(i): i for i in truth.images}
    check_known((row.id for row in rows), ids, source, "image id")
    check_complete({row.id for row in rows}, list(ids), source, options.subset)
    listed: list[Any] = []
    of_row: dict[str, list[Any]] = {}
    for index, row in enumerate(rows):
        own = [] if row.failed else row.row.get("detections")
        if (
            not isinstance(own, list)
            or not are_results(own)
            or any(d["image_id"] != ids[row.id] for d in own)
        ):
            raise InputError.about(
                f"{row_name(source, index)}, detections",
                f"a list of COCO results of picture {row.id}",
                show(own),
                "predict with eval.run detection, or record the picture as failed",
            )
        of_row[row.id] = own
    for id_ in ids:  # whatever ties is in one order, whichever order the rows had
        listed += of_row.get(id_, [])
    truth = truth.restricted([ids[row.id] for row in rows])
    return len(rows), sum(row.failed is not None for row in rows), truth, read_results(listed, truth, source)

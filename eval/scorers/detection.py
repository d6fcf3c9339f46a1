"""Finding and naming things: average precision over a whole vocabulary, and of base and novel names apart.

`generalised` [P]: all names compete in one run, then the AP of some is averaged (RegionCLIP and RO-ViT report
AP50 of COCO's 48 base and 17 novel names so). A run with the novel names alone is easier and another number.
COCO's AP by pycocotools; LVIS's federated AP where the ground truth is LVIS.

A picture without a row is refused, one with an empty list of detections is not; a failed one found nothing.
COCO results say nothing of pictures without detections: all of the ground truth's count.

`voc` and `voc-11-point` are PASCAL VOC's two rules, on folders of text files.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from eval.layouts.coco import CocoTruth, Detection, are_results, read_results, read_truth
from eval.layouts.fields import id_text
from eval.layouts.files import PathOrValue, name_of, row_name, show
from eval.layouts.rows import are_rows, check_complete, read_predictions, read_rows
from eval.layouts.voc import read_voc_folders
from eval.metrics.voc import voc_ap
from eval.scorers.average_precision import average_precision
from eval.scorers.options import DEFAULTS, Options
from eval.scorers.region_classification import pictures_of
from rgpt.errors import InputError

PROTOCOLS = ("generalised", "voc", "voc-11-point")
USES = frozenset({"ids", "subset", "iou_type", "base", "iou"})


def score(
    gt: PathOrValue, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """AP and its relatives, with `base` also AP and AP50 of base and novel names; None: nothing to find.

    Raises:
        InputError: files of the wrong layout, of another split, incomplete, NaN scores, unknown base names,
            masks that are wanted and missing.
    """
    if protocol in ("voc", "voc-11-point"):
        return _voc(gt, predictions, protocol, options)
    options.refuse("iou", "AP here is the mean over IoU 0.5 to 0.95")
    truth, value = read_truth(gt), read_predictions(predictions)
    kept, masks = pictures_of(truth, options), options.iou_type == "segm"
    failed, n = 0, len(kept)
    if are_rows(value):
        answered, failed, found = _from_rows(value, truth, predictions, options, kept)
        truth, n = truth.restricted(answered), len(answered)
    elif are_results(value):
        options.refuse("subset", "COCO results say nothing of pictures without detections")
        found = [d for d in read_results(value, truth, predictions, masks) if d.image_id in kept]
        truth = truth.restricted(kept)
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
    value: list[Any], truth: CocoTruth, source: PathOrValue, options: Options, kept: set[Any]
) -> tuple[set[Any], int, list[Detection]]:
    """(the pictures answered, how many of them failed, detections in the order of the truth's pictures)."""
    ids = {id_text(i, truth.source): i for i in truth.images}
    rows = {row.id: row for row in read_rows(value, source, ids, "image id")}
    check_complete(rows, [text for text, i in ids.items() if i in kept], source, options.subset)
    found: list[Detection] = []
    for text, i in ids.items():  # whatever ties is in one order, whichever order the rows had
        if text not in rows or i not in kept:
            continue
        row = rows[text]
        thing = f"{row.place}, detections"
        own = [] if row.failed else row.row.get("detections")
        if not isinstance(own, list) or (own and not are_results(own)):
            raise InputError.about(
                thing,
                f"a list of COCO results of picture {text}",
                show(own),
                "predict with eval.run detection, or record the picture as failed",
            )
        detections = read_results(own, truth, thing, options.iou_type == "segm")
        for place, detection in enumerate(detections):
            if detection.image_id != i:
                raise InputError.about(
                    f"{row_name(thing, place)}, image_id",
                    f"COCO results of picture {text}",
                    show(detection.image_id),
                )
        found += detections
    answered = {ids[text] for text in rows} & kept
    return answered, sum(row.failed is not None and ids[row.id] in kept for row in rows.values()), found


def _voc(gt: PathOrValue, predictions: PathOrValue, protocol: str, options: Options) -> dict[str, Any]:
    """VOC's AP at one IoU, the mean over classes. Raises InputError."""
    for name in ("ids", "subset", "iou_type", "base"):
        options.refuse(name, f"{protocol} scores whole folders of boxes")
    iou = 0.5 if options.iou is None else options.iou
    if not 0 < iou <= 1:
        raise InputError.about("--iou", "more than 0, at most 1", str(iou), "use 0.5")
    truths, found = read_voc_folders(gt, predictions)
    points = 11 if protocol == "voc-11-point" else None
    per_class: dict[str, dict[str, Any]] = {}
    for name, pictures in sorted(truths.items()):
        ap = voc_ap(pictures, found.get(name, {}), iou, points)
        per_class[name] = {"n": sum(map(len, pictures.values())), "AP": ap}
    aps = [row["AP"] for row in per_class.values()]
    return {
        "AP": sum(aps) / len(aps) if aps else None,
        "iou": iou,
        "per_class": per_class,
        "detections": sum(len(boxes) for pictures in found.values() for boxes in pictures.values()),
        "n": len({picture for pictures in truths.values() for picture in pictures}),
        "failed": 0,
        "protocol": protocol,
    }

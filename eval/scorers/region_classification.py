"""Naming the object in a given region, on any COCO-format set; LVIS is scored by its federated AP.

Every non-crowd annotation is one item; each of its boxes becomes a detection of the class that was answered
(RegionGPT §4 [P]). Protocols:

- `author-script` [A]: accuracy is exact equality with the lower-case name; every detection has score 1.0, so
  AP depends on the order of the rows; the class is what stands before the first comma.
- `scored` [D]: accuracy on normalised names; a detection's score is the name's likelihood under the model;
  ties are broken by ids, so the order of the rows changes nothing.
- `coco`: COCO results as COCOeval reads them, ties by the order of the file.

Names outside the vocabulary give no detection and are counted in `dropped`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.layouts.answers import are_answer_rows, read_answer_rows
from eval.layouts.coco import (
    SIZES,
    CocoTruth,
    Detection,
    are_results,
    clean_name,
    read_results,
    read_truth,
    size_of,
)
from eval.layouts.fields import Ids, id_text
from eval.layouts.files import PathOrValue, name_of, show
from eval.layouts.rows import are_rows, check_complete, read_predictions, read_rows
from eval.metrics.detection import id_order
from eval.scorers.average_precision import average_precision
from eval.scorers.options import DEFAULTS, Options
from rgpt.errors import InputError
from rgpt.prompts import normalise_answer

PROTOCOLS = ("scored", "author-script", "coco")
USES = frozenset({"ids", "subset", "iou_type", "detections_a_region"})
CONFUSIONS = 50


@dataclass(frozen=True)
class Answer:
    """What was said of one annotation. `ranked`: (name, score), best first; empty when the item failed."""

    ann_id: Any
    right: bool
    ranked: tuple[tuple[str, float], ...]
    failed: bool = False


def score(
    gt: PathOrValue, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """Accuracy, AP and tables of one predictions file. Shares of one; None where there is nothing to find.

    Raises:
        InputError: files of the wrong layout, of another split, incomplete, with duplicates or NaN scores.
    """
    truth, value = read_truth(gt), read_predictions(predictions)
    kept = pictures_of(truth, options)
    if are_rows(value):
        protocol = protocol or "scored"
        answers = _from_rows(value, truth, protocol, predictions)
    elif are_answer_rows(value):
        protocol = protocol or "author-script"
        answers = [
            Answer(a.ann_id, *_judge(a.text, a.gt_name, a.score, protocol))
            for a in read_answer_rows(value, truth, predictions)
        ]
    elif are_results(value):
        options.refuse("detections_a_region", "COCO results are detections already")
        found = read_results(value, truth, predictions, masks=options.iou_type == "segm")
        found = [d for d in found if d.image_id in kept]
        return _score_results(found, truth.restricted(kept), protocol or "coco", predictions, options)
    else:
        raise InputError.about(
            name_of(predictions),
            "rows of eval.run, RegionGPT answer rows or COCO results",
            show(value),
            "eval/README.md shows the layouts",
        )
    if protocol == "coco":
        raise InputError.about(
            "protocol coco", "COCO results", "rows of answers", "give scored or author-script"
        )
    options.refuse("iou_type", "rows of answers speak of the ground truth's boxes")
    if protocol != "scored":
        options.refuse("detections_a_region", f"under {protocol} each region has one name")
    answers = [a for a in answers if truth.annotations[a.ann_id]["image_id"] in kept]
    return _score_answers(answers, truth.restricted(kept), protocol, predictions, options)


def pictures_of(truth: CocoTruth, options: Options) -> set[Any]:
    """The pictures that count, all without `options.ids`. Raises InputError."""
    by_text = {id_text(i, truth.source): i for i in truth.images}
    return {by_text[text] for text in options.chosen(by_text, "image id")}


def _judge(
    text: str, gt_name: str, score: float, protocol: str
) -> tuple[bool, tuple[tuple[str, float], ...]]:
    if protocol == "author-script":
        return text == gt_name, ((text.split(",")[0].lower(), 1.0),)
    name = clean_name(normalise_answer(text))
    return name == clean_name(gt_name), ((name, score),)


def _from_rows(value: list[Any], truth: CocoTruth, protocol: str, source: PathOrValue) -> list[Answer]:
    ids = {id_text(i, truth.source): i for i, a in truth.annotations.items() if not a["iscrowd"]}
    rows = read_rows(value, source, ids, "annotation id")
    images = Ids({id_text(i, truth.source) for i in truth.images}, "image id")
    answers = []
    for row in rows:
        thing, annotation = row.place, truth.annotations[ids[row.id]]
        gt_name, stated = truth.name(annotation["category_id"]), row.row.get("image_id")
        own = id_text(annotation["image_id"], truth.source)
        if stated is not None and images.spell(stated, f"{thing}, image_id") != own:
            raise InputError.about(
                f"{thing}, image_id",
                f"image {own}",
                f"image {stated}",
                "the ground truth may be of another split or data set",
            )
        if row.failed:
            answers.append(Answer(ids[row.id], False, (), failed=True))
        elif protocol == "author-script":
            answers.append(Answer(ids[row.id], *_judge(row.raw_answer, gt_name, 1.0, protocol)))
        elif row.scores:
            cleaned: dict[str, float] = {}
            for name, likelihood in row.scores.items():
                name = clean_name(name)
                cleaned[name] = max(likelihood, cleaned.get(name, 0.0))
            ranked = tuple(sorted(cleaned.items(), key=lambda pair: (-pair[1], pair[0])))
            answers.append(Answer(ids[row.id], ranked[0][0] == gt_name, ranked))
        elif row.score is None:
            raise InputError.about(
                f"{thing}, score",
                "a score under the protocol scored",
                "none",
                "predict with --protocol scored, or score with --protocol author-script",
            )
        else:
            answers.append(Answer(ids[row.id], *_judge(row.words(), gt_name, row.score, protocol)))
    return answers


def _score_answers(
    answers: list[Answer], truth: CocoTruth, protocol: str, source: PathOrValue, options: Options
) -> dict[str, Any]:
    wanted = [i for i, a in truth.annotations.items() if not a["iscrowd"]]
    asked = {a.ann_id for a in answers}
    check_complete(asked, wanted, source, options.subset)
    if not asked:
        raise InputError.about(name_of(source), "at least one answered region", "none", "check the ids")
    if len(asked) < len(wanted):
        truth = truth.with_annotations(asked)
    if protocol == "scored":  # whatever ties is in one order, whichever order the rows had
        answers = sorted(
            answers, key=lambda a: [id_order(v) for v in (truth.annotations[a.ann_id]["image_id"], a.ann_id)]
        )
    top = options.detections_a_region if protocol == "scored" else 1
    detections, dropped = [], 0
    for answer in answers:
        known = [(truth.id_of_name[n], s) for n, s in answer.ranked if n in truth.id_of_name]
        dropped += bool(answer.ranked) and answer.ranked[0][0] not in truth.id_of_name
        for category, likelihood in known[:top]:
            annotation = truth.annotations[answer.ann_id]
            box = annotation["bbox"]
            detections.append(
                Detection(annotation["image_id"], category, likelihood, box, None, answer.ann_id)
            )
    scores = _tables(answers, truth)
    scores |= _ap(detections, truth, "bbox", scores["per_class"])
    return scores | {
        "dropped": dropped,
        "detections": len(detections),
        "detections_a_region": top,
        "n_ground_truth": len(wanted),
        "n": len(answers),
        "failed": sum(a.failed for a in answers),
        "protocol": protocol,
    }


def _score_results(
    detections: list[Detection], truth: CocoTruth, protocol: str, source: PathOrValue, options: Options
) -> dict[str, Any]:
    if protocol == "author-script":
        detections = [
            Detection(d.image_id, d.category_id, 1.0, d.bbox, d.segmentation, d.ann_id) for d in detections
        ]
    elif protocol == "scored":
        detections = sorted(
            detections,
            key=lambda d: [
                *(id_order(v) for v in (d.image_id, -1 if d.ann_id is None else d.ann_id, d.category_id)),
                (d.bbox or [], str(d.segmentation)),
            ],
        )
    scores: dict[str, Any] = {"accuracy": None, "per_class": {}}
    n = len(detections)
    named = [d for d in detections if d.ann_id is not None]
    if named and len(named) == len(detections):  # a classification of given boxes
        best: dict[Any, Detection] = {}
        for d in named:
            if d.ann_id not in best or d.score > best[d.ann_id].score:
                best[d.ann_id] = d
        answers = [
            Answer(
                i,
                d.category_id == truth.annotations[i]["category_id"],
                ((truth.name(d.category_id), d.score),),
            )
            for i, d in best.items()
        ]
        wanted = [i for i, a in truth.annotations.items() if not a["iscrowd"]]
        check_complete(best, wanted, source, options.subset)
        if len(best) < len(wanted):
            truth = truth.with_annotations(best)
        scores, n = _tables(answers, truth), len(answers)
    else:
        options.refuse("subset", "COCO results say nothing of what was not found")
    scores |= _ap(detections, truth, options.iou_type, scores["per_class"])
    return scores | {"detections": len(detections), "n": n, "failed": 0, "protocol": protocol}


def _ap(
    detections: Sequence[Detection], truth: CocoTruth, iou_type: str, per_class: dict[str, Any]
) -> dict[str, Any]:
    """The AP family, called mAP here as RegionGPT's tables do; AP of each class goes into `per_class`."""
    stats, result = average_precision(detections, truth, iou_type)
    for category, value in result.by_category.items():
        if value is not None:
            per_class.setdefault(truth.name(category), {})["AP"] = value
    return {"mAP": stats.pop("AP")} | stats


def _tables(answers: Sequence[Answer], truth: CocoTruth) -> dict[str, Any]:
    """Accuracy overall, by size, by class and (LVIS) by frequency, with n each; the commonest confusions."""
    groups: dict[str, dict[str, list[bool]]] = {k: defaultdict(list) for k in ("size", "class", "frequency")}
    confusions: Counter[tuple[str, str]] = Counter()
    for a in answers:
        annotation = truth.annotations[a.ann_id]
        category = truth.categories[annotation["category_id"]]
        name = truth.name(annotation["category_id"])
        groups["size"][size_of(annotation)].append(a.right)
        groups["class"][name].append(a.right)
        groups["frequency"][category.get("frequency", "")].append(a.right)
        if not a.right and a.ranked:
            confusions[name, a.ranked[0][0]] += 1

    def table(kind: str) -> dict[str, Any]:
        return {k: {"n": len(v), "accuracy": sum(v) / len(v)} for k, v in sorted(groups[kind].items())}

    scores: dict[str, Any] = {
        "accuracy": sum(a.right for a in answers) / len(answers),
        "per_class": table("class"),
        "per_size": {k: v for k in SIZES for s, v in table("size").items() if s == k},
        "confusions": sorted(
            ([t, s, n] for (t, s), n in confusions.items()), key=lambda c: (-c[2], c[0], c[1])
        ),
    }
    scores["confusions"] = scores["confusions"][:CONFUSIONS]
    if truth.is_lvis:
        scores["per_frequency"] = table("frequency")
    return scores

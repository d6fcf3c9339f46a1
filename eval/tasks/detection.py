"""Finding and naming things on any COCO-format set, LVIS or drawn scenes; scored by `eval.scorers.detection`.

One item is one picture, and every name of the set is looked for on it. Three kinds of model: detectors;
region recognizers, which name the regions of a source; and chat models, which are asked what each region of
the source is and rank all names by likelihood. `gt` as the source gives the annotated boxes with score 1, so
that only naming is measured (AP with ground-truth boxes).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.layouts.coco import CocoTruth
from eval.recognizers import DetectorSession, is_detector
from eval.score import score_task
from eval.tasks.base import Answer, Item, Picture, check_pictures
from eval.tasks.region_classification import AnnotatedTask, guide_for, region_of
from rgpt import prompts
from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.recognizers.detectors import MOST, NMS, check_masks, open_detector, region_masks
from rgpt.recognizers.proposals import ProposalSource, open_source, propose
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.scores import Detections, RegionScores
from rgpt.recognizers.vocabulary import mark_base
from rgpt.regions import RLE, Box, Region
from rgpt.regions.rle import compress

SHOWN = 5
"""Detections named in `raw_answer`, which is for people; all are in `detections`."""


@dataclass
class Detection(AnnotatedTask):
    """
    Args:
        data: a COCO-format file, or its content.
        images: folder of its pictures; or pictures by id (drawn scenes).
        proposals: name of a source, see `rgpt.recognizers.proposals`, or gt; None for rovit-detector.
        form: box or mask, of `gt` regions; masks in any case where masks are compared.
        iou_type: bbox or segm.
        base: names trained with, or None: a detector that weighs them apart is told, and so is the scorer.
        most: proposals kept. nms: IoU within a name.
        vocabulary: how the guide sentence for a chat model names the set; None: by the set itself.
        limit: pictures, the first by id.
    """

    data: Any
    images: Path | Mapping[int, Any]
    proposals: str | None = None
    form: str = "box"
    iou_type: str = "bbox"
    base: tuple[str, ...] | None = None
    most: int = MOST
    nms: float = NMS
    vocabulary: str | None = None
    seed: int = 0
    limit: int | None = None
    batch_size: int = 32
    name: str = field(default="detection", init=False)
    protocol: str = field(default="generalised", init=False)

    @cached_property
    def is_base(self) -> tuple[bool, ...]:
        return () if self.base is None else mark_base(self.names, self.base)

    @property
    def masks(self) -> bool:
        return self.iou_type == "segm"

    @cached_property
    def source(self) -> ProposalSource | None:
        if self.proposals == "gt":
            return AnnotatedRegions(self.truth, "mask" if self.masks else self.form)
        return None if self.proposals is None else open_source(self.proposals)

    @cached_property
    def annotated(self) -> AnnotatedRegions:
        """The annotated boxes of each picture."""
        return AnnotatedRegions(self.truth, "box")

    def pictures(self) -> Sequence[Picture]:
        self.is_base  # noqa: B018 — names that the set does not have are refused here
        pictures = [self._picture(self.truth.images[i]) for i in sorted(self.truth.images)[: self.limit]]
        check_pictures(pictures, "detection")
        return pictures

    def _picture(self, image: Mapping[str, Any]) -> Picture:
        source = self.files.source(image)
        wording = prompts.choose_wording("classification", random.Random(f"{self.seed} {image['id']}"))
        question = f"{wording.format(region=prompts.mention(1))} {guide_for(self.truth, self.vocabulary)}"
        item = Item(str(image["id"]), question, details={"image_id": image["id"]})
        return Picture(image["id"], source, (item.id,), lambda: [item])

    # ------------------------------------------------------------------------------------------------ asking

    def open_session(self, model: str, **options: Any) -> Any:
        source = self.source  # before the model, which may be large
        if not is_detector(model):
            return ChatSession.from_pretrained(model, **options)
        from rgpt.model.device import device_of

        device = device_of(options.get("device"))
        detector = open_detector(model, source, device, masks=self.masks, most=self.most, nms=self.nms)
        return DetectorSession(detector)

    def answers(self, session: Any, items: Sequence[Item]) -> list[Answer]:
        (item,) = items
        image_id = item.details["image_id"]
        if isinstance(session, DetectorSession):
            vocabulary = session.detector.vocabulary(self.names, self.is_base)
            names: Sequence[str] = vocabulary.names
            found = session.detector.detect(session.image, vocabulary, image_id)
        else:
            names, found = self.names, self._asked(session, item.prompt, image_id)
        size = session.image.height, session.image.width
        rows = as_results(found, [self.truth.id_of_name[name] for name in names], image_id, size)
        said = [
            f"{names[label]} {score:.2f}"
            for label, score in zip(found.labels[:SHOWN].tolist(), found.scores[:SHOWN].tolist(), strict=True)
        ]
        more = len(found) - len(said)
        raw = ", ".join(said) + (f" and {more} more" if more else "") or "nothing"
        return [Answer(raw, extra={"detections": rows})]

    def _asked(self, session: ChatSession, question: str, image_id: Any) -> Detections:
        """A chat model's detections: every name's likelihood for every region, times the region's score."""
        assert self.source is not None  # eval.recognizers.check
        found = propose(session.image, self.source, (), image_id, self.most)
        if not len(found):
            return Detections.none(self.masks)
        if self.masks:
            check_masks(found)
        regions = [{1: region} for region in found.regions]
        values = session.rank_each([question] * len(found), self.names, regions)
        logits = torch.tensor([[own[name] for name in self.names] for own in values])
        scores = RegionScores(tuple(self.names), logits, logits.softmax(-1), "softmax", found)
        kept = scores.detections(MOST, "product", nms=self.nms)
        if not self.masks:
            return kept
        masks = region_masks(found, kept.region)
        return Detections(kept.boxes, kept.scores, kept.labels, kept.region, masks)

    # ------------------------------------------------------------------------------------------------ scoring

    def score(self, gt: Any, rows: Sequence[Mapping[str, Any]], whole: bool) -> dict[str, Any]:
        ids = None if whole else {str(row["image_id"]) for row in rows}
        options = {"ids": ids, "iou_type": self.iou_type, "base": self.base}
        return score_task(self.name, gt, [dict(row) for row in rows], self.protocol, **options)

    def found(self, row: Mapping[str, Any]) -> list[tuple[Region, str, float]]:
        shown: list[tuple[Region, str, float]] = []
        for d in row.get("detections", ()):
            try:
                mask = d.get("segmentation")
                region = RLE(mask["size"], mask["counts"]) if mask else Box.from_coco(d["bbox"])
            except InputError:  # a mask without a pixel, a box without area
                continue
            shown.append((region, self.truth.name(d["category_id"]), d["score"]))
        return shown


class AnnotatedRegions:
    """The annotations of each picture as proposals with score 1; crowds are no things."""

    def __init__(self, truth: CocoTruth, form: str) -> None:
        self.form = form
        self.of_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for _, annotation in sorted(truth.annotations.items()):
            if not annotation["iscrowd"]:
                self.of_image[annotation["image_id"]].append(annotation)

    def __call__(self, image: Any, image_id: int | str | None = None) -> RegionSet:
        regions: list[Region] = []
        for annotation in self.of_image.get(image_id, ()):
            try:
                regions.append(region_of(annotation, self.form, image.height, image.width))
            except InputError:  # a box without area or outside: nothing to be named, so it counts as missed
                continue
        return RegionSet(tuple(regions), image.height, image.width, torch.ones(len(regions)), source="gt")


def as_results(
    found: Detections, categories: Sequence[int], image_id: Any, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """COCO results, best first: boxes `[x, y, w, h]` in pixels, scores to six digits.

    Args:
        categories: category id of each label. size: (height, width), for masks without a pixel, which COCO
            results may have and `RLE` not.
    """
    empty = {"size": list(size), "counts": compress(np.array([size[0] * size[1]]))}
    rows = []
    for k, ((x1, y1, x2, y2), label, score) in enumerate(
        zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    ):
        row: dict[str, Any] = {
            "image_id": image_id,
            "category_id": categories[label],
            "bbox": [round(value, 4) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": float(f"{score:.6g}"),
        }
        if found.masks is not None:
            mask = found.masks[k]
            row["segmentation"] = empty if mask is None else mask.to_json()["mask"]
        rows.append(row)
    return rows

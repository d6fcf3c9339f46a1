"""Pictures with described objects as conversations: captions, and "which region fits?" among candidates."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_recipes import conversations
from data_recipes.coco_layout import LayoutConverter
from data_recipes.conversations import clean, unusable
from data_recipes.geometry import REGION_KINDS, boxes_overlap, choose_region
from data_recipes.objects import LabelledObject
from data_recipes.runner import Made, Record
from rgpt.data.schema import QuestionAnswer, Sample
from rgpt.formats.coco import id_key
from rgpt.regions import Box

NO_ANNOTATION = "described annotation is missing or unusable"
NO_ROOM = "referring question left out: no second candidate fits"
MOST_SHARED = 0.3
"""Of the smaller box: a made candidate must not show a described object."""
TRIES = 40


class Described(NamedTuple):
    """An annotation and its sentences."""

    annotation_id: Any
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class ReferringConverter:
    """Turns (picture, annotations, refs) into samples.

    Args:
        name: begins the samples' ids.
        objects: reads single annotations; its writer's `regions` and `turns` hold here, too.
        tasks: of "caption" and "rec".
        candidates: fewest and most regions of a referring question.
        no_match: share of described regions that are left out of the candidates.
    """

    name: str
    objects: LayoutConverter
    tasks: tuple[str, ...]
    candidates: tuple[int, int]
    no_match: float

    def __call__(self, record: Record, rng: random.Random) -> Made:
        picture, refs = record.content
        made = Made(regions_read=len(refs))
        if picture.placement is None:
            made.drop_region(picture.problem, len(refs))
            made.dropped = picture.problem
            return made
        size = picture.placement.size
        # The picture's other annotations only serve as candidates: what is wrong with them is not counted.
        instances: dict[Any, LabelledObject] = {}
        repeated: set[Any] = set()
        for text in picture.annotations:
            annotation = json.loads(text)
            key = id_key(annotation.get("id"))
            found = self.objects.labelled(annotation, picture.placement, Made())
            if found is not None and instances.setdefault(key, found) != found:
                repeated.add(key)
        for key in repeated:  # of two objects with one id nobody knows which one is described
            del instances[key]
        described = self._described(refs, instances, made)
        if described and "caption" in self.tasks:
            self._captions(record, described, instances, made, rng)
        if described and "rec" in self.tasks:
            self._referring(record, described, instances, size, made, rng)
        if not made.samples:
            made.dropped = NO_ANNOTATION
        return made

    @staticmethod
    def _described(
        refs: Sequence[dict[str, Any]], instances: dict[Any, LabelledObject], made: Made
    ) -> list[Described]:
        """Refs by annotation (one may have several), their sentences cleaned and each once."""
        sentences: dict[Any, dict[str, None]] = {}
        for ref in refs:
            key = id_key(ref["ann_id"])
            if key not in instances:
                made.drop_region(NO_ANNOTATION)
                continue
            texts = [clean(sentence.get("sent") or sentence.get("raw")) for sentence in ref["sentences"]]
            usable = {text: None for text in texts if not unusable(text)}
            if not usable:
                made.drop_region(conversations.NO_WORDS)
                continue
            sentences.setdefault(key, {}).update(usable)
        return [Described(key, tuple(texts)) for key, texts in sentences.items()]

    def _captions(
        self,
        record: Record,
        described: Sequence[Described],
        instances: dict[Any, LabelledObject],
        made: Made,
        rng: random.Random,
    ) -> None:
        """Round k takes the k-th sentence of every region that has one."""
        part = 0
        for k in range(max(len(item.sentences) for item in described)):
            asked = conversations.shuffled([item for item in described if len(item.sentences) > k], rng)
            for chunk in conversations.chunks(asked, self.objects.writer.turns):
                turns = conversations.captions([item.sentences[k] for item in chunk], rng)
                regions = [instances[item.annotation_id] for item in chunk]
                self._add(record, f"caption-{part}", regions, turns, "brief_caption", made, rng)
                part += 1

    def _referring(
        self,
        record: Record,
        described: Sequence[Described],
        instances: dict[Any, LabelledObject],
        size: tuple[int, int],
        made: Made,
        rng: random.Random,
    ) -> None:
        """Rounds as for captions: asked twice about one region, the last answer would tell the next."""
        longest = min(self.objects.writer.turns, self.candidates[1] - 1)
        part = 0
        for k in range(max(len(item.sentences) for item in described)):
            asked = conversations.shuffled([item for item in described if len(item.sentences) > k], rng)
            for chunk in conversations.chunks(asked, longest):
                hidden = {item.annotation_id for item in chunk if rng.random() < self.no_match}
                chosen = self._candidates(chunk, hidden, instances, size, rng)
                if len(chosen) < 2:
                    made.repaired[NO_ROOM] += len(chunk)  # "which of one" is no question
                    continue
                number = {key: n for n, (key, _) in enumerate(chosen, start=1) if key is not None}
                pairs = [(item.sentences[k], number.get(item.annotation_id, 0)) for item in chunk]
                turns = conversations.referring(len(chosen), pairs, rng)
                regions = [item for _, item in chosen]
                self._add(record, f"rec-{part}", regions, turns, "referring", made, rng)
                part += 1

    def _candidates(
        self,
        chunk: Sequence[Described],
        hidden: set[Any],
        instances: dict[Any, LabelledObject],
        size: tuple[int, int],
        rng: random.Random,
    ) -> list[tuple[Any, LabelledObject]]:
        """The regions shown, in random order, with their annotation's id (None: made).

        Instances of a described class come first: they are what a description must tell apart. An instance
        that covers a left-out one is left out as well, or "none of them" would not be true.
        """
        low, high = self.candidates
        shown = [item.annotation_id for item in chunk if item.annotation_id not in hidden]
        classes = {instances[item.annotation_id].name for item in chunk}
        others = [
            key
            for key in conversations.shuffled(list(instances), rng)
            if key not in shown
            and key not in hidden
            and all(_iou(instances[key].box, instances[gone].box) < 0.5 for gone in hidden)
        ]
        others.sort(key=lambda key: instances[key].name not in classes)
        chosen: list[tuple[Any, LabelledObject]] = [
            (key, instances[key]) for key in (*shown, *others[: max(0, high - len(shown))])
        ]
        avoided = [instances[item.annotation_id].box for item in chunk]
        for _ in range(TRIES):
            if len(chosen) >= low:
                break
            box = _made_box(rng.choice(avoided), size, rng)
            if all(boxes_overlap(box, other) < MOST_SHARED for other in avoided):
                chosen.append((None, LabelledObject(box, None, "")))
                avoided.append(box)
        return conversations.shuffled(chosen, rng)

    def _add(
        self,
        record: Record,
        part: str,
        objects: Sequence[LabelledObject],
        turns: list[QuestionAnswer],
        task: str,
        made: Made,
        rng: random.Random,
    ) -> None:
        kind = self.objects.writer.regions
        if any(item.mask is None for item in objects):
            # A made candidate has no mask: among masks its box would give it away.
            kind = REGION_KINDS[1]
        regions = tuple(choose_region(item.box, item.mask, kind, rng) for item in objects)
        assert record.image is not None
        sample = Sample(f"{self.name}-{record.id}-{part}", Path(record.image), regions, tuple(turns))
        made.add(sample, *[task] * len(turns))


def _iou(a: Box, b: Box) -> float:
    shared = boxes_overlap(a, b) * min(a.area, b.area)
    return shared / (a.area + b.area - shared)


def _made_box(like: Box, size: tuple[int, int], rng: random.Random) -> Box:
    """A box of about the size of `like` anywhere in the picture, in whole tenths of a pixel."""
    height, width = size
    w = min(width, max(8.0, (like.x2 - like.x1) * rng.uniform(0.5, 1.2)))
    h = min(height, max(8.0, (like.y2 - like.y1) * rng.uniform(0.5, 1.2)))
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    x1, y1 = round(x, 2), round(y, 2)
    return Box(x1, y1, max(x1 + 1, min(width, round(x + w, 2))), max(y1 + 1, min(height, round(y + h, 2))))

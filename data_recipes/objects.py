"""Labelled objects of a picture as samples or as a detection record; shared by every detection data set.

coco, lvis, v3det, objects365, openimages, coco_format
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_recipes import conversations
from data_recipes.detections import Detection
from data_recipes.geometry import REGION_KINDS, choose_region
from data_recipes.runner import Made, Record
from rgpt.data.schema import Sample
from rgpt.regions import RLE, Box, Polygon

NO_OBJECTS = "no usable object"
FORMS = ("samples", "detections")
TURNS = 16
"""Regions of one conversation: about 400 tokens, well within 2,048 beside 576 of the picture."""


@dataclass(frozen=True)
class LabelledObject:
    """A box (always) and a segmentation (perhaps), with a class name and perhaps a description."""

    box: Box
    mask: Polygon | RLE | None
    name: str
    caption: str = ""


@dataclass(frozen=True)
class ObjectWriter:
    """Turns the objects of one picture into what `form` asks for.

    Args:
        prefix: begins the samples' ids.
        vocabulary: named by the guide sentence ("COCO-80"); None asks without one.
        form: one of FORMS. Samples carry class names as people say them, detections as the data set writes
            them.
        regions: one of REGION_KINDS.
        turns: regions of a sample at most; a picture with more gives several.
    """

    prefix: str
    vocabulary: str | None
    form: str
    regions: str
    turns: int

    def write(
        self,
        record: Record,
        size: tuple[int, int],
        objects: Sequence[LabelledObject],
        rng: random.Random,
        made: Made,
    ) -> Made:
        """Adds to `made` the samples or the detection of a picture of `size` = (height, width)."""
        usable = [item for item in objects if self._usable(item, made)]
        if not usable or record.image is None:
            made.dropped = made.dropped or NO_OBJECTS
        elif self.form == "detections":
            self._detection(record, size, usable, rng, made)
        else:
            self._samples(record, usable, rng, made)
        return made

    def _usable(self, item: LabelledObject, made: Made) -> bool:
        reason = conversations.unusable(conversations.clean(item.name))
        if item.caption and not reason:
            reason = conversations.unusable(item.caption)
        if reason:
            made.drop_region(f"label with {reason}")
        return not reason

    def _detection(
        self,
        record: Record,
        size: tuple[int, int],
        objects: Sequence[LabelledObject],
        rng: random.Random,
        made: Made,
    ) -> None:
        regions = tuple(choose_region(item.box, item.mask, self.regions, rng) for item in objects)
        height, width = size
        assert record.image is not None
        made.add(
            Detection(
                id=f"{self.prefix}-{record.id}",
                image=Path(record.image),
                width=width,
                height=height,
                regions=regions,
                names=tuple(item.name for item in objects),
            )
        )

    def _samples(
        self, record: Record, objects: Sequence[LabelledObject], rng: random.Random, made: Made
    ) -> None:
        # Captions and class names are other tasks, so they are other conversations.
        for task, items in (
            ("classification", [item for item in objects if not item.caption]),
            ("brief_caption", [item for item in objects if item.caption]),
        ):
            mixed = conversations.shuffled(items, rng)
            for part, chunk in enumerate(conversations.chunks(mixed, self.turns)):
                if task == "classification":
                    names = [conversations.spoken(item.name) for item in chunk]
                    turns = conversations.classification(names, self.vocabulary, rng)
                else:
                    turns = conversations.captions([item.caption for item in chunk], rng)
                regions = tuple(choose_region(item.box, item.mask, self.regions, rng) for item in chunk)
                suffix = f"-{task.partition('_')[0]}" if task != "classification" else ""
                sample_id = f"{self.prefix}-{record.id}{suffix}-{part}"
                assert record.image is not None
                made.add(Sample(sample_id, Path(record.image), regions, tuple(turns)), *[task] * len(turns))


def add_object_arguments(parser: argparse.ArgumentParser, form: str = "samples") -> None:
    """--form, --regions, --turns."""
    parser.add_argument(
        "--form",
        choices=FORMS,
        default=form,
        help=f"samples.jsonl for the chat model or detections.jsonl for recognizers (default: {form})",
    )
    add_conversation_arguments(parser)


def add_conversation_arguments(parser: argparse.ArgumentParser) -> None:
    """--regions, --turns."""
    parser.add_argument(
        "--regions",
        choices=REGION_KINDS,
        default="mixed",
        help="how regions are given where the data has masks (default: mixed, drawn for each)",
    )
    parser.add_argument(
        "--turns",
        type=positive,
        default=TURNS,
        metavar="N",
        help=f"longest conversation; a picture with more regions gives several (default: {TURNS})",
    )


def positive(text: str) -> int:
    """An argparse type: a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def object_writer(options: argparse.Namespace, prefix: str, vocabulary: str | None) -> ObjectWriter:
    return ObjectWriter(prefix, vocabulary, options.form, options.regions, options.turns)

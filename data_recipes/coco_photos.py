"""Photographs of COCO: every question that boxes, outlines, names, captions and pixels can answer.

Reads files in the layout of COCO's instances and captions. Questions are `rgpt.data.photo_questions`': names
with and without the guide sentence, descriptions, captions, yes/no, which of these, relations, sizes, places,
colours, what is beside a region, counts. Photographs that `rgpt.data.photographs` holds out for evaluation
are left out unless --split says otherwise. --form names writes names.jsonl instead: every region that can be
told, as one turn with the bare class name, one conversation a picture, for aligning regions with names.
--form words writes words.jsonl: a conversation without a picture for each photograph, in which class names
stand for regions. --form detections writes detections.jsonl for recognizers: all objects of a picture with
their class names.

    python -m data_recipes.coco_photos --annotations instances.json --captions captions.json --images DIR \\
        --out DIR
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_recipes.detections import Detection
from data_recipes.geometry import REGION_KINDS
from data_recipes.objects import positive
from data_recipes.pictures import coco_key, keys_of_file
from data_recipes.runner import Made, Recipe, Record, Source, main
from rgpt import prompts
from rgpt.data.class_words import PERSON
from rgpt.data.photo_conversations import KINDS, REGIONS, conversation, words_conversation
from rgpt.data.photo_facts import Frequencies, NumberedPhoto, choose_objects, is_tiny, phrases
from rgpt.data.photographs import SPLITS, Photograph, PhotoObject, read_annotations
from rgpt.data.schema import QuestionAnswer, Sample
from rgpt.formats.coco import CocoPicture
from rgpt.regions import RLE, Box, Polygon, open_image

FORMS = ("samples", "names", "words", "detections")
NO_OBJECTS = "no usable object"
NAMED = 40
"""Regions of a conversation of names alone; of people five, for they are two of five objects."""
NAMED_PEOPLE = 5
SINGLE = 0.1
"""Share of conversations with one turn only, as most users' first question is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotations", type=Path, required=True, nargs="+", metavar="FILE", help="instances*.json"
    )
    parser.add_argument("--captions", type=Path, nargs="+", default=[], metavar="FILE", help="captions*.json")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the pictures' folder")
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="all: also what is held out (default: train)"
    )
    parser.add_argument(
        "--copies",
        type=positive,
        default=1,
        metavar="N",
        help="conversations a picture: names, choices and the scene in turn (default: 1)",
    )
    parser.add_argument(
        "--form",
        choices=FORMS,
        default="samples",
        help="names: every region's bare name; words: comparisons in words alone; detections: boxes "
        "with names, for recognizers (default: samples)",
    )
    parser.add_argument(
        "--regions",
        choices=REGION_KINDS,
        default="mixed",
        help="how regions with an outline are given (default: mixed)",
    )


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    unusable: list[CocoPicture] = []
    photographs = read_annotations(
        options.annotations, options.captions, options.images, options.split, unusable
    )
    frequencies = Frequencies(photographs)
    facts = {
        "photographs": len(photographs),
        "objects described by captions": sum(
            bool(phrases(p, item)) for p in photographs for item in p.singles
        ),
        "classes": len(frequencies.names),
    }
    convert = Converter(frequencies, options.form, options.copies, options.regions)
    return Source(_records(photographs, unusable), convert, options.form, facts)


def _records(photographs: list[Photograph], unusable: list[CocoPicture]) -> Iterator[Record]:
    for picture in unusable:
        yield Record(picture.key, str(picture.path) if picture.path else None, (), picture)
    for photograph in photographs:
        keys = (coco_key(photograph.id), *keys_of_file(photograph.path.name))
        yield Record(str(photograph.id), str(photograph.path), keys, photograph)


@dataclass(frozen=True)
class Converter:
    """Turns a photograph into conversations."""

    frequencies: Frequencies
    form: str
    copies: int
    regions: str

    def __call__(self, record: Record, rng: random.Random) -> Made:
        if isinstance(record.content, CocoPicture):
            regions, problem = len(record.content.annotations), record.content.problem
            return Made(dropped=problem, regions_read=regions, regions_dropped=Counter({problem: regions}))
        photograph: Photograph = record.content
        made = Made(regions_read=len(photograph.objects) + len(photograph.dropped))
        made.regions_dropped.update(photograph.dropped)
        made.drop_region("crowd", len(photograph.objects) - len(photograph.singles))
        if not photograph.singles:
            made.dropped = NO_OBJECTS
        elif self.form == "words":
            turns = words_conversation(rng, self.frequencies.names)
            asked = tuple(QuestionAnswer(each.question, each.answer) for each in turns)
            made.add(Sample(f"words-{photograph.id}", None, (), asked), *(each.task for each in turns))
        elif self.form == "detections":
            regions = tuple(self._region(item, rng) for item in photograph.singles)
            names = tuple(item.name for item in photograph.singles)
            size = photograph.width, photograph.height
            made.add(Detection(f"photo-{photograph.id}", photograph.path, *size, regions, names))
        elif self.form == "names":
            self._names(photograph, rng, made)
        else:
            self._conversations(photograph, rng, made)
        return made

    def _names(self, photograph: Photograph, rng: random.Random, made: Made) -> None:
        clear = [item for item in photograph.singles if not is_tiny(item)]
        made.drop_region("too small to tell", len(photograph.singles) - len(clear))
        chosen: list[PhotoObject] = []
        taken: Counter[str] = Counter()
        for item in rng.sample(clear, len(clear)):
            if len(chosen) < NAMED and (item.name != PERSON or taken[PERSON] < NAMED_PEOPLE):
                chosen.append(item)
                taken[item.name] += 1
        if not chosen:
            made.dropped = NO_OBJECTS
            return
        turns = tuple(
            QuestionAnswer(f"What is {prompts.mention(number)}?", item.name)
            for number, item in enumerate(chosen, start=1)
        )
        regions = tuple(self._region(item, rng) for item in chosen)
        made.add(Sample(f"photo-{photograph.id}", photograph.path, regions, turns), *["names"] * len(turns))

    def _conversations(self, photograph: Photograph, rng: random.Random, made: Made) -> None:
        pixels = np.asarray(open_image(photograph.path)) if photograph.path.is_file() else None
        for copy in range(self.copies):
            kind = KINDS[(photograph.id + copy) % 3]
            kind = "single" if rng.random() < SINGLE else kind
            chosen = choose_objects(photograph, self.frequencies, rng, REGIONS)
            if kind == "single":
                chosen = chosen[: rng.randint(1, 5)]
            exchanges = conversation(
                NumberedPhoto(photograph, tuple(chosen), pixels), rng, self.frequencies, kind
            )
            if not exchanges:
                made.repaired["conversation without a question left out"] += 1
                continue
            made.add(
                Sample(
                    id=f"photo-{photograph.id}-{copy}",
                    image=photograph.path,
                    regions=tuple(self._region(item, rng) for item in chosen),
                    turns=tuple(QuestionAnswer(each.question, each.answer) for each in exchanges),
                ),
                *(each.task for each in exchanges),
            )

    def _region(self, item: PhotoObject, rng: random.Random) -> Box | Polygon | RLE:
        wanted = rng.choice(("mask", "box")) if self.regions == "mixed" else self.regions
        return item.region if wanted == "mask" else item.box


RECIPE = Recipe("coco_photos", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

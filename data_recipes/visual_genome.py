"""Visual Genome: descriptions of regions, named objects, or relationships, many turns a picture.

Downloads: region_descriptions.json.zip, objects.json.zip, relationships.json.zip and image_data.json.zip
(they are read as they are) and the pictures (VG_100K, VG_100K_2), from
homes.cs.washington.edu/~ranjay/visualgenome. One run reads one of the three; the file's own keys say which,
so give --task. Half of the pictures are COCO's: --exclude-images knows them by both names. --split keeps
the pictures of one part of densecap_splits.json.

    python -m data_recipes.visual_genome --task regions --annotations region_descriptions.json.zip \\
        --image-data image_data.json.zip --images VG --splits densecap_splits.json --split train --out DIR
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_recipes import conversations
from data_recipes.conversations import clean, unusable
from data_recipes.geometry import xywh_box
from data_recipes.objects import TURNS, positive
from data_recipes.pictures import coco_key, visual_genome_key
from data_recipes.runner import Made, Recipe, Record, Source, main
from rgpt.data.schema import Sample
from rgpt.errors import InputError
from rgpt.formats.json_stream import read_array
from rgpt.regions import Box

TASKS = ("regions", "objects", "relationships")
UNLISTED = "picture is not in image_data"
OTHER_SPLIT = "picture of another split"
REPEATED = "repeated in the picture"
NOT_A_RECORD = "entry without its keys"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", choices=TASKS, default="regions", help="what FILE holds (default: regions)")
    parser.add_argument(
        "--annotations",
        type=Path,
        required=True,
        metavar="FILE",
        help="region_descriptions, objects or relationships (.json, .json.zip, .json.gz)",
    )
    parser.add_argument(
        "--image-data", type=Path, required=True, metavar="FILE", help="image_data.json: sizes and COCO ids"
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="the folder with VG_100K/ and VG_100K_2/"
    )
    parser.add_argument("--splits", type=Path, metavar="FILE", help="densecap_splits.json or one of its form")
    parser.add_argument("--split", help="the part of --splits to keep, e.g. train")
    parser.add_argument(
        "--turns",
        type=positive,
        default=TURNS,
        metavar="N",
        help=f"longest conversation; a picture with more gives several (default: {TURNS})",
    )


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    wanted = read_split(options.splits, options.split)
    pictures = {picture.image_id: picture for picture in read_image_data(options.image_data)}
    key = "id" if options.task == "regions" else "image_id"

    def records() -> Iterator[Record]:
        for entry in read_array(options.annotations):
            image_id = entry.get(key) if isinstance(entry, dict) else None
            picture = pictures.get(image_id) if isinstance(image_id, int) else None
            if picture is None:
                yield Record(str(image_id), None, (), (None, UNLISTED, None))
            elif wanted is not None and image_id not in wanted:
                yield Record(str(image_id), None, picture.keys, (None, OTHER_SPLIT, None))
            else:
                image = str(options.images / picture.file)
                size = (picture.height, picture.width)
                yield Record(str(image_id), image, picture.keys, (entry, "", size))

    return Source(records(), Converter(options.task, options.turns), facts={"pictures listed": len(pictures)})


@dataclass(frozen=True, slots=True)
class Picture:
    """An entry of image_data.json; about 200 bytes each stay in memory while a run reads."""

    image_id: int
    height: int
    width: int
    file: str
    coco_id: int | None

    @property
    def keys(self) -> tuple[str, ...]:
        own = visual_genome_key(self.image_id)
        # The bare name, too: benchmarks store Visual Genome's pictures as "2406705.jpg".
        names = (own, f"file:{self.image_id}.jpg")
        return names if self.coco_id is None else (*names, coco_key(self.coco_id))


def read_image_data(path: Path) -> Iterator[Picture]:
    """The pictures of image_data.json; a file is the last two parts of its address ("VG_100K_2/1.jpg").

    Raises InputError when an entry lacks a key.
    """
    for entry in read_array(path):
        try:
            file = "/".join(entry["url"].split("/")[-2:])
            height, width = int(entry["height"]), int(entry["width"])
            yield Picture(int(entry["image_id"]), height, width, file, entry.get("coco_id"))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError.about(
                f"file {str(path)!r}",
                "entries with image_id, url, width and height",
                repr(entry)[:80],
                "give Visual Genome's image_data.json",
            ) from error


def read_split(path: Path | None, split: str | None) -> frozenset[int] | None:
    """The picture ids of one part of a splits file {"train": [ids], …}; None: all pictures.

    Raises InputError when only one of both is given, or the file has no such part.
    """
    if path is None and split is None:
        return None
    if path is None or split is None:
        raise InputError("--splits and --split: expected both or none, got one; add the other.")
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
        return frozenset(int(image_id) for image_id in parts[split])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError.about(
            f"splits {str(path)!r}",
            f"a JSON object with a list of ids under {split!r}",
            str(error)[:80] or type(error).__name__,
            "give densecap_splits.json and train, val or test",
        ) from error


@dataclass(frozen=True)
class Converter:
    """Turns one picture's entry into samples."""

    task: str
    turns: int

    def __call__(self, record: Record, rng: random.Random) -> Made:
        entry, dropped, size = record.content
        if dropped:
            return Made(dropped=dropped)
        listed = entry.get(self.task)
        if not isinstance(listed, list):
            return Made(dropped=f"entry without {self.task}: is --task right?")
        made = Made(regions_read=len(listed))
        if self.task == "relationships":
            self._relationships(record, listed, size, made, rng)
        else:
            self._named_boxes(record, listed, size, made, rng)
        return made

    def _named_boxes(
        self, record: Record, listed: list[Any], size: tuple[int, int], made: Made, rng: random.Random
    ) -> None:
        """Region descriptions or objects: a box and what is in it."""
        read = _described if self.task == "regions" else _named
        found: dict[tuple[Box, str], None] = {}  # ordered, each once
        for item in listed:
            values, text = read(item) if isinstance(item, dict) else (None, "")
            if reason := unusable(text):
                made.drop_region(reason)
            elif box := xywh_box(values, *size, made):
                if (box, text) in found:
                    made.drop_region(REPEATED)
                found[box, text] = None
        mixed = conversations.shuffled(list(found), rng)
        for part, chunk in enumerate(conversations.chunks(mixed, self.turns)):
            texts = [text for _, text in chunk]
            if self.task == "regions":
                task, turns = "brief_caption", conversations.captions(texts, rng)
            else:
                task, turns = "classification", conversations.classification(texts, None, rng)
            self._add(record, part, tuple(box for box, _ in chunk), turns, task, made)

    def _relationships(
        self, record: Record, listed: list[Any], size: tuple[int, int], made: Made, rng: random.Random
    ) -> None:
        """Subject, predicate, object: "man", "riding", "horse" is answered as "Man riding horse."."""
        found: dict[tuple[Box, Box, str], None] = {}
        for item in listed:
            try:
                ends = [item["subject"], item["object"]]
                words = [clean(_name(ends[0])), clean(item["predicate"]).lower(), clean(_name(ends[1]))]
            except (KeyError, TypeError):
                made.drop_region(NOT_A_RECORD)
                continue
            if reason := next(filter(None, map(unusable, words)), ""):
                made.drop_region(reason)
                continue
            trial = Made()  # two bad boxes are still one relationship
            subject, other = (xywh_box(_xywh(end), *size, trial) for end in ends)
            if subject is None or other is None:
                made.drop_region(next(iter(trial.regions_dropped)))
                continue
            made.repaired.update(trial.repaired)
            text = " ".join(words)
            key = (subject, other, f"{text[:1].upper()}{text[1:]}.")
            if key in found:
                made.drop_region(REPEATED)
            found[key] = None
        mixed = conversations.shuffled(list(found), rng)
        for part, chunk in enumerate(conversations.chunks(mixed, self.turns)):
            regions = conversations.shuffled(
                list(dict.fromkeys(box for subject, other, _ in chunk for box in (subject, other))), rng
            )
            number = {box: n for n, box in enumerate(regions, start=1)}
            related = [(number[subject], number[other], text) for subject, other, text in chunk]
            turns = conversations.relationships(related, rng)
            self._add(record, part, tuple(regions), turns, "relationship", made)

    @staticmethod
    def _add(
        record: Record, part: int, regions: tuple[Box, ...], turns: list[Any], task: str, made: Made
    ) -> None:
        assert record.image is not None
        sample_id = f"visual-genome-{task.replace('_', '-')}-{record.id}-{part}"
        made.add(Sample(sample_id, Path(record.image), regions, tuple(turns)), *[task] * len(turns))


def _described(item: Mapping[str, Any]) -> tuple[Any, str]:
    """Region descriptions write width and height; pixels counted from 0, the corner is the upper left one."""
    return (
        (item.get("x"), item.get("y"), item.get("width"), item.get("height")),
        clean(item.get("phrase")),
    )


def _named(item: Mapping[str, Any]) -> tuple[Any, str]:
    return _xywh(item), clean(_name(item))


def _xywh(item: Mapping[str, Any]) -> Any:
    """Objects write w and h where region descriptions write width and height."""
    return item.get("x"), item.get("y"), item.get("w"), item.get("h")


def _name(item: Mapping[str, Any]) -> Any:
    """An object's first name; ends of relationships have `name` in some releases and `names` in others."""
    names = item.get("names")
    return names[0] if isinstance(names, list) and names else item.get("name")


RECIPE = Recipe("visual_genome", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

"""People's own files in other forms than COCO's, made into samples: tables, Label Studio, CVAT, VOC, YOLO.

`rgpt.formats.own_files` reads them; here objects with labels become samples or detections.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_recipes.objects import LabelledObject, ObjectWriter
from data_recipes.pictures import keys_of_file
from data_recipes.runner import MISSING, REFUSED_FIRST, Made, Record, Source
from rgpt.errors import InputError
from rgpt.formats import yolo
from rgpt.formats.annotated import AnnotatedObject
from rgpt.formats.coco import SHARES
from rgpt.formats.own_files import OwnFile, OwnRecord, region_of
from rgpt.formats.size_claims import ANOTHER_SIZE, Placement

NO_LABEL = "object without a label"


def open_own_files(kind: str, options: argparse.Namespace, writer: ObjectWriter, scratch: Path) -> Source:
    """The records of a file or folder in one of `rgpt.formats.own_files.FORMATS`.

    Raises:
        InputError: as `OwnFile` (with --skip-missing-pictures, pictures not found are left out).
    """
    file = OwnFile(
        kind,
        options.annotations,
        options.images,
        scratch,
        skip_missing=options.skip_missing_pictures,
        caption_key=options.caption_key,
        one_based=options.one_based,
    )
    unit = options.coordinates or ("fractions" if file.largest <= 1 + yolo.SLACK else "pixels")
    convert = OwnConverter(writer, unit if kind == "csv" else None, options.coordinates is None)

    def records() -> Iterator[Record]:
        for own in file.records():
            yield Record(own.key, str(options.images / own.key), keys_of_file(own.key), own)

    return Source(records(), convert, options.form, {"format": kind})


@dataclass(frozen=True)
class OwnConverter:
    """Turns the parts of one picture into samples or a detection.

    Args:
        unit: of numbers in a table, None for formats that say it.
        told: the unit is what the table looks like, not what the person said.
    """

    writer: ObjectWriter
    unit: str | None
    told: bool

    def __call__(self, record: Record, rng: random.Random) -> Made:
        own: OwnRecord = record.content
        objects = own.objects()
        made = Made(regions_read=len(objects))
        try:
            placement = own.placement()
        except InputError as error:
            made.drop_region(ANOTHER_SIZE, len(objects))
            made.dropped = ANOTHER_SIZE
            made.repaired[f"{REFUSED_FIRST}{error}"[:300]] += 1
            return made
        if placement is None:
            made.drop_region(MISSING, len(objects))
            made.dropped = MISSING
            return made
        if placement.note:
            made.repaired[placement.note] += 1
        if self.unit == "fractions" and self.told:
            made.repaired[SHARES] += len(objects)
        labelled = (_labelled(item, self.unit or unit, placement, made) for item, unit in objects)
        return self.writer.write(record, placement.size, [item for item in labelled if item], rng, made)


def _labelled(item: AnnotatedObject, unit: str, placement: Placement, made: Made) -> LabelledObject | None:
    caption = " ".join(item.caption.split())
    label = item.label.strip() or caption
    if item.problem or not label:
        made.drop_region(item.problem or NO_LABEL)
        return None
    region = region_of(item, unit, placement)
    made.repaired.update(region.mended)
    if region.box is None:
        made.drop_region(region.problem)
        return None
    return LabelledObject(region.box, region.mask, label, caption)

"""OpenImages boxes (V4 to V7): 601 classes, for the region recognizers (detections.jsonl by default).

Downloads: oidv6-train-annotations-bbox.csv (or the file of another split),
oidv7-class-descriptions-boxable.csv and the pictures, from storage.googleapis.com/openimages. Boxes are
fractions of the picture, so every picture is opened for its size, and records without their picture are
dropped. Boxes around groups (IsGroupOf) are left out.

    python -m data_recipes.openimages --annotations oidv6-train-annotations-bbox.csv \\
        --classes oidv7-class-descriptions-boxable.csv --images openimages/train --out DIR
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_recipes.geometry import xyxy_box
from data_recipes.objects import LabelledObject, ObjectWriter, add_object_arguments, object_writer
from data_recipes.pictures import keys_of_file
from data_recipes.runner import MISSING, Made, Recipe, Record, Source, main
from rgpt.errors import InputError
from rgpt.formats import tables
from rgpt.formats.grouping import Buckets
from rgpt.formats.json_stream import open_data
from rgpt.formats.size_claims import upright_size

VOCABULARY = "OpenImages"
COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
GROUP_OF = "group of objects"
NO_CLASS = "label without a class name"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="FILE", help="*-annotations-bbox.csv"
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class-descriptions-boxable.csv: what /m/01yrx means; without it labels are names already",
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="the folder of this split's pictures"
    )
    add_object_arguments(parser, form="detections")


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    names = read_class_names(options.classes) if options.classes else {}
    buckets = Buckets(scratch, options.annotations.stat().st_size if options.annotations.is_file() else 0)
    for picture, row in read_rows(options.annotations):
        buckets.add_annotation(picture, json.dumps(row))

    def records() -> Iterator[Record]:
        for group in buckets.groups():
            name = f"{group.key}.jpg"
            yield Record(group.key, str(options.images / name), keys_of_file(name), group.annotations)

    convert = RowConverter(names, object_writer(options, "openimages", VOCABULARY))
    return Source(records(), convert, options.form, {"classes": len(names)})


def read_class_names(path: Path) -> dict[str, str]:
    """Names by label, from lines such as "/m/01yrx,Cat"; the file has no header in V4 to V6 and one in V7."""
    with open_data(path) as stream:
        rows = (row.cells for row in tables.read_rows(stream, str(path)))
        return {row[0]: row[1] for row in rows if len(row) >= 2 and row[0] != "LabelName"}


def read_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(picture's id, [label, XMin, XMax, YMin, YMax, IsGroupOf]) of every box. Raises InputError."""
    with open_data(path) as stream:
        rows = tables.read_rows(stream, str(path), COLUMNS)
        header = next(rows, tables.Row(1, [])).cells
        if missing := [name for name in COLUMNS if name not in header]:
            raise InputError.about(
                f"file {str(path)!r}",
                f"the columns {', '.join(COLUMNS)}",
                f"none called {', '.join(missing)}",
                "give a *-annotations-bbox.csv",
            )
        places = [header.index(name) for name in COLUMNS]
        group = header.index("IsGroupOf") if "IsGroupOf" in header else None
        for _, cells in rows:
            row = cells + [""] * (len(header) - len(cells))
            image, *values = (row[place] for place in places)
            # Some exports write the file's name instead of the id.
            yield image.removesuffix(".jpg"), [*values, row[group] if group is not None else ""]


@dataclass(frozen=True)
class RowConverter:
    """Turns the rows of one picture into a detection or samples."""

    names: dict[str, str]
    writer: ObjectWriter

    def __call__(self, record: Record, rng: random.Random) -> Made:
        made = Made(regions_read=len(record.content))
        assert record.image is not None
        size = upright_size(record.image)
        if size is None:
            made.drop_region(MISSING, len(record.content))
            made.dropped = MISSING
            return made
        found = (self._labelled(json.loads(text), size, made) for text in record.content)
        return self.writer.write(record, size, [item for item in found if item], rng, made)

    def _labelled(self, row: list[str], size: tuple[int, int], made: Made) -> LabelledObject | None:
        label, *values, group_of = row
        if group_of == "1":
            made.drop_region(GROUP_OF)
            return None
        name = self.names.get(label, "" if self.names or label.startswith("/m/") else label)
        if not name:
            made.drop_region(NO_CLASS)
            return None
        height, width = size
        try:
            # Spreadsheets of some countries write a comma for the decimal point.
            x1, x2, y1, y2 = (float(value.replace(",", ".")) for value in values)
            corners: list[float] | None = [x1 * width, y1 * height, x2 * width, y2 * height]
        except ValueError:
            corners = None
        box = xyxy_box(corners, height, width, made)
        return LabelledObject(box, None, name) if box else None


RECIPE = Recipe("openimages", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

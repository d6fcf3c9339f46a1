"""Your own data: COCO's layout, a table of boxes, Label Studio, CVAT, Pascal VOC or YOLO.

The format is told by the file's ending and beginning (.csv, .tsv: a table; .xml: CVAT or VOC; a JSON list:
Label Studio; a JSON object: COCO; .yaml or classes.txt: YOLO), by what a folder holds, or by --format. Give
--vocabulary "My Parts" to train answers of a closed list of names, with the guide sentence "Answer the
question using My Parts category names."; without it names are asked for freely. With --caption-key, objects
that carry a text of that name (a key of the annotation, a column, an attribute, a textarea) become
descriptions instead.

    python -m data_recipes.coco_format --annotations instances.json --images pictures --out DIR
    python -m data_recipes.coco_format --annotations boxes.csv --images pictures --out DIR
    python -m data_recipes.coco_format --annotations Annotations --images JPEGImages --out DIR
    python -m data_recipes.coco_format --annotations data.yaml --images images/train --out DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_recipes.coco_layout import CROWDS, LayoutConverter, records
from data_recipes.objects import add_object_arguments, object_writer
from data_recipes.own_files import open_own_files
from data_recipes.runner import Recipe, Source, main
from rgpt.errors import InputError
from rgpt.formats.annotated import UNITS
from rgpt.formats.coco import CocoFile
from rgpt.formats.own_files import FORMATS as OWN_FORMATS
from rgpt.formats.own_files import format_of

FORMATS = ("auto", "coco", *OWN_FORMATS)
READ_BY = {
    "--coordinates": ("csv",),
    "--one-based": ("voc",),
    "--crowds": ("coco",),
    "--caption-key": ("coco", "csv", "label-studio", "cvat"),
}
"""Options that some formats know nothing of."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotations",
        type=Path,
        required=True,
        metavar="FILE",
        help="your annotations; a folder of VOC or YOLO",
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="(default: auto)")
    parser.add_argument(
        "--coordinates",
        choices=list(UNITS),
        help="of a table (default: pixels, or fractions if all are below 1)",
    )
    parser.add_argument(
        "--one-based",
        action="store_true",
        help="VOC's first pixel is number 1: subtract it (default: as written)",
    )
    parser.add_argument("--vocabulary", metavar="NAME", help="what the list of class names is called")
    parser.add_argument("--caption-key", metavar="KEY", help="where an object's description stands")
    parser.add_argument(
        "--crowds",
        choices=CROWDS,
        help="COCO's iscrowd: many programs set it for every mask (default: keep)",
    )
    parser.add_argument("--prefix", default="own", help="begins the samples' ids (default: own)")
    add_object_arguments(parser)


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    kind = format_of(options.annotations) if options.format == "auto" else options.format
    for option, formats in READ_BY.items():
        if getattr(options, option.strip("-").replace("-", "_")) and kind not in formats:
            raise InputError.about(option, f"the format {' or '.join(formats)}", kind, "leave it out")
    writer = object_writer(options, options.prefix, options.vocabulary)
    if kind != "coco":
        return open_own_files(kind, options, writer, scratch)
    file = CocoFile(options.annotations, scratch, options.images)
    convert = LayoutConverter.of(file, writer, options.crowds or "keep", options.caption_key)
    return Source(records(file), convert, options.form, file.facts)


RECIPE = Recipe("coco_format", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

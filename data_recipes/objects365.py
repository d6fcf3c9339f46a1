"""Objects365 v1 or v2: 365 classes, boxes, for the region recognizers (detections.jsonl by default).

Downloads: zhiyuan_objv2_train.json and the patches of pictures from objects365.org. A slash in a class name
("Cabinet/shelf") stands between synonyms and stays. Crowds are left out; fakes and reflections stay. --flat
looks for pictures by their bare names, for folders without the images/v1/patch0/ of the file.

    python -m data_recipes.objects365 --annotations zhiyuan_objv2_train.json --images objects365 --out DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from data_recipes.coco_layout import LayoutConverter, records
from data_recipes.objects import add_object_arguments, object_writer
from data_recipes.runner import Recipe, Source, main
from rgpt.formats.coco import CocoFile, file_name_of

VOCABULARY = "Objects365"


def bare_name(picture: dict[str, Any]) -> str:
    return file_name_of(picture).rpartition("/")[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotations",
        type=Path,
        required=True,
        metavar="FILE",
        help="zhiyuan_objv2_*.json or objects365_*.json",
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="the folder of the pictures"
    )
    parser.add_argument("--flat", action="store_true", help="pictures lie in that folder itself")
    add_object_arguments(parser, form="detections")


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    name_of = bare_name if options.flat else file_name_of
    file = CocoFile(options.annotations, scratch, options.images, name_of)
    convert = LayoutConverter.of(file, object_writer(options, "objects365", VOCABULARY))
    return Source(records(file), convert, options.form, file.facts)


RECIPE = Recipe("objects365", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

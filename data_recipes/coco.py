"""COCO 2017 or 2014: classification of ground-truth regions, many turns, with the guide sentence.

Downloads: annotations_trainval2017.zip and train2017.zip from cocodataset.org. Crowds are left out, because
"a person" is no answer to a heap of people. Pictures without annotations give no sample.

    python -m data_recipes.coco --annotations instances_train2017.json --images train2017 --out DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_recipes.coco_layout import LayoutConverter, records
from data_recipes.objects import add_object_arguments, object_writer
from data_recipes.runner import Recipe, Source, main
from rgpt.formats.coco import CocoFile

VOCABULARY = "COCO-80"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="FILE", help="instances_*.json of COCO"
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="the folder of this split's pictures"
    )
    add_object_arguments(parser)


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    file = CocoFile(options.annotations, scratch, options.images)
    convert = LayoutConverter.of(file, object_writer(options, "coco", VOCABULARY))
    return Source(records(file, coco_ids=True), convert, options.form, file.facts)


RECIPE = Recipe("coco", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

"""V3Det: 13,204 classes in 183,000 training pictures; classification with the guide sentence.

Downloads: v3det_2023_v1_train.json and the pictures, see github.com/V3Det/V3Det. The file names already
begin with images/. Boxes only. Some classes share their name: the name is the answer, so they are one class
here, and report.json says how many names differ.

    python -m data_recipes.v3det --annotations v3det_2023_v1_train.json --images V3Det --out DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_recipes.coco_layout import LayoutConverter, PictureFiles, open_layout
from data_recipes.objects import add_object_arguments, object_writer
from data_recipes.runner import Recipe, Source, main

VOCABULARY = "V3Det"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="FILE", help="v3det_2023_v1_*.json"
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="the folder in which images/ lies"
    )
    add_object_arguments(parser)


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    layout = open_layout(options.annotations, scratch)
    files = PictureFiles(options.images)
    convert = LayoutConverter(layout.names, object_writer(options, "v3det", VOCABULARY))
    return Source(map(files.record, layout.groups()), convert, options.form, layout.facts)


RECIPE = Recipe("v3det", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

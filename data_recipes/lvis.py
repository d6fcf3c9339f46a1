"""LVIS v1 or v0.5: 1,203 classes on COCO 2017 pictures; classification with the guide sentence.

Downloads: lvis_v1_train.json.zip from lvisdataset.org; COCO's train2017 and val2017. Pictures are found by
the last two parts of their address ("train2017/000000155379.jpg"): v1 has no file names and v0.5 has those
of another split. LVIS val v1 holds pictures of COCO train2017: exclude it from training when you evaluate
on it.

    python -m data_recipes.lvis --annotations lvis_v1_train.json --images coco --out DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_recipes.coco_layout import LayoutConverter, records
from data_recipes.objects import add_object_arguments, object_writer
from data_recipes.runner import Recipe, Source, main
from rgpt.formats.coco import CocoFile, file_of_coco_url

VOCABULARY = "LVIS"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="lvis_v1_*.json")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="the folder with train2017/ and val2017/"
    )
    add_object_arguments(parser)


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    file = CocoFile(options.annotations, scratch, options.images, file_of_coco_url)
    convert = LayoutConverter.of(file, object_writer(options, "lvis", VOCABULARY))
    return Source(records(file, coco_ids=True), convert, options.form, file.facts)


RECIPE = Recipe("lvis", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

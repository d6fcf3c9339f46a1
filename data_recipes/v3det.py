"""V3Det: 13,204 classes in 183,000 training pictures; classification with the guide sentence.

Downloads: v3det_2023_v1_train.json and the pictures, see github.com/V3Det/V3Det. The file names already
begin with images/. Boxes only. In the annotation file 38 names are used for two classes ("door" is an
entrance, too). --names takes category_name_13204_v3det_2023_v1.txt, in which all differ (line n is class
n). Without it classes of one name are one class here; report.json says how many names differ.

    python -m data_recipes.v3det --annotations v3det_2023_v1_train.json --images V3Det \\
        --names category_name_13204_v3det_2023_v1.txt --out DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_recipes.coco_layout import LayoutConverter, records
from data_recipes.objects import add_object_arguments, object_writer
from data_recipes.runner import Recipe, Source, main
from rgpt.errors import InputError
from rgpt.formats.coco import CocoFile, name_facts

VOCABULARY = "V3Det"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="FILE", help="v3det_2023_v1_*.json"
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="the folder in which images/ lies"
    )
    parser.add_argument("--names", type=Path, metavar="FILE", help="class names, one a line, line n for id n")
    add_object_arguments(parser)


def read_names(path: Path) -> dict[str, str]:
    """Names by id from a file whose line n names id n. Raises InputError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError.about(f"names {str(path)!r}", "a text file", str(error)) from error
    return {str(number): name for number, name in enumerate(lines, start=1)}


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    file = CocoFile(options.annotations, scratch, options.images)
    if options.names is not None:
        names = read_names(options.names)
        if names.keys() != file.names.keys():
            raise InputError.about(
                f"names {str(options.names)!r}",
                f"a line for each of the {len(file.names)} ids from 1",
                f"{len(names)} lines",
                "give the list that belongs to the annotations",
            )
        file.names.update(names)
        file.facts.update(name_facts(names))
    convert = LayoutConverter.of(file, object_writer(options, "v3det", VOCABULARY))
    return Source(records(file), convert, options.form, file.facts)


RECIPE = Recipe("v3det", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

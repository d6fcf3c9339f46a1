"""Pictures with captions: COCO Captions, or any table such as CC3M's, for contrastive pretraining.

Downloads: annotations_trainval2017.zip and train2017.zip from cocodataset.org. For CC3M, CC12M and the like,
a table (.tsv or .csv) with a header, a column of picture files relative to --images and one of captions, as
open_clip reads them. Captions of one picture are brought together from COCO's file; in a table each row is a
record of its own. Blank captions are left out and counted.

    python -m data_recipes.captions --annotations captions_train2017.json --images train2017 --out DIR
    python -m data_recipes.captions --table cc3m.tsv --images cc3m --out DIR
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from data_recipes.captioned import Captioned
from data_recipes.coco_layout import records
from data_recipes.pictures import keys_of_file
from data_recipes.runner import Made, Recipe, Record, Source, main
from rgpt.errors import InputError
from rgpt.formats.coco import CocoFile
from rgpt.formats.json_stream import open_data
from rgpt.formats.paths import PictureFolder
from rgpt.formats.tables import Row, read_rows

NO_CAPTION = "picture without a caption"
NO_FILE = "captions of a picture that is not in the file"
BLANK = "blank captions left out"
PREFIX = {"annotations": "coco", "table": "table"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--annotations", type=Path, metavar="FILE", help="captions_*.json of COCO")
    given.add_argument("--table", type=Path, metavar="FILE", help=".tsv or .csv with a header")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the pictures' folder")
    parser.add_argument("--image-column", default="filepath", metavar="NAME", help="of a table (filepath)")
    parser.add_argument("--caption-column", default="title", metavar="NAME", help="of a table (title)")


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    if options.table is not None:
        rows = table_rows(options.table, options.images, options.image_column, options.caption_column)
        return Source(rows, _Converter(PREFIX["table"]), "captions")
    return Source(
        coco_pictures(options.annotations, options.images, scratch),
        _Converter(PREFIX["annotations"]),
        "captions",
    )


def coco_pictures(path: Path, images: Path, scratch: Path) -> Iterator[Record]:
    """A record a picture; its content is the list of captions. Memory does not grow with the file."""
    file = CocoFile(path, scratch, images, lists=("images", "annotations"), sizes=False)
    for record in records(file, coco_ids=True):
        said = [json.loads(text) for text in record.content.annotations]
        if any("caption" not in annotation for annotation in said):
            raise InputError.about(
                f"file {str(path)!r}",
                "annotations with image_id and caption",
                f"one of image {record.id} without a caption",
                "give a captions_*.json of COCO",
            )
        yield record._replace(content=[annotation["caption"] for annotation in said])


def table_rows(path: Path, images: Path, image_column: str, caption_column: str) -> Iterator[Record]:
    """A record a row. Raises InputError: no table, or a column is missing."""
    if path.suffix not in (".tsv", ".csv") or not path.is_file():
        raise InputError.about(f"table {str(path)!r}", "a .tsv or .csv file", "none", "check the name")
    return _rows(path, images, image_column, caption_column)


def _rows(path: Path, images: Path, image_column: str, caption_column: str) -> Iterator[Record]:
    folder = PictureFolder(images)
    with open_data(path) as stream:
        # Captions from the web have quotes in all places, so they are read as best they can.
        rows = read_rows(stream, str(path), (image_column, caption_column), strict=False)
        header = next(rows, Row(1, [])).cells
        if missing := [column for column in (image_column, caption_column) if column not in header]:
            raise InputError.about(
                f"table {str(path)!r}",
                f"the column {missing[0]}",
                f"columns {', '.join(header) or 'none'}"[:120],
                "name yours with --image-column and --caption-column",
            )
        places = header.index(image_column), header.index(caption_column)
        for number, row in enumerate(rows, start=1):
            name, caption = (row.cells[place] if place < len(row.cells) else "" for place in places)
            image = str(folder.find(name) or folder.expected(name)) if name else None
            yield Record(str(number), image, keys_of_file(name) if name else (), [caption])


class _Converter:
    """Record to caption record."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __call__(self, record: Record, rng: random.Random) -> Made:
        made = Made()
        if record.image is None:
            made.dropped = NO_FILE
            return made
        given = [" ".join(text.split()) for text in record.content if isinstance(text, str)]
        captions = list(dict.fromkeys(filter(None, given)))
        if blank := len(record.content) - len([text for text in given if text]):
            made.repaired[BLANK] += blank
        if not captions:
            made.dropped = NO_CAPTION
            return made
        made.add(Captioned(f"{self.prefix}-{record.id}", Path(record.image), tuple(captions)))
        return made


RECIPE = Recipe("captions", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

"""Your own data: COCO's layout, a CSV table of boxes, or an export of Label Studio or CVAT.

The format is told by the file's ending and beginning (.csv, .xml: CVAT, a JSON list: Label Studio, a JSON
object: COCO), or by --format. Give --vocabulary "My Parts" to train answers of a closed list of names, with
the guide sentence "Answer the question using My Parts category names."; without it names are asked for
freely. With --caption-key, objects that carry a text of that name (a key of the annotation, a column, an
attribute, a textarea) become descriptions instead.

    python -m data_recipes.coco_format --annotations instances.json --images pictures --out DIR
    python -m data_recipes.coco_format --annotations boxes.csv --images pictures --out DIR
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_recipes import geometry
from data_recipes.coco_layout import CROWDS, LayoutConverter, PictureFiles, open_layout
from data_recipes.grouping import Buckets
from data_recipes.json_stream import open_data
from data_recipes.objects import LabelledObject, ObjectWriter, add_object_arguments, object_writer
from data_recipes.own_files import (
    COORDINATES,
    OwnObject,
    OwnPicture,
    merged,
    read_csv,
    read_cvat,
    read_label_studio,
)
from data_recipes.pictures import keys_of_file
from data_recipes.runner import MISSING, Made, Recipe, Record, Source, main
from rgpt.errors import InputError
from rgpt.formats.size_claims import upright_size
from rgpt.regions import RLE, Box, Mask, Polygon

FORMATS = ("auto", "coco", "csv", "label-studio", "cvat")
NO_LABEL = "object without a label"
LIKE_FRACTIONS = "box within the first pixel (if it is a fraction: --coordinates)"
BROKEN_MASK = "mask that cannot be read"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="your annotations")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="(default: auto)")
    parser.add_argument(
        "--coordinates", choices=COORDINATES, default="pixels", help="of a CSV table (default: pixels)"
    )
    parser.add_argument("--vocabulary", metavar="NAME", help="what the list of class names is called")
    parser.add_argument("--caption-key", metavar="KEY", help="where an object's description stands")
    parser.add_argument(
        "--crowds",
        choices=CROWDS,
        default="keep",
        help="COCO's iscrowd: many programs set it for every mask (default: keep)",
    )
    parser.add_argument("--prefix", default="own", help="begins the samples' ids (default: own)")
    add_object_arguments(parser)


def format_of(path: Path) -> str:
    """One of FORMATS by the file's ending, and for JSON by its first character. Raises InputError."""
    endings = [suffix for suffix in path.suffixes if suffix not in (".gz", ".zip")]
    ending = endings[-1].lower() if endings else ""
    if ending in (".csv", ".xml"):
        return "csv" if ending == ".csv" else "cvat"
    if ending == ".json":
        with open_data(path) as stream:
            first = stream.read(4096).decode("utf-8-sig", "ignore").lstrip()[:1]
        if first in ("[", "{"):
            return "label-studio" if first == "[" else "coco"
    raise InputError.about(
        f"annotations {str(path)!r}",
        "a .csv, .xml or .json file",
        f"the ending {ending!r}" if ending != ".json" else "JSON that is neither list nor object",
        "name the format with --format",
    )


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    kind = format_of(options.annotations) if options.format == "auto" else options.format
    writer = object_writer(options, options.prefix, options.vocabulary)
    if kind == "coco":
        layout = open_layout(options.annotations, scratch)
        files = PictureFiles(options.images)
        convert = LayoutConverter(layout.names, writer, options.crowds, options.caption_key)
        return Source(map(files.record, layout.groups()), convert, options.form, layout.facts)
    readers: dict[str, Callable[[], Iterator[OwnPicture]]] = {
        "csv": lambda: read_csv(options.annotations, options.coordinates, options.caption_key),
        "label-studio": lambda: read_label_studio(options.annotations, options.caption_key),
        "cvat": lambda: read_cvat(options.annotations, options.caption_key),
    }
    # A table lists objects, not pictures, and exports that were joined may list a picture twice.
    buckets = Buckets(scratch, options.annotations.stat().st_size if options.annotations.is_file() else 0)
    for picture in readers[kind]():
        buckets.add_annotation(picture.name, json.dumps(asdict(picture)))

    def records() -> Iterator[Record]:
        for group in buckets.groups():
            image = str(options.images / group.key) if group.key else None
            yield Record(group.key, image, keys_of_file(group.key), group.annotations)

    return Source(records(), OwnConverter(writer), options.form, {"format": kind})


@dataclass(frozen=True)
class OwnConverter:
    """Turns the parts of one picture into samples or a detection."""

    writer: ObjectWriter

    def __call__(self, record: Record, rng: random.Random) -> Made:
        picture = merged(_picture(text) for text in record.content)
        made = Made(regions_read=len(picture.objects))
        # A file that does not state the size needs the picture itself.
        size = picture.size or (upright_size(record.image) if record.image else None)
        if size is None:
            made.drop_region(MISSING, len(picture.objects))
            made.dropped = MISSING
            return made
        found = (_labelled(item, picture.unit, size, made) for item in picture.objects)
        return self.writer.write(record, size, [item for item in found if item], rng, made)


def _picture(text: str) -> OwnPicture:
    value = json.loads(text)
    value["objects"] = [OwnObject(**item) for item in value["objects"]]
    value["size"] = tuple(value["size"]) if value["size"] else None
    return OwnPicture(**value)


def _labelled(item: OwnObject, unit: str, size: tuple[int, int], made: Made) -> LabelledObject | None:
    if item.problem:
        made.drop_region(item.problem)
        return None
    if not item.label.strip() and not item.caption.strip():
        made.drop_region(NO_LABEL)
        return None
    mask: Polygon | RLE | None = None
    if item.box is not None:
        corners = _pixels(item.box, unit, size)
        if unit == "pixels" and max(corners) <= 1:
            made.drop_region(LIKE_FRACTIONS)
            return None
        box = geometry.xyxy_box(corners, *size, made)
    else:
        mask = _mask(item, size)
        if mask is None:
            made.drop_region(BROKEN_MASK)
            return None
        box = _box_around(mask, size)
    caption = " ".join(item.caption.split())
    return LabelledObject(box, mask, item.label.strip() or caption, caption) if box else None


def _pixels(values: list[float] | tuple[float, ...], unit: str, size: tuple[int, int]) -> list[float]:
    if unit == "pixels":
        return list(values)
    share = 1 if unit == "fractions" else 100
    return [value * size[1 - i % 2] / share for i, value in enumerate(values)]


def _mask(item: OwnObject, size: tuple[int, int]) -> Polygon | RLE | None:
    height, width = size
    if item.polygon is not None:
        ring = [number for point in item.polygon for number in point]
        return geometry.coco_segmentation([ring], height, width)
    if item.mask is None:
        return None
    runs, (left, top, w, h) = item.mask
    if sum(runs) != w * h or min(runs, default=-1) < 0 or w < 1 or h < 1 or w * h > height * width:
        return None
    if left < 0 or top < 0 or left + w > width or top + h > height:
        return None
    # CVAT's runs go row by row within the window; COCO's column by column over the picture.
    window = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(h, w)
    full = np.zeros((height, width), dtype=bool)
    full[top : top + h, left : left + w] = window
    return Mask(full).to_rle() if window.any() else None


def _box_around(mask: Polygon | RLE, size: tuple[int, int]) -> Box | None:
    return mask.bounds(*size)


RECIPE = Recipe("coco_format", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

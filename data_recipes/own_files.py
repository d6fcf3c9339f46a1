"""People's own files in other forms than COCO's: tables, Label Studio, CVAT, Pascal VOC, YOLO.

Readers (`rgpt.formats`) give pictures as the file has them, one by one. Here the pictures are found, what
belongs to one is brought together, and its objects become regions of the upright picture. All of a file is
read before the first sample is made, so that whatever cannot be read is refused before any work.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data_recipes import geometry
from data_recipes.objects import LabelledObject, ObjectWriter
from data_recipes.pictures import keys_of_file
from data_recipes.runner import MISSING, REFUSED_FIRST, Made, Record, Source
from rgpt.errors import InputError
from rgpt.formats import cvat, label_studio, tables, voc, yolo
from rgpt.formats.annotated import AnnotatedObject, AnnotatedPicture, refuse, window_mask
from rgpt.formats.coco import BOX_INSTEAD, LIKE_FRACTIONS, SHARES, TURNED
from rgpt.formats.grouping import Buckets
from rgpt.formats.json_stream import open_data, read_array
from rgpt.formats.paths import PictureFolder, holds_pictures
from rgpt.formats.size_claims import (
    ANOTHER_SIZE,
    PictureHeader,
    Placement,
    Size,
    Turns,
    place,
    read_header,
)
from rgpt.regions import RLE, Polygon

FORMATS = ("csv", "label-studio", "cvat", "voc", "yolo")
NO_LABEL = "object without a label"
BROKEN_MASK = "mask that cannot be read"


def open_own_files(kind: str, options: argparse.Namespace, writer: ObjectWriter, scratch: Path) -> Source:
    """The records of a file or folder in one of FORMATS.

    Raises:
        InputError: the folder of pictures is missing, the file cannot be read, or a picture is not found or
            named by two (with --skip-missing-pictures, those not found are left out).
    """
    found = _Found(options.images, options.skip_missing_pictures, exact=kind == "yolo")
    path: Path = options.annotations
    buckets = Buckets(scratch, path.stat().st_size if path.is_file() else 0)
    for picture in _pictures(kind, options, found):
        key = found.see(picture)
        buckets.add_annotation(key, json.dumps(picture.to_json()))
    unit = options.coordinates or ("fractions" if found.largest <= 1 + yolo.SLACK else "pixels")
    convert = OwnConverter(writer, unit if kind == "csv" else None, options.coordinates is None)
    decision = found.turns.decide()

    def records() -> Iterator[Record]:
        for group in buckets.groups():
            header, claim = found.headers[group.key], found.claims.get(group.key)
            image = str(options.images / group.key)
            yield Record(
                group.key, image, keys_of_file(group.key), (header, claim, decision, group.annotations)
            )

    return Source(records(), convert, options.form, {"format": kind})


def _pictures(kind: str, options: argparse.Namespace, found: _Found) -> Iterator[AnnotatedPicture]:
    path, name = options.annotations, str(options.annotations)
    if kind == "label-studio":
        yield from label_studio.read_tasks(read_array(path), name, options.caption_key)
    elif kind == "voc":
        yield from _voc(path, options.one_based, found)
    elif kind == "yolo":
        names, folder = yolo.find_labels(path, options.images)
        yield from tqdm(yolo.read_labels(folder, yolo.read_names(names)), "labels", delay=2, disable=None)
    else:
        read = tables.read_boxes if kind == "csv" else cvat.read_images
        with open_data(path) as stream:
            yield from read(stream, name, options.caption_key)


def _voc(path: Path, one_based: bool, found: _Found) -> Iterator[AnnotatedPicture]:
    """A file a picture; the folder of the file below `path` is that of the picture below its own."""
    files = sorted(path.rglob("*.xml")) if path.is_dir() else [path]
    root = path if path.is_dir() else path.parent
    by_stem, files_of = PictureFolder(found.folder.root), dict[Path, Path]()
    for file in tqdm(files, "annotations", delay=2, disable=None):
        relative = file.relative_to(root)
        with open(file, "rb") as stream:
            picture = voc.read_annotation(stream, str(relative), one_based)
        base = picture.name.replace("\\", "/").rpartition("/")[2]
        own = relative.with_suffix("").as_posix()
        picture.name = (relative.parent / base).as_posix() if base else own
        image = found.find(picture.name)
        # <filename> is often that of the file which the XML was copied from: then its own name is right.
        if image is None or image.stem != file.stem:
            other = by_stem.find(own)
            if image is not None and other is not None and other != image:
                refuse(
                    picture.place,
                    "one picture",
                    f"<filename> {base!r} and, by the file's own name, {other.name!r}",
                    "correct <filename>",
                )
            if image is None and other is not None:
                image, picture.name = other, own
        if image is not None and files_of.setdefault(image, relative) != relative:
            refuse(picture.place, "a file a picture", f"{image.name!r} in {str(files_of[image])!r}, too")
        yield picture


class _Found:
    """What is known of the pictures of one file, by their path below the folder."""

    def __init__(self, images: Path, skip_missing: bool, exact: bool) -> None:
        self.folder = PictureFolder(images)
        self.turns = Turns()
        self.headers: dict[str, PictureHeader | None] = {}
        self.claims: dict[str, Size] = {}
        self.largest = 0.0
        """Of all corners of boxes."""
        self._images = images
        self._skip_missing, self._exact = skip_missing, exact
        self._by_name: dict[str, Path | None] = {}
        self._there: bool | None = None

    def find(self, name: str) -> Path | None:
        if name not in self._by_name:
            path = self.folder.find(name)
            if path is not None and self._exact:
                # labels/val/a.txt says nothing about images/train/a.jpg.
                parts = Path(name).parts
                path = path if len(path.relative_to(self._images).parts) == len(parts) else None
            self._by_name[name] = path
        return self._by_name[name]

    def _any_there(self) -> bool:
        """Whether the pictures are not all still to come."""
        if self._there is None:
            self._there = holds_pictures(self._images)
        return self._there

    def see(self, picture: AnnotatedPicture) -> str:
        """The picture's path below the folder. Raises InputError: see `open_own_files`."""
        path = self.find(picture.name)
        there = path or self.folder.expected(picture.name)
        key = there.relative_to(self._images).as_posix() if there.is_relative_to(self._images) else str(there)
        if key not in self.headers:
            self.headers[key] = read_header(path) if path is not None else None
        header = self.headers[key]
        lost = header is None and bool(picture.objects) and not self._skip_missing
        if lost and (path is not None or self._any_there()):
            raise InputError.about(
                f"{picture.place}, picture {picture.name!r}",
                f"a picture in {str(self.folder.root)!r}",
                "none of this name" if path is None else "a file that is no picture",
                "check --images, or leave such records out with --skip-missing-pictures",
            )
        for item in picture.objects:
            self.largest = max(self.largest, *map(abs, item.box or (0.0,)))
        if picture.claim and self.claims.setdefault(key, picture.claim) != picture.claim:
            refuse(picture.place, f"one size of {picture.name!r}", "another one than before")
        if header is None:
            return key
        reach = [_reach(item) for item in picture.objects] if picture.unit == "pixels" else []
        self.turns.see(picture.name, header, picture.claim, filter(None, reach))
        return key


def _reach(item: AnnotatedObject) -> tuple[float, float] | None:
    """The largest x and y of an object in pixels."""
    if item.mask is not None:
        left, top, width, height = item.mask[1]
        return left + width, top + height
    corners, ring = item.in_pixels("pixels", (1, 1))
    points = [*(ring or ()), *([corners[2:]] if corners else [])]
    return (max(x for x, _ in points), max(y for _, y in points)) if points else None


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
        header, claim, decision, texts = record.content
        parts = [AnnotatedPicture.from_json(json.loads(text)) for text in texts]
        objects = [(item, self.unit or part.unit) for part in parts for item in part.objects]
        made = Made(regions_read=len(objects))
        if header is None and claim is None:
            made.drop_region(MISSING, len(objects))
            made.dropped = MISSING
            return made
        try:
            placement = place(header or PictureHeader(claim), claim, decision, record.id)
        except InputError as error:
            made.drop_region(ANOTHER_SIZE, len(objects))
            made.dropped = ANOTHER_SIZE
            made.repaired[f"{REFUSED_FIRST}{error}"[:300]] += 1
            return made
        if placement.note:
            made.repaired[placement.note] += 1
        if self.unit == "fractions" and self.told:
            made.repaired[SHARES] += len(objects)
        labelled = (_labelled(item, unit, placement, made) for item, unit in objects)
        return self.writer.write(record, placement.size, [item for item in labelled if item], rng, made)


def _labelled(item: AnnotatedObject, unit: str, placement: Placement, made: Made) -> LabelledObject | None:
    caption = " ".join(item.caption.split())
    label = item.label.strip() or caption
    if item.problem or not label:
        made.drop_region(item.problem or NO_LABEL)
        return None
    if item.mask is not None:
        mask = _mask(item, placement)
        if mask is None:
            made.drop_region(BROKEN_MASK)
            return None
        return LabelledObject(mask.bounds(*placement.size), mask, label, caption)
    corners, ring = item.in_pixels(unit, placement.frame)
    placed = [placement.point(x, y) for x, y in ring or ()]
    if corners is not None:
        if unit == "pixels" and max(corners) <= 1:
            made.drop_region(LIKE_FRACTIONS)
            return None
        if item.box and (item.box[0] > item.box[2] or item.box[1] > item.box[3]):
            made.repaired[TURNED] += 1
        corners = placement.box(*corners)
    elif placed:
        xs, ys = [x for x, _ in placed], [y for _, y in placed]
        corners = min(xs), min(ys), max(xs), max(ys)
    box = geometry.xyxy_box(corners, *placement.size, made)
    if box is None:
        return None
    polygon = _polygon(placed, placement.size) if placed else None
    if placed and polygon is None:
        made.repaired[BOX_INSTEAD] += 1
    return LabelledObject(box, polygon, label, caption)


def _mask(item: AnnotatedObject, placement: Placement) -> RLE | None:
    mask = window_mask(*item.mask, placement.frame) if item.mask is not None else None
    if mask is None:
        return None
    try:
        return RLE.from_mask(placement.region(mask).to_mask(*placement.size))
    except InputError:  # scaled to nothing
        return None


def _polygon(points: list[tuple[float, float]], size: Size) -> Polygon | None:
    try:
        polygon = Polygon(points)
        polygon.check_inside(*size)
    except InputError:
        return None
    return polygon

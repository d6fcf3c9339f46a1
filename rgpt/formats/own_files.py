"""People's own files in other forms than COCO's: tables, Label Studio, CVAT, Pascal VOC, YOLO.

The readers of this package give pictures as a file has them, one by one. Here the pictures are found, what
belongs to one is brought together, and its objects become regions of the upright picture. All of a file is
read before the first picture is given, so that whatever cannot be read is refused before any work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from rgpt.errors import InputError
from rgpt.formats import cvat, label_studio, tables, voc, yolo
from rgpt.formats.annotated import AnnotatedObject, AnnotatedPicture, refuse, window_mask
from rgpt.formats.coco import (
    BOX_INSTEAD,
    LIKE_FRACTIONS,
    NO_NUMBERS,
    TURNED,
    CocoRegion,
    cut_box,
    four_numbers,
)
from rgpt.formats.grouping import Buckets
from rgpt.formats.json_stream import open_data, read_array
from rgpt.formats.paths import PictureFolder, holds_pictures
from rgpt.formats.size_claims import (
    Decision,
    PictureHeader,
    Placement,
    Size,
    Turns,
    place,
    read_header,
)
from rgpt.regions import RLE, Polygon

FORMATS = ("csv", "label-studio", "cvat", "voc", "yolo")
BROKEN_MASK = "mask that cannot be read"


def format_of(path: Path) -> str:
    """One of FORMATS: by a file's ending, then its beginning; by what a folder holds. Raises InputError."""
    if path.is_dir():
        if next(path.rglob("*.xml"), None):
            return "voc"
        if next(path.rglob("*.txt"), None):
            return "yolo"
        raise InputError.about(
            f"annotations {str(path)!r}", "a folder of VOC's .xml or YOLO's .txt", "neither in it"
        )
    endings = [suffix for suffix in path.suffixes if suffix not in (".gz", ".zip")]
    ending = endings[-1].lower() if endings else ""
    if ending in (".csv", ".tsv"):
        return "csv"
    if ending in (".yaml", ".yml") or path.name in yolo.LISTS_OF_NAMES:
        return "yolo"
    if ending in (".json", ".xml"):
        with open_data(path) as stream:
            begins = stream.read(4096).replace(b"\0", b"").decode("utf-8-sig", "ignore").lstrip()
        if ending == ".xml":
            return "voc" if re.search(r"<annotation[\s>]", begins) else "cvat"
        if begins[:1] in ("[", "{"):
            return "label-studio" if begins[:1] == "[" else "coco"
    raise InputError.about(
        f"annotations {str(path)!r}",
        "a .csv, .xml or .json file",
        f"the ending {ending!r}" if ending != ".json" else "JSON that is neither list nor object",
        "name the format with --format",
    )


class OwnRecord(NamedTuple):
    """A picture and what a file says of it.

    Args:
        key: the picture's path below the folder.
        header: None where the picture is not there.
        claim: the size that the file says it has.
        texts: of `AnnotatedPicture`s, as JSON.
    """

    key: str
    header: PictureHeader | None
    claim: Size | None
    decision: Decision
    texts: list[str]

    def objects(self) -> list[tuple[AnnotatedObject, str]]:
        """Its objects, each with the unit of its numbers."""
        parts = [AnnotatedPicture.from_json(json.loads(text)) for text in self.texts]
        return [(item, part.unit) for part in parts for item in part.objects]

    def placement(self) -> Placement | None:
        """How its objects lie on it; None where nobody knows its size. Raises InputError: it has another."""
        header = self.header or (PictureHeader(self.claim) if self.claim else None)
        return place(header, self.claim, self.decision, self.key) if header else None


class OwnFile:
    """A file or folder in one of FORMATS, read once and waiting on disk.

    Args:
        scratch: an existing folder; the caller removes it.
        images: folder of the pictures.
        skip_missing: keep pictures that are not there, without a header.
        one_based: VOC's first pixel is number 1.

    Attributes:
        largest: of all corners of boxes: a table whose numbers are all below 1 holds fractions.

    Raises:
        InputError: the folder of pictures is missing, the file cannot be read, or a picture is not found or
            named by two.
    """

    def __init__(
        self,
        kind: str,
        path: Path,
        images: Path,
        scratch: Path,
        *,
        skip_missing: bool = False,
        caption_key: str | None = None,
        one_based: bool = False,
    ) -> None:
        found = _Found(images, skip_missing, exact=kind == "yolo")
        self._buckets = Buckets(scratch, path.stat().st_size if path.is_file() else 0)
        for picture in _pictures(kind, path, images, found, caption_key, one_based):
            self._buckets.add_annotation(found.see(picture), json.dumps(picture.to_json()))
        self._found, self._decision, self.largest = found, found.turns.decide(), found.largest

    def records(self) -> Iterator[OwnRecord]:
        """Every picture once, with all that is said of it; as often as needed."""
        for group in self._buckets.groups():
            header, claim = self._found.headers[group.key], self._found.claims.get(group.key)
            yield OwnRecord(group.key, header, claim, self._decision, group.annotations)


def _pictures(
    kind: str, path: Path, images: Path, found: _Found, caption_key: str | None, one_based: bool
) -> Iterator[AnnotatedPicture]:
    name = str(path)
    if kind == "label-studio":
        yield from label_studio.read_tasks(read_array(path), name, caption_key)
    elif kind == "voc":
        yield from _voc(path, one_based, found)
    elif kind == "yolo":
        names, folder = yolo.find_labels(path, images)
        yield from tqdm(yolo.read_labels(folder, yolo.read_names(names)), "labels", delay=2, disable=None)
    else:
        read = tables.read_boxes if kind == "csv" else cvat.read_images
        with open_data(path) as stream:
            yield from read(stream, name, caption_key)


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


def region_of(item: AnnotatedObject, unit: str, placement: Placement) -> CocoRegion:
    """An object's region on the upright picture. Where there is none, `problem` says why."""
    if item.problem:
        return CocoRegion(problem=item.problem)
    if item.mask is not None:
        mask = _mask(item, placement)
        return (
            CocoRegion(problem=BROKEN_MASK)
            if mask is None
            else CocoRegion(mask.bounds(*placement.size), mask)
        )
    corners, ring = item.in_pixels(unit, placement.frame)
    placed = [placement.point(x, y) for x, y in ring or ()]
    mended: list[str] = []
    if corners is not None:
        if unit == "pixels" and max(corners) <= 1:
            return CocoRegion(problem=LIKE_FRACTIONS)
        if item.box and (item.box[0] > item.box[2] or item.box[1] > item.box[3]):
            mended.append(TURNED)
        corners = placement.box(*corners)
    elif placed:
        xs, ys = [x for x, _ in placed], [y for _, y in placed]
        corners = min(xs), min(ys), max(xs), max(ys)
    numbers = four_numbers(corners)
    if numbers is None:
        return CocoRegion(problem=NO_NUMBERS, mended=tuple(mended))
    box, problem, own = cut_box(numbers, placement.size)
    mended += own
    polygon = _polygon(placed, placement.size) if placed and box is not None else None
    if placed and box is not None and polygon is None:
        mended.append(BOX_INSTEAD)
    return CocoRegion(box, polygon, problem, tuple(mended))


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

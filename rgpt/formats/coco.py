"""COCO's layout, of any size: pictures, annotations and categories in one JSON object.

What many programs write as COCO is nearly COCO. Read as meant, and counted: ids as 7, 7.0 or "7"; sizes as
100, 100.0, "100" or not at all; boxes as shares of the picture (if all of a file's are), with negative
extents, or empty beside a good outline; outlines as a flat ring, a ring of pairs, a run-length mask in a
list. Refused: one id for two files or two names, for then nobody knows what belongs to what.

Annotations stand in any order, so `CocoFile` deals them into buckets on disk, a picture's together. It reads
pictures' headers before it gives the first picture, because how boxes lie on EXIF-turned pictures is a
property of the file (`rgpt.formats.size_claims`).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rgpt.errors import InputError
from rgpt.formats.grouping import Buckets, Group
from rgpt.formats.json_stream import read_members
from rgpt.formats.paths import PictureFolder, readings
from rgpt.formats.size_claims import (
    ANOTHER_SIZE,
    PictureHeader,
    Placement,
    Size,
    Turns,
    claimed_size,
    place,
    read_header,
)
from rgpt.regions import RLE, Box, Mask, Polygon

NO_PICTURE = "annotation of a picture that is not in the file"
NO_SIZE = "picture without a size"
NO_NAME = "picture without a file name"
UNREADABLE = "picture file cannot be read"
LISTS = ("images", "annotations", "categories")
Corners = tuple[float, float, float, float]

NO_NUMBERS = "box is not four numbers"
NO_EXTENT = "box without extent"
OUTSIDE = "box outside the picture"
LIKE_FRACTIONS = "box within the first pixel, as if in fractions"
CUT = "box cut at the border"
TURNED = "box with corners exchanged"
SHARES = "box in shares of the picture, as all of the file's"
BOX_INSTEAD = "unusable segmentation, box used"
MASK_INSTEAD = "unusable box, that of the segmentation used"

_NUMBER = re.compile(r"\s*(-?(?:0|[1-9]\d*))(?:\.0+)?\s*", re.ASCII)


# ------------------------------------------------------------------------------------------------- ids, flags


def id_key(value: Any) -> str | None:
    """The one spelling of an id: 7, 7.0, "7" and "7.0" are "7"; None for what is no id.

    Other texts stay as they are: "007" is another id than "7".
    """
    if isinstance(value, str):
        number = _NUMBER.fullmatch(value)
        return number.group(1) if number else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return str(value) if math.isfinite(value) else None
    try:
        return str(int(value))
    except ValueError:  # thousands of digits
        return None


_CROWD = {"": 0, "0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """COCO's `iscrowd`, written as 1, 1.0, true or "1"."""
    flag = annotation.get("iscrowd")
    return flag.strip().lower() not in ("", "0", "0.0", "false") if isinstance(flag, str) else bool(flag)


# ------------------------------------------------------------------------------------------------- geometry


def four_numbers(values: Any) -> Corners | None:
    """A box's numbers, as numbers or as texts of them; None where they are not four finite ones."""
    if not isinstance(values, list | tuple) or len(values) != 4:
        return None
    try:
        x, y, w, h = (math.nan if isinstance(value, bool) else float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        return None
    return (x, y, w, h) if math.isfinite(x + w) and math.isfinite(y + h) else None


def corners_of(bbox: Any) -> Corners | None:
    """Two opposite corners (x1, y1, x2, y2) of COCO's [x, y, w, h], no pixel added."""
    numbers = four_numbers(bbox)
    return (numbers[0], numbers[1], numbers[0] + numbers[2], numbers[1] + numbers[3]) if numbers else None


def cut_box(corners: Corners, size: Size) -> tuple[Box | None, str, list[str]]:
    """The box between two opposite corners, cut to a picture of `size`; (box, why there is none, mended)."""
    (x1, x2), (y1, y2) = sorted(corners[0::2]), sorted(corners[1::2])
    height, width = size
    mended = [TURNED] if (x1, y1) != corners[:2] else []
    if x1 == x2 or y1 == y2:
        return None, NO_EXTENT, []
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return None, OUTSIDE, []
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        mended.append(CUT)
    return Box(max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)), "", mended


class Outline(NamedTuple):
    """A segmentation: flat rings [x1, y1, x2, y2, …] of at least three points, or run-length masks."""

    rings: list[list[float]]
    runs: list[Mapping[str, Any]]


def outline_of(segmentation: Any) -> Outline | None:
    """COCO's spellings and those taken for them; None where nothing can be used.

    Rings [[x1, y1, …], …], one flat ring, pairs [[x, y], …] or several such lists; {"size", "counts"}, alone
    or in a list. A ring of two points is left out: pycocotools would read its four numbers as a box.
    """
    if isinstance(segmentation, Mapping):
        segmentation = [segmentation]
    if not isinstance(segmentation, list) or not segmentation:
        return None
    if _is_ring(segmentation):
        segmentation = [segmentation]
    rings: list[list[float]] = []
    runs: list[Mapping[str, Any]] = []
    for part in segmentation:
        if isinstance(part, Mapping):
            runs.append(part)
        elif isinstance(part, list):
            if part and all(isinstance(point, list) and len(point) == 2 for point in part):
                part = [number for point in part for number in point]
            if len(part) >= 6:
                rings.append(part)
    # Half of an outline is another outline.
    return Outline(rings, runs) if bool(rings) != bool(runs) else None


def _is_ring(values: list[Any]) -> bool:
    """Whether a list is one ring itself, of numbers or of at least three pairs of them."""
    if all(_is_number(value) for value in values):
        return True
    pairs = all(
        isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) for value in values
    )
    return pairs and len(values) >= 3


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Fractions:
    """Whether a file's boxes, and its outlines, are shares of the picture: all lie between 0 and 1."""

    def __init__(self) -> None:
        self._seen = {"box": False, "outline": False}
        self._above = {"box": False, "outline": False}

    def see(self, annotation: Mapping[str, Any]) -> None:
        """Take an annotation into account; empty boxes say nothing."""
        numbers = four_numbers(annotation.get("bbox"))
        if numbers and any(numbers[2:]):
            self._count("box", (*numbers[:2], *map(abs, numbers[2:])))
        outline = outline_of(annotation.get("segmentation"))
        for ring in outline.rings if outline else ():
            if all(map(_is_number, ring)):
                self._count("outline", ring)

    def _count(self, kind: str, numbers: Sequence[float]) -> None:
        self._seen[kind] = True
        self._above[kind] |= min(numbers) < 0 or max(numbers) > 1

    @property
    def boxes(self) -> bool:
        return self._seen["box"] and not self._above["box"]

    @property
    def outlines(self) -> bool:
        return self._seen["outline"] and not self._above["outline"]


class CocoRegion(NamedTuple):
    """An annotation's geometry on the upright picture: its box, cut to it, and its outline, if any.

    `problem` says why there is no box; `mended` what was read as meant.
    """

    box: Box | None = None
    mask: Polygon | RLE | None = None
    problem: str = ""
    mended: tuple[str, ...] = ()


class Geometry(NamedTuple):
    """How all of a file's geometry is written."""

    box_fractions: bool = False
    outline_fractions: bool = False

    def read(self, annotation: Mapping[str, Any], placement: Placement) -> CocoRegion:
        """The region of an annotation whose picture lies as `placement` says."""
        mended: list[str] = []
        segmentation = annotation.get("segmentation")
        mask = self._mask(segmentation, placement)
        box, problem = self._box(annotation.get("bbox"), placement, mended)
        if box is None and mask is not None:
            said = annotation.get("bbox")  # none at all is no mistake
            return CocoRegion(mask.bounds(*placement.size), mask, mended=(MASK_INSTEAD,) if said else ())
        if box is None:
            return CocoRegion(problem=problem)
        if segmentation and mask is None:
            mended.append(BOX_INSTEAD)
        return CocoRegion(box, mask, mended=tuple(mended))

    def reach(
        self, annotation: Mapping[str, Any], frame: Size
    ) -> tuple[list[tuple[float, float]], list[Size]]:
        """For `Turns.see`: the largest (x, y) of box and rings in the frame, and the sizes of masks."""
        found: list[tuple[float, float]] = []
        if corners := corners_of(annotation.get("bbox")):
            x1, y1, x2, y2 = _scaled(corners, frame, self.box_fractions)
            found.append((max(x1, x2), max(y1, y2)))
        outline = outline_of(annotation.get("segmentation")) or Outline([], [])
        for ring in outline.rings:
            if all(map(_is_number, ring)):
                ring = _scaled(ring, frame, self.outline_fractions)
                found.append((max(ring[0::2]), max(ring[1::2])))
        sizes = [run.get("size") for run in outline.runs]
        return found, [(size[0], size[1]) for size in sizes if isinstance(size, list) and len(size) == 2]

    def _box(self, bbox: Any, placement: Placement, mended: list[str]) -> tuple[Box | None, str]:
        corners = corners_of(bbox)
        if corners is None:
            return None, NO_NUMBERS
        if not self.box_fractions and max(corners) <= 1 and min(corners) >= 0 and any(corners):
            return None, LIKE_FRACTIONS
        x1, y1, x2, y2 = _scaled(corners, placement.frame, self.box_fractions)
        if x1 > x2 or y1 > y2:
            mended.append(TURNED)
        ordered = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        if self.box_fractions:
            mended.append(SHARES)
        box, problem, own = cut_box(placement.box(*ordered), placement.size)
        mended += own
        return box, problem

    def _mask(self, segmentation: Any, placement: Placement) -> Polygon | RLE | None:
        outline = outline_of(segmentation)
        if outline is None:
            return None
        try:
            region: Polygon | RLE
            if outline.rings:
                region = Polygon.from_coco(
                    [_scaled(ring, placement.frame, self.outline_fractions) for ring in outline.rings]
                )
            else:
                region = union_mask(
                    [RLE(run["size"], run["counts"]) for run in outline.runs], *placement.frame
                )
            moved = placement.region(region)
            moved.check_inside(*placement.size)
        except (InputError, KeyError, TypeError, ValueError, OverflowError):
            return None
        assert not isinstance(moved, Box)
        return moved


def _scaled(numbers: Sequence[float], frame: Size, fractions: bool) -> Any:
    """x and y in turn, in pixels."""
    return [value * frame[1 - i % 2] for i, value in enumerate(numbers)] if fractions else numbers


def union_mask(regions: Sequence[Polygon | RLE], height: int, width: int) -> RLE:
    """One mask of several regions; a single RLE as it is."""
    if len(regions) == 1 and isinstance(regions[0], RLE):
        regions[0].check_inside(height, width)
        return regions[0]
    mask = regions[0].to_mask(height, width)
    for region in regions[1:]:
        mask = mask | region.to_mask(height, width)
    return Mask(mask).to_rle()


# ------------------------------------------------------------------------------------------------------ files


def file_name_of(picture: Mapping[str, Any]) -> str:
    return str(picture.get("file_name") or "")


def file_of_coco_url(picture: Mapping[str, Any]) -> str:
    """LVIS: v1 has no file_name and v0.5 one of another split, but the address is right in both."""
    parts = str(picture.get("coco_url") or "").split("/")
    return "/".join(parts[-2:]) if len(parts) > 1 else file_name_of(picture)


class CocoPicture(NamedTuple):
    """A picture and the JSON texts of its annotations, in the file's order.

    Args:
        key: its id, as `id_key` spells it.
        entry: its own object in the file; empty where the file has none.
        path: where it lies, or would; None where it has no name.
        placement: how its annotations' geometry lies on it; None where `problem` says why not.
    """

    key: str
    entry: dict[str, Any]
    path: Path | None
    annotations: list[str]
    placement: Placement | None
    problem: str = ""


class CocoFile:
    """A file in COCO's layout, read once: names by category, and everything else waiting on disk.

    Args:
        scratch: an existing folder; the caller removes it.
        images: folder of the pictures.
        name_of: reads a picture's file name from its entry.
        keep: says by a picture's `id_key` whether it and its annotations are wanted.
        lists: which of the three there are; annotations of captions have no categories.
        sizes: whether annotations have geometry, for which pictures' headers are read.

    Raises:
        InputError: the file is missing, no JSON, lacks one of the lists; an entry lacks its id; a category
            id has two names. `pictures` raises it where one id or one file stands for two pictures, and where
            turned pictures contradict each other.
    """

    def __init__(
        self,
        path: Path,
        scratch: Path,
        images: Path,
        name_of: Callable[[dict[str, Any]], str] = file_name_of,
        keep: Callable[[str], bool] = lambda key: True,
        lists: Sequence[str] = LISTS,
        sizes: bool = True,
    ) -> None:
        self.path, self.folder, self.name_of, self.sizes = path, PictureFolder(images), name_of, sizes
        self.names: dict[str, str] = {}
        folder = scratch / f"{path.name}.parts"
        folder.mkdir()
        self._buckets = Buckets(folder, path.stat().st_size if path.is_file() else 0)
        fractions, rows = Fractions(), Counter[str]()
        for member, value, text in read_members(path, lists):
            rows[member] += 1
            row = f"file {str(path)!r}, {member} {rows[member]}"
            if not isinstance(value, dict):
                raise InputError.about(row, "an object", text[:80], "check that it is in COCO's layout")
            if member == "annotations":
                key = self._id(value, "image_id", row)
                if keep(key):
                    self._buckets.add_annotation(key, text)
                    if sizes:
                        fractions.see(value)
            elif member == "images":
                if keep(key := self._id(value, "id", row)):
                    self._buckets.add_picture(key, text)
            else:
                self._name(self._id(value, "id", row), value, row)
        self.geometry = Geometry(fractions.boxes, fractions.outlines)
        self.facts: dict[str, Any] = name_facts(self.names) if "categories" in lists else {}

    def _id(self, value: dict[str, Any], field: str, row: str) -> str:
        key = id_key(value.get(field))
        if key is None or not key.isprintable():
            actual = "nothing" if field not in value else json.dumps(value[field])[:40]
            raise InputError.about(
                f"{row}, {field}", "a number or a text", actual, "check that it is in COCO's layout"
            )
        return key

    def _name(self, key: str, value: dict[str, Any], row: str) -> None:
        if "name" not in value:
            raise InputError.about(f"{row}, name", "a text", "nothing", "check that it is in COCO's layout")
        name = str(value["name"])
        if self.names.setdefault(key, name) != name:
            raise InputError.about(
                f"{row}, id",
                "another id for another name",
                f"{key}, which is {self.names[key]!r}",
                "renumber them",
            )

    def name(self, category_id: Any) -> str | None:
        """The name of an annotation's category, None for an unknown one."""
        return self.names.get(id_key(category_id) or "")

    def pictures(self) -> Iterator[CocoPicture]:
        """Every picture once, with its annotations; annotations of unknown pictures come without an entry.

        Memory does not grow with the file, but for a few bytes a picture.
        """
        headers, turns = self._scan()
        decision = turns.decide()
        for group in self._buckets.groups():
            entry = json.loads(group.pictures[0]) if group.pictures else {}
            name = self.name_of(entry)
            found = self.folder.find(name) if name else None
            path = found or (self.folder.expected(name) if name else None)
            problem = "" if name else NO_NAME if entry else NO_PICTURE
            placement = None
            if not problem and self.sizes:
                claim = claimed_size(entry.get("height"), entry.get("width"))
                header = headers.get(group.key)
                try:
                    if header:
                        placement = place(header, claim, decision, name)
                    elif group.key in headers:
                        problem = UNREADABLE
                    elif claim:
                        placement = Placement(claim, claim)
                    else:
                        problem = NO_SIZE
                except InputError:
                    problem = ANOTHER_SIZE
            yield CocoPicture(group.key, entry, path, group.annotations, placement, problem)

    def _scan(self) -> tuple[dict[str, PictureHeader | None], Turns]:
        """Headers of the pictures that are not simply of the size that the file claims (None: unreadable),
        and what turned ones show. Raises InputError where pictures cannot be told apart."""
        headers: dict[str, PictureHeader | None] = {}
        turns = Turns()
        repeated = 0
        for group in self._buckets.groups("headers"):
            if not group.pictures:
                continue
            entry = json.loads(group.pictures[0])
            name = self.name_of(entry)
            self._check_repeated(group, name)
            repeated += len(group.pictures) - 1
            found = self.folder.find(name) if name else None
            if not found or not self.sizes:
                continue
            header, claim = read_header(found), claimed_size(entry.get("height"), entry.get("width"))
            if header is None or header.orientation != 1 or header.upright != claim:
                headers[group.key] = header
            if header and header.sideways:
                frame = claim or header.stored
                for text in group.annotations:
                    turns.see(name, header, claim, *self.geometry.reach(json.loads(text), frame))
                if not group.annotations:
                    turns.see(name, header, claim)
        self.facts["pictures listed twice"] = repeated
        return headers, turns

    def _check_repeated(self, group: Group, name: str) -> None:
        for text in group.pictures[1:]:
            other = self.name_of(json.loads(text))
            if readings(other)[:1] != readings(name)[:1]:
                raise InputError.about(
                    f"file {str(self.path)!r}, image id {group.key}",
                    "one picture of this id",
                    f"{name!r} and {other!r}",
                    "renumber the pictures of the files that were joined",
                )


def name_facts(names: Mapping[str, str]) -> dict[str, Any]:
    """How many names there are, and how many categories share one (V3Det has a few dozen)."""
    counts = Counter(" ".join(str(name).replace("_", " ").split()).lower() for name in names.values())
    return {"categories": len(names), "different names": len(counts)}


# ------------------------------------------------------------------------------------- whole files, in memory


def as_meant(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A parsed instances file in COCO's own spelling, for evaluators that know no other.

    Ids of pictures and categories as the entries themselves write them, but 7.0 as 7; sizes as whole numbers;
    boxes in pixels with positive extents (from the mask where they are empty); segmentations as rings or one
    run-length mask; `iscrowd` as 0 or 1. Entries that are right stay the same objects; what cannot be read
    stays as it is, for the reader to refuse.

    Args:
        name: of the file, for the message.

    Raises:
        InputError: two spellings of one id.
    """
    if not all(isinstance(value[key], list) for key in LISTS):
        return dict(value)
    geometry = geometry_of(value)
    value = {**value, **{key: [_with_plain_id(e) for e in value[key]] for key in LISTS}}
    images = [_with_plain_size(image) for image in value["images"]]
    speller = _Speller(
        {key: _own_ids(value[key], f"{name}, {key}") for key in ("images", "categories")},
        {id_key(i.get("id")): size_of(i) for i in images if isinstance(i, Mapping)},
        geometry,
    )
    annotations = [speller.spell(a) if isinstance(a, Mapping) else a for a in value["annotations"]]
    return {**value, "images": images, "annotations": annotations}


def geometry_of(value: Mapping[str, Any]) -> Geometry:
    """How a parsed file writes its geometry."""
    fractions = Fractions()
    for annotation in value["annotations"]:
        if isinstance(annotation, Mapping):
            fractions.see(annotation)
    return Geometry(fractions.boxes, fractions.outlines)


def size_of(picture: Mapping[str, Any]) -> Size | None:
    """The (height, width) that a picture's entry claims."""
    return claimed_size(picture.get("height"), picture.get("width"))


def _with_plain_id(entry: Any) -> Any:
    id_ = entry.get("id") if isinstance(entry, Mapping) else None
    return {**entry, "id": int(id_)} if isinstance(id_, float) and id_.is_integer() else entry


def _with_plain_size(image: Any) -> Any:
    size = size_of(image) if isinstance(image, Mapping) else None
    if size is None or (type(image["height"]) is int and type(image["width"]) is int):
        return image
    return {**image, "height": size[0], "width": size[1]}


def _own_ids(listed: list[Any], thing: str) -> dict[str | None, Any]:
    """The ids that a list's entries have, by `id_key`."""
    own: dict[str | None, Any] = {}
    for entry in listed:
        key = id_key(entry.get("id")) if isinstance(entry, Mapping) else None
        if key is not None and type(own.setdefault(key, entry["id"])) is not type(entry["id"]):
            raise InputError.about(thing, "every id once", f"{own[key]!r} and {entry['id']!r}")
    return own


class _Speller(NamedTuple):
    own: Mapping[str, Mapping[str | None, Any]]
    sizes: Mapping[str | None, Size | None]
    geometry: Geometry

    def spell(self, annotation: Mapping[str, Any]) -> Mapping[str, Any]:
        changes: dict[str, Any] = {}
        for field, listed in (("image_id", "images"), ("category_id", "categories")):
            found = self.own[listed].get(id_key(annotation.get(field)))
            if found is not None and type(found) is not type(annotation[field]):
                changes[field] = found
        flag = _CROWD.get(str(annotation.get("iscrowd", 0)).strip().lower())
        if flag is not None and annotation.get("iscrowd", 0) != flag:
            changes["iscrowd"] = flag  # what is no spelling of it stays, and is refused where it counts
        size = self.sizes.get(id_key(annotation.get("image_id")))
        if size is not None:
            self._outline(annotation.get("segmentation"), size, changes)
        self._box(annotation, size, changes)
        return {**annotation, **changes} if changes else annotation

    def _read(self, segmentation: Any, size: Size) -> Polygon | RLE | None:
        return self.geometry.read({"segmentation": segmentation}, Placement(size, size)).mask

    def _outline(self, segmentation: Any, size: Size, changes: dict[str, Any]) -> None:
        """Rings as pycocotools reads them, masks as one."""
        if not isinstance(segmentation, list) or not segmentation:
            return
        usual = all(isinstance(ring, list) and len(ring) > 2 and _is_number(ring[0]) for ring in segmentation)
        if (not usual or self.geometry.outline_fractions) and (mask := self._read(segmentation, size)):
            changes["segmentation"] = as_segmentation(mask)

    def _box(self, annotation: Mapping[str, Any], size: Size | None, changes: dict[str, Any]) -> None:
        bbox: Any = annotation.get("bbox")
        corners = corners_of(bbox)
        if corners is None:
            return
        (x1, x2), (y1, y2) = sorted(corners[0::2]), sorted(corners[1::2])
        if size and self.geometry.box_fractions:
            x1, y1, x2, y2 = _scaled((x1, y1, x2, y2), size, True)
            changes["area"] = (x2 - x1) * (y2 - y1)
        if (x1 == x2 or y1 == y2) and size and (mask := self._read(annotation.get("segmentation"), size)):
            x1, y1, x2, y2 = mask.bounds(*size).xyxy
        if corners != (x1, y1, x2, y2) or any(isinstance(number, str) for number in bbox):
            changes["bbox"] = [x1, y1, x2 - x1, y2 - y1]


def as_segmentation(region: Polygon | RLE) -> Any:
    """As COCO writes it."""
    if isinstance(region, RLE):
        return region.to_json()["mask"]
    return [[number for point in ring for number in point] for ring in region.rings]


def on_pictures(value: Any, folder: PictureFolder, name: str) -> Any:
    """A parsed instances file with sizes and geometry of the upright pictures in `folder`.

    The same object where every claimed size is the picture's, or no picture is there.

    Raises:
        InputError: a picture is not the one that was annotated, or turned pictures contradict each other.
    """
    if not isinstance(value, Mapping) or not all(isinstance(value.get(key), list) for key in LISTS):
        return value
    headers = {}
    for image in value["images"]:
        if isinstance(image, Mapping) and (path := find_picture(folder, image)):
            header = read_header(path)
            if header and (header.orientation != 1 or header.upright != size_of(image)):
                headers[id_key(image.get("id"))] = header
    if not headers:
        return value
    if not all(isinstance(entry, Mapping) for key in LISTS for entry in value[key]):
        return value  # for the reader to refuse
    claimed = [
        {**i, "height": headers[key].upright[0], "width": headers[key].upright[1]}
        if (key := id_key(i.get("id"))) in headers and size_of(i) is None
        else i
        for i in value["images"]
    ]
    value = as_meant({**value, "images": claimed}, name)
    claims = {key: size_of(i) for i in claimed if (key := id_key(i.get("id"))) in headers}
    names = {id_key(i.get("id")): file_name_of(i) for i in claimed}
    turns, plain = Turns(), Geometry()
    for key, header in headers.items():
        turns.see(names[key], header, claims[key])
    for annotation in value["annotations"]:
        key = id_key(annotation.get("image_id"))
        if key in headers and (claim := claims[key]):
            turns.see(names[key], headers[key], claim, *plain.reach(annotation, claim))
    decision = turns.decide()
    placements = {key: place(header, claims[key], decision, names[key]) for key, header in headers.items()}
    images = [
        {**i, "height": placements[key].size[0], "width": placements[key].size[1]}
        if (key := id_key(i.get("id"))) in placements
        else i
        for i in value["images"]
    ]
    annotations = [_placed(a, placements.get(id_key(a.get("image_id")))) for a in value["annotations"]]
    return {**value, "images": images, "annotations": annotations}


def _placed(annotation: Mapping[str, Any], placement: Placement | None) -> Mapping[str, Any]:
    corners = corners_of(annotation.get("bbox"))
    if placement is None or placement.unchanged or corners is None:
        return annotation
    x1, y1, x2, y2 = placement.box(*corners)
    scale = placement.size[0] * placement.size[1] / (placement.frame[0] * placement.frame[1])
    changes: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1]}
    if _is_number(annotation.get("area")):
        changes["area"] = annotation["area"] * scale
    mask = Geometry().read({"segmentation": annotation.get("segmentation")}, placement).mask
    if mask is not None:
        changes["segmentation"] = as_segmentation(mask)
    return {**annotation, **changes}


def find_picture(folder: PictureFolder, picture: Mapping[str, Any]) -> Path | None:
    """The file of a COCO or LVIS picture: by `file_name`, by `coco_url` (LVIS v1 has no other) or number."""
    for name in picture_names(picture):
        if found := folder.find(name):
            return found
    return None


def picture_names(picture: Mapping[str, Any]) -> list[str]:
    """The names a picture's file may have, likeliest first."""
    names = [file_name_of(picture), file_of_coco_url(picture)]
    key = id_key(picture.get("id")) or ""
    if not any(names) and key.isdecimal():
        names.append(f"{int(key):012d}.jpg")
    return list(dict.fromkeys(filter(None, names)))

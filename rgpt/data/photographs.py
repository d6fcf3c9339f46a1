"""Folders of photographs in COCO's layout: `instances*.json`, `captions*.json` and `images/`.

One reader for training and evaluation, with the split that keeps the two apart: a photograph is held out by
its number alone (`is_held_out`), so that no list has to be shipped and no run can mix them up.

Coordinates are pixels of the upright picture, x right, y down.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.files import sha256
from rgpt.formats.coco import CocoFile, CocoPicture, id_key, is_crowd
from rgpt.formats.json_stream import read_members
from rgpt.formats.size_claims import Placement
from rgpt.regions import RLE, Box, Polygon

SPLITS = ("train", "held_out", "all")
HELD_OUT_SHARE = 0.125
VOCABULARY = "COCO-80"
"""What the guide sentence calls COCO's list of names."""


@dataclass(frozen=True)
class PhotoObject:
    """One annotated object.

    Args:
        id: of the annotation; unique in the folder.
        name: the class name as the file writes it, e.g. "traffic light".
        region: the outline (Polygon or RLE) where the file has one, else `box`.
        box: cut to the picture.
        crowd: the box holds a heap of such things, not one.
    """

    id: int
    name: str
    region: Box | Polygon | RLE
    box: Box
    crowd: bool = False


@dataclass(frozen=True)
class Photograph:
    """A picture with its objects, in the file's order, its captions (perhaps none), and why objects were left
    out."""

    id: int
    path: Path
    width: int
    height: int
    objects: tuple[PhotoObject, ...]
    captions: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def crowded(self) -> frozenset[str]:
        """Classes of which there is a crowd: how many there are cannot be told."""
        return frozenset(item.name for item in self.objects if item.crowd)

    @property
    def singles(self) -> tuple[PhotoObject, ...]:
        """The objects that are no crowds."""
        return tuple(item for item in self.objects if not item.crowd)


def is_held_out(photograph_id: int) -> bool:
    """Whether the photograph of this number is kept for evaluation: an eighth, by a hash of the number."""
    return int(sha256(f"rgpt photograph {photograph_id}")[:16], 16) < HELD_OUT_SHARE * 2**64


def of_split(photographs: Iterable[Photograph], split: str) -> list[Photograph]:
    """Those of "train" or "held_out", or "all". Raises InputError for another name."""
    if split not in SPLITS:
        raise InputError.about("split", f"one of {', '.join(SPLITS)}", split)
    return [item for item in photographs if split == "all" or is_held_out(item.id) == (split == "held_out")]


def class_counts(photographs: Iterable[Photograph]) -> Counter[str]:
    """How many objects of each class there are, without crowds."""
    return Counter(item.name for photograph in photographs for item in photograph.singles)


def annotation_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folder's `instances*.json` (at least one) and `captions*.json`. Raises InputError."""
    folder = Path(folder)
    instances = sorted(folder.glob("instances*.json"))
    if not instances or not (folder / "images").is_dir():
        raise InputError.about(
            f"photographs {str(folder)!r}",
            "a folder with instances*.json and images/",
            ("no such folder" if not folder.is_dir() else ", ".join(_listing(folder)) or "nothing in it"),
            "name the folder that holds both",
        )
    return instances, sorted(folder.glob("captions*.json"))


def read_photographs(folder: Path | str, split: str = "all") -> list[Photograph]:
    """The photographs of a COCO-like folder, in the order of their numbers.

    Photographs without objects or captions are among them; of pictures the headers are read. Objects that are
    no regions (without extent, outside) are left out and named in `dropped`.

    Raises:
        InputError: the folder lacks `instances*.json` or `images/`, a file is not in COCO's layout, or a
            picture is not the one that was annotated.
    """
    instances, captions = annotation_files(Path(folder))
    return read_annotations(instances, captions, Path(folder) / "images", split)


def read_annotations(
    instances: Sequence[Path],
    captions: Sequence[Path],
    images: Path,
    split: str = "all",
    unusable: list[CocoPicture] | None = None,
) -> list[Photograph]:
    """As `read_photographs`, from files that are named one by one.

    Args:
        unusable: receives pictures that do not fit the file; None: they are refused.
    """
    folder = _Folder()
    for path in instances:
        with tempfile.TemporaryDirectory() as scratch:
            file = CocoFile(path, Path(scratch), images)
            for picture in file.pictures():
                if picture.placement is not None:
                    folder.add(file, picture, picture.placement)
                elif unusable is not None and picture.entry:
                    unusable.append(picture)
                else:
                    raise InputError(
                        f"file {str(path)!r}, image {picture.key}: {picture.problem}; repair or remove it."
                    )
    said = _captions(captions)
    photographs = [
        Photograph(
            number,
            picture.path or images,
            placement.size[1],
            placement.size[0],
            tuple(folder.objects[number].values()),
            tuple(said.get(picture.key, ())),
            tuple(folder.dropped[number]),
        )
        for number, (picture, placement) in sorted(folder.pictures.items())
    ]
    return of_split(photographs, split)


class _Folder:
    """What the instances files of a folder say together; ids are unique in all of them."""

    def __init__(self) -> None:
        self.pictures: dict[int, tuple[CocoPicture, Placement]] = {}
        self.objects: dict[int, dict[int, PhotoObject]] = {}
        self.dropped: dict[int, list[str]] = {}
        self._owner: dict[int, int] = {}

    def add(self, file: CocoFile, picture: CocoPicture, placement: Placement) -> None:
        number = _number(picture.key, file.path, "image id")
        known, _ = self.pictures.setdefault(number, (picture, placement))
        if known.path != picture.path:
            raise InputError.about(
                f"file {str(file.path)!r}, image id {number}",
                "one picture of this id in all files",
                f"{str(known.path)!r} and {str(picture.path)!r}",
                "renumber one of the two",
            )
        objects, dropped = self.objects.setdefault(number, {}), self.dropped.setdefault(number, [])
        for text in picture.annotations:
            item = _object(json.loads(text), file, placement, number)
            if isinstance(item, str):
                dropped.append(item)
            elif (
                self._owner.setdefault(item.id, number) != number or objects.setdefault(item.id, item) != item
            ):
                raise InputError.about(
                    f"file {str(file.path)!r}, annotation id {item.id}",
                    "every id once",
                    "it twice",
                    "renumber one of the two",
                )


def _object(entry: dict[str, Any], file: CocoFile, placement: Placement, image: int) -> PhotoObject | str:
    """The object, or why it is no region. Raises InputError for an unknown category."""
    number = _number(entry.get("id"), file.path, f"an annotation id of image {image}")
    name = file.name(entry.get("category_id"))
    if name is None:
        raise InputError.about(
            f"file {str(file.path)!r}, annotation {number}, category_id",
            f"one of the file's {len(file.names)}",
            repr(entry.get("category_id"))[:40],
        )
    region = file.geometry.read(entry, placement)
    if region.box is None:
        return region.problem
    return PhotoObject(number, name, region.mask or region.box, region.box, is_crowd(entry))


def _captions(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Captions by the picture's `id_key`, without blank ones."""
    said: dict[str, list[str]] = {}
    for path in paths:
        for _, entry, text in read_members(path, ("annotations",)):
            key = id_key(entry.get("image_id")) if isinstance(entry, dict) else None
            if key is None or "caption" not in entry:
                raise InputError.about(
                    f"file {str(path)!r}",
                    "annotations with image_id and caption",
                    text[:80],
                    "give captions*.json",
                )
            if caption := " ".join(str(entry["caption"]).split()):
                said.setdefault(key, []).append(caption)
    return said


def _number(value: Any, path: Path, what: str) -> int:
    key = id_key(value)
    if key is None or not key.removeprefix("-").isdecimal():
        raise InputError.about(
            f"file {str(path)!r}, {what}", "a whole number", repr(value)[:40], "number them"
        )
    return int(key)


def _listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())[:5]

"""Folders of photographs in COCO's layout: `instances*.json`, `captions*.json` and `images/`.

One reader for training and evaluation, with the split that keeps the two apart: a photograph is held out by
its number alone (`is_held_out`), so that no list has to be shipped and no run can mix them up.

Coordinates are pixels of the picture as it lies in `images/`, x right, y down.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
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
    """A picture with its objects, in the file's order, and its captions (perhaps none)."""

    id: int
    path: Path
    width: int
    height: int
    objects: tuple[PhotoObject, ...]
    captions: tuple[str, ...] = ()

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
    digest = hashlib.sha256(f"rgpt photograph {photograph_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


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

    Photographs without objects or captions are among them; pictures are not opened. Boxes without extent
    are left out.

    Raises:
        InputError: the folder lacks `instances*.json` or `images/`, or a file is not in COCO's layout.
    """
    instances, captions = annotation_files(Path(folder))
    return read_annotations(instances, captions, Path(folder) / "images", split)


def read_annotations(
    instances: Sequence[Path], captions: Sequence[Path], images: Path, split: str = "all"
) -> list[Photograph]:
    """As `read_photographs`, from files that are named one by one."""
    pictures: dict[int, dict[str, Any]] = {}
    objects: dict[int, list[PhotoObject]] = {}
    said: dict[int, list[str]] = {}
    for path in instances:
        content = _read(path, ("images", "annotations", "categories"))
        with _layout(path):
            names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
            own = {int(entry["id"]): entry for entry in content["images"]}
            pictures |= own
            for entry in content["annotations"]:
                picture = own[int(entry["image_id"])]
                if item := _object(entry, names, int(picture["height"]), int(picture["width"])):
                    objects.setdefault(int(picture["id"]), []).append(item)
    for path in captions:
        content = _read(path, ("annotations",))
        with _layout(path):
            for entry in content["annotations"]:
                if text := " ".join(str(entry["caption"]).split()):
                    said.setdefault(int(entry["image_id"]), []).append(text)
    with _layout(instances[0]):
        photographs = [
            Photograph(
                number,
                images / str(picture["file_name"]),
                int(picture["width"]),
                int(picture["height"]),
                tuple(objects.get(number, ())),
                tuple(said.get(number, ())),
            )
            for number, picture in sorted(pictures.items())
        ]
    return of_split(photographs, split)


def _object(entry: dict[str, Any], names: dict[Any, str], height: int, width: int) -> PhotoObject | None:
    x, y, w, h = (float(value) for value in entry["bbox"])
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
    if not (x1 < x2 and y1 < y2):
        return None
    box = Box(x1, y1, x2, y2)
    region = _outline(entry.get("segmentation"), height, width) or box
    return PhotoObject(int(entry["id"]), names[entry["category_id"]], region, box, bool(entry.get("iscrowd")))


def _outline(segmentation: Any, height: int, width: int) -> Polygon | RLE | None:
    """COCO's three spellings; None where there is none, or one that cannot be drawn on the picture."""
    try:
        outline: Polygon | RLE
        if isinstance(segmentation, dict):
            outline = RLE(segmentation["size"], segmentation["counts"])
        else:  # a ring of two points would be read as a box by pycocotools
            rings = [ring for ring in segmentation or () if len(ring) >= 6]
            if not rings:
                return None
            outline = Polygon.from_coco(rings)
        outline.check_inside(height, width)
    except InputError:
        return None
    return outline


@contextmanager
def _layout(path: Path) -> Iterator[None]:
    """Turns what a file in another layout raises into one sentence."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError.about(
            f"file {str(path)!r}",
            "COCO's layout",
            f"{type(error).__name__}: {error}",
            "check that ids of pictures and categories are in the file",
        ) from error


def _read(path: Path, members: Sequence[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError.about(f"file {str(path)!r}", "JSON", str(error)[:120]) from error
    missing = [name for name in members if not isinstance(content, dict) or name not in content]
    if missing:
        raise InputError.about(
            f"file {str(path)!r}",
            f"the lists {', '.join(members)}",
            f"no {missing[0]}",
            "check that it is in COCO's layout",
        )
    return content


def _listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())[:5]

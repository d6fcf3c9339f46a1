"""Files in COCO's layout, of any size: pictures, annotations and categories in one object.

Annotations stand in any order, so they are brought together on disk by picture (`rgpt.formats.grouping`).
A record's content is the picture and the JSON texts of its annotations; workers parse them.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_recipes import geometry
from data_recipes.objects import LabelledObject, ObjectWriter
from data_recipes.pictures import coco_key, keys_of_file
from data_recipes.runner import Made, Record
from rgpt.errors import InputError
from rgpt.formats.grouping import Buckets, Group
from rgpt.formats.json_stream import read_members

CROWD = "crowd"
NO_PICTURE = "annotation of a picture that is not in the file"
UNKNOWN_CATEGORY = "annotation of an unknown category"
NO_SIZE = "picture without a size"
CROWDS = ("drop", "keep")


@dataclass
class Layout:
    """An opened file: class names by category id, and everything else waiting in buckets."""

    path: Path
    names: dict[int | str, str]
    buckets: Buckets
    facts: dict[str, Any] = field(default_factory=dict)

    def groups(self) -> Iterator[Group]:
        yield from self.buckets.groups()
        self.facts["pictures listed twice"] = self.buckets.repeated_pictures


def open_layout(path: Path, scratch: Path, keep: Callable[[str], bool] = lambda key: True) -> Layout:
    """Read the file once and deal it into buckets.

    Args:
        keep: says by a picture's id whether it and its annotations are wanted.

    Raises:
        InputError: the file is missing, no JSON, lacks one of the three lists, or an entry lacks its id.
    """
    folder = scratch / path.name
    folder.mkdir()
    buckets = Buckets(folder, path.stat().st_size if path.is_file() else 0)
    names: dict[int | str, str] = {}
    for member, value, text in read_members(path, ("images", "annotations", "categories")):
        try:
            if member == "annotations":
                if keep(key := str(value["image_id"])):
                    buckets.add_annotation(key, text)
            elif member == "images":
                if keep(key := str(value["id"])):
                    buckets.add_picture(key, text)
            else:
                names[value["id"]] = str(value["name"])
        except (KeyError, TypeError) as error:
            raise InputError.about(
                f"file {str(path)!r}",
                "images and categories with id, annotations with image_id",
                f"{text[:80]} in {member}",
                "check that it is in COCO's layout",
            ) from error
    return Layout(path, names, buckets, name_facts(names))


def name_facts(names: dict[int | str, str]) -> dict[str, Any]:
    """How many names there are, and how many categories share one (V3Det has a few dozen)."""
    counts = Counter(" ".join(str(name).replace("_", " ").split()).lower() for name in names.values())
    return {"categories": len(names), "different names": len(counts)}


def file_name_of(picture: dict[str, Any]) -> str:
    return str(picture.get("file_name") or "")


def file_of_coco_url(picture: dict[str, Any]) -> str:
    """LVIS: v1 has no file_name and v0.5 one of another split, but the address is right in both."""
    parts = str(picture.get("coco_url") or "").split("/")
    return "/".join(parts[-2:]) if len(parts) > 1 else file_name_of(picture)


@dataclass(frozen=True)
class PictureFiles:
    """Where a data set's pictures lie: `root`, then the name that `name_of` reads from the picture's entry.

    `coco_ids`: the picture's id is COCO's.
    """

    root: Path
    name_of: Callable[[dict[str, Any]], str] = file_name_of
    coco_ids: bool = False

    def record(self, group: Group) -> Record:
        """The record of one group; without a name there is no picture, which `convert` drops."""
        picture = json.loads(group.picture) if group.picture is not None else {}
        name = self.name_of(picture)
        keys = keys_of_file(name) if name else ()
        if self.coco_ids and group.key.isdecimal():
            keys = (*keys, coco_key(group.key))
        image = str(self.root / name) if name else None
        return Record(group.key, image, keys, (picture, group.annotations))


@dataclass(frozen=True)
class LayoutConverter:
    """Turns a record of `PictureFiles` into samples or a detection."""

    names: dict[int | str, str]
    writer: ObjectWriter
    crowds: str = "drop"
    caption_key: str | None = None

    def __call__(self, record: Record, rng: random.Random) -> Made:
        picture, texts = record.content
        made = Made(regions_read=len(texts))
        if not picture:
            made.drop_region(NO_PICTURE, len(texts))
            return _dropped(made, NO_PICTURE)
        size = picture_size(picture)
        if size is None or record.image is None:
            made.drop_region(NO_SIZE, len(texts))
            return _dropped(made, NO_SIZE)
        found = (self.labelled(json.loads(text), size, made) for text in texts)
        objects = [item for item in found if item is not None]
        return self.writer.write(record, size, objects, rng, made)

    def labelled(
        self, annotation: dict[str, Any], size: tuple[int, int], made: Made
    ) -> LabelledObject | None:
        """One annotation of a picture of `size` = (height, width)."""
        if self.crowds == "drop" and annotation.get("iscrowd"):
            made.drop_region(CROWD)
            return None
        category = annotation.get("category_id")
        if not isinstance(category, int | str) or category not in self.names:
            made.drop_region(UNKNOWN_CATEGORY)
            return None
        segmentation = annotation.get("segmentation")
        mask = geometry.coco_segmentation(segmentation, *size)
        if segmentation and mask is None:
            made.repaired[geometry.BOX_INSTEAD] += 1
        if mask is not None and not annotation.get("bbox"):
            box = mask.bounds(*size)
        else:
            box = geometry.xywh_box(annotation.get("bbox"), *size, made)
        if box is None:
            return None
        caption = " ".join(str(annotation.get(self.caption_key) or "").split()) if self.caption_key else ""
        return LabelledObject(box, mask, self.names[category], caption)


def picture_size(picture: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) of a picture's entry."""
    height, width = picture.get("height"), picture.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _dropped(made: Made, reason: str) -> Made:
    made.dropped = reason
    return made

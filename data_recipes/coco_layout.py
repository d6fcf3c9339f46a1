"""Files in COCO's layout (`rgpt.formats.coco`) as records of a recipe; records as samples or detections."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_recipes.objects import LabelledObject, ObjectWriter
from data_recipes.pictures import coco_key, keys_of_file
from data_recipes.runner import Made, Record
from rgpt.formats.coco import CocoFile, CocoPicture, Geometry, id_key, is_crowd
from rgpt.formats.size_claims import Placement

CROWD = "crowd"
UNKNOWN_CATEGORY = "annotation of an unknown category"
CROWDS = ("drop", "keep")


def records(file: CocoFile, coco_ids: bool = False) -> Iterator[Record]:
    """A record a picture; its content is the `CocoPicture`.

    Args:
        coco_ids: pictures have COCO's numbers, by which the leakage guard knows them, too.
    """
    for picture in file.pictures():
        name = file.name_of(picture.entry) if picture.entry else ""
        found = (name, picture.path.name) if name and picture.path else ()
        keys = [key for text in found for key in keys_of_file(text)]
        if coco_ids and picture.key.isdecimal():
            keys.append(coco_key(picture.key))
        image = str(picture.path) if picture.path else None
        yield Record(picture.key, image, tuple(dict.fromkeys(keys)), picture)


@dataclass(frozen=True)
class LayoutConverter:
    """Turns a record of `records` into samples or a detection.

    Args:
        names: of categories by `id_key`. geometry: how the file writes it. crowds: one of CROWDS.
    """

    names: dict[str, str]
    geometry: Geometry
    writer: ObjectWriter
    crowds: str = "drop"
    caption_key: str | None = None

    @classmethod
    def of(
        cls, file: CocoFile, writer: ObjectWriter, crowds: str = "drop", caption_key: str | None = None
    ) -> LayoutConverter:
        return cls(file.names, file.geometry, writer, crowds, caption_key)

    def __call__(self, record: Record, rng: random.Random) -> Made:
        picture: CocoPicture = record.content
        made = Made(regions_read=len(picture.annotations))
        if picture.placement is None:
            made.drop_region(picture.problem, len(picture.annotations))
            made.dropped = picture.problem
            return made
        found = (self.labelled(json.loads(text), picture.placement, made) for text in picture.annotations)
        objects = [item for item in found if item is not None]
        if picture.placement.note:
            made.repaired[picture.placement.note] += 1
        return self.writer.write(record, picture.placement.size, objects, rng, made)

    def labelled(self, annotation: dict[str, Any], placement: Placement, made: Made) -> LabelledObject | None:
        """One annotation of a picture; what is wrong with it is counted in `made`."""
        if self.crowds == "drop" and is_crowd(annotation):
            made.drop_region(CROWD)
            return None
        name = self.names.get(id_key(annotation.get("category_id")) or "")
        if name is None:
            made.drop_region(UNKNOWN_CATEGORY)
            return None
        region = self.geometry.read(annotation, placement)
        made.repaired.update(region.mended)
        if region.box is None:
            made.drop_region(region.problem)
            return None
        caption = " ".join(str(annotation.get(self.caption_key) or "").split()) if self.caption_key else ""
        return LabelledObject(region.box, region.mask, name, caption)

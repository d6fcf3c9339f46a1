"""A COCO instances file as a source of regions: the annotations of a picture, their boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.layouts.coco import read_truth
from eval.tasks.base import Item
from eval.tasks.region_classification import AnnotatedPictures, region_of, size_in_pixels
from rgpt.errors import InputError


class Instances:
    """Annotations by id and by picture; `images`: the folder of the pictures, on which they are laid."""

    def __init__(self, source: Path | str | dict[str, Any], images: Any = None) -> None:
        self._files = AnnotatedPictures(source, {} if images is None else images)
        self.truth = read_truth(self._files.content)
        self.by_image: dict[Any, list[Mapping[str, Any]]] = {}
        for _, annotation in sorted(self.truth.annotations.items()):
            if not annotation["iscrowd"]:
                self.by_image.setdefault(annotation["image_id"], []).append(annotation)

    def check(self, annotation_id: int) -> Mapping[str, Any]:
        """An annotation. Raises InputError when the file has none of this id."""
        if annotation_id not in self.truth.annotations:
            raise InputError.about(
                f"annotation {annotation_id}",
                f"one of the {len(self.truth.annotations)} in {self.truth.source}",
                "none of them",
                "the instances file may be of another split",
            )
        return self.truth.annotations[annotation_id]

    def image(self, image_id: Any) -> Mapping[str, Any]:
        return self.truth.images[image_id]

    def picture(self, image_id: Any) -> Path:
        """The picture's path in the folder `images`."""
        path: Path = self._files.source(self.image(image_id))
        return path

    def item(self, annotation_id: int, form: str, id_: str, prompt: str) -> Item:
        """An item about one annotation, its region in a form; its truth is the category's name."""
        annotation = self.check(annotation_id)
        image, name = self.image(annotation["image_id"]), self.truth.name(annotation["category_id"])
        try:
            region = region_of(annotation, form, *size_in_pixels(image))
        except InputError as problem:
            return Item(id_, prompt, truth=name, problem=str(problem))
        return Item(id_, prompt, {1: region}, name)

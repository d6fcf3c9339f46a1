"""Caption records: what CLIP, RegionCLIP and RO-ViT learn whole pictures from.

A line of a caption file is one picture with everything said of it:

    {"id": "coco-1", "image": "../train2017/000000000001.jpg", "captions": ["A cat.", "A cat on a mat."]}

The picture's path is relative to the folder of the file, or absolute. Training draws one caption a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgpt.data.schema import QuestionAnswer, Sample
from rgpt.errors import InputError

KEYS = ("id", "image", "captions")


@dataclass(frozen=True)
class Captioned:
    """A picture and its captions. Raises InputError when there are none or one is blank."""

    id: str
    image: Path
    captions: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.captions or not all(isinstance(c, str) and c.strip() for c in self.captions):
            raise InputError.about(
                f"caption record {self.id!r}",
                "at least one caption, all of words",
                repr(list(self.captions))[:60],
                "write what is to be seen, or leave the record out",
            )

    @classmethod
    def from_json(cls, value: Any, folder: Path | str = ".") -> Captioned:
        """The record of a parsed line whose file lies in `folder`. Raises InputError."""
        kinds = {"id": str, "image": str, "captions": list}
        if (
            not isinstance(value, Mapping)
            or set(value) != set(KEYS)
            or not all(isinstance(value[key], kind) and value[key] for key, kind in kinds.items())
        ):
            raise InputError.about(
                "caption record",
                "id and image as text and captions as a list, none of them empty",
                repr(value)[:100],
                "write it again",
            )
        return cls(value["id"], Path(folder) / value["image"], tuple(value["captions"]))

    def to_json(self, folder: Path | str = ".") -> dict[str, Any]:
        """What `from_json` reads, with the picture's path relative to `folder`."""
        return {
            "id": self.id,
            "image": self.as_sample().to_json(folder)["image"],  # the project's one writer of paths
            "captions": list(self.captions),
        }

    def as_sample(self) -> Sample:
        """For the contact sheet."""
        return Sample(self.id, self.image, (), tuple(QuestionAnswer("caption", c) for c in self.captions))

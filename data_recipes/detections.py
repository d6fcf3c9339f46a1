"""Detection records: what the region recognizers learn from.

A line of a detection file is one object, a picture with all its labelled regions:

    {"id": "objects365-1", "image": "../train/1.jpg", "width": 640, "height": 480,
     "regions": [{"box": [60, 150, 260, 330]}, {"mask": {"size": [480, 640], "counts": "…"}}],
     "names": ["Dog", "Cabinet/shelf"]}

`names[i]` is the data set's own class name of `regions[i]`, unchanged, so that it can be looked up in the
data set's vocabulary. The picture's path is relative to the folder of the file, or absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgpt import prompts
from rgpt.data.schema import QuestionAnswer, Sample
from rgpt.errors import InputError
from rgpt.regions import Region, region_from_json

KEYS = ("id", "image", "width", "height", "regions", "names")


@dataclass(frozen=True)
class Detection:
    """A picture of `width` x `height` pixels with its regions and their class names.

    Raises InputError when counts of regions and names differ, there are none, a name is blank, or the size is
    not whole pixels. Whether the picture exists and holds the regions is not looked at here.
    """

    id: str
    image: Path
    width: int
    height: int
    regions: tuple[Region, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.regions) != len(self.names) or not self.regions:
            raise InputError.about(
                f"detection record {self.id!r}",
                "one name for each of at least one region",
                f"{len(self.regions)} regions and {len(self.names)} names",
                "write both lists in the same order",
            )
        if not all(isinstance(name, str) and name.strip() for name in self.names):
            raise InputError.about(f"detection record {self.id!r}", "names of words", "a blank", "name it")
        for side in ("width", "height"):
            value = getattr(self, side)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError.about(
                    f"detection record {self.id!r}",
                    f"a {side} in whole pixels",
                    repr(value)[:40],
                    "write the upright picture's size",
                )

    @classmethod
    def from_json(cls, value: Any, folder: Path | str = ".") -> Detection:
        """The record of a parsed line whose file lies in `folder`. Raises InputError."""
        if not isinstance(value, Mapping) or set(value) != set(KEYS):
            found = f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else "no object"
            raise InputError.about(
                "detection record", f"the keys {', '.join(KEYS)}", found[:120], "change them"
            )
        for key, kind in (("id", str), ("image", str), ("regions", list), ("names", list)):
            if not isinstance(value[key], kind) or not value[key]:
                raise InputError.about(
                    "detection record",
                    f"{key} as a {kind.__name__} that is not empty",
                    repr(value[key])[:40],
                    "write it again",
                )
        return cls(
            id=value["id"],
            image=Path(folder) / value["image"],
            width=value["width"],
            height=value["height"],
            regions=tuple(region_from_json(region) for region in value["regions"]),
            names=tuple(value["names"]),
        )

    def to_json(self, folder: Path | str = ".") -> dict[str, Any]:
        """What `from_json` reads, with the picture's path relative to `folder`."""
        # The path is written by the one writer of paths that the project has.
        path = Sample(self.id, self.image, (), (QuestionAnswer("-", "-"),)).to_json(folder)["image"]
        return {
            "id": self.id,
            "image": path,
            "width": self.width,
            "height": self.height,
            "regions": [region.to_json() for region in self.regions],
            "names": list(self.names),
        }

    def as_sample(self) -> Sample:
        """For the contact sheet: every region with its name."""
        turns = [QuestionAnswer(prompts.mention(n), name) for n, name in enumerate(self.names, start=1)]
        return Sample(self.id, self.image, self.regions, tuple(turns))

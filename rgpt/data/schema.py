"""The one sample type of the project and its JSONL form.

A line of a JSONL file is one object:

    {"id": "scene-7", "image": "pictures/7.png",
     "regions": [{"box": [60, 150, 260, 330]}, {"mask": {"size": [480, 640], "counts": "…"}}],
     "turns": [{"question": "What is <region1>?", "answer": "A small red plain circle."}]}

`image` may be absent or null (text only), `regions` absent or empty. The picture's path is relative to the
folder of the JSONL file, or absolute. `<region1>` means `regions[0]`; numbers are 1-based. Unknown keys are
refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rgpt.errors import InputError
from rgpt.files import whole_file
from rgpt.formats.jsonl import dump_line, numbered_lines, parse_line
from rgpt.prompts import mention, mentioned
from rgpt.regions import RLE, Box, Mask, Point, Polygon, Region, Scribble, region_from_json

KEYS = ("id", "image", "regions", "turns")
_REGIONS = (Box, Polygon, Mask, RLE, Scribble, Point)


class QuestionAnswer(NamedTuple):
    """One turn of a conversation."""

    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """A picture (or none), the regions on it, and a conversation about them.

    Args:
        id: names the sample in messages; not empty.
        image: the picture's path, or None for a text-only sample.
        regions: region n of the conversation is `regions[n - 1]`, in pixels of the upright picture.
        turns: (question, answer) pairs, at least one, none of them blank.

    Raises:
        InputError: on anything else, on regions without a picture, and when a text mentions a region that is
            not there. A region that is never mentioned is allowed. Whether the picture exists and holds the
            regions is not looked at here.
    """

    id: str
    image: Path | None
    regions: tuple[Region, ...]
    turns: tuple[QuestionAnswer, ...]

    def __post_init__(self) -> None:
        _check_text(self.id, "id")
        if self.image is not None:
            if not isinstance(self.image, str | Path) or not str(self.image).strip():
                raise InputError.about(
                    "image", "a path or null", _shown(self.image), "name the picture's file"
                )
            _check_text(str(self.image), "image")
            object.__setattr__(self, "image", Path(self.image))
        object.__setattr__(self, "regions", tuple(self.regions))
        for number, region in enumerate(self.regions, start=1):
            if not isinstance(region, _REGIONS):
                raise InputError.about(
                    f"region {number}", "a region", type(region).__name__, "use rgpt.regions"
                )
        if self.regions and self.image is None:
            raise InputError.about(
                "regions",
                "none without a picture",
                str(len(self.regions)),
                "name the picture or leave them out",
            )
        object.__setattr__(self, "turns", tuple(_turn(turn, i) for i, turn in enumerate(self.turns, start=1)))
        if not self.turns:
            raise InputError.about("turns", "at least one question with its answer", "none", "add one")
        for i, turn in enumerate(self.turns, start=1):
            for name, text in zip(turn._fields, turn, strict=True):
                self._check_mentions(text, name, i)

    def _check_mentions(self, text: str, name: str, turn: int) -> None:
        for number in mentioned(text):
            if not 1 <= number <= len(self.regions):
                raise InputError.about(
                    f"{name} of turn {turn}",
                    f"mentions of the sample's {len(self.regions)} regions",
                    mention(number),
                    "regions are counted from 1",
                )

    @classmethod
    def from_json(cls, value: Any, folder: Path | str = ".") -> Sample:
        """The sample of a parsed line whose file lies in `folder`. Raises InputError."""
        if not isinstance(value, Mapping):
            raise InputError.about("sample", "an object", type(value).__name__, "write one object a line")
        if unknown := sorted(str(key) for key in value if key not in KEYS):
            raise InputError.about(
                "sample",
                f"the keys {', '.join(KEYS)}",
                f"also {', '.join(unknown)[:80]}",
                "remove what is unknown",
            )
        if missing := [key for key in ("id", "turns") if key not in value]:
            raise InputError.about("sample", f"the key {missing[0]}", "none", "add it")
        image, regions, turns = value.get("image"), value.get("regions") or [], value["turns"]
        if image is not None and (not isinstance(image, str) or not image.strip()):
            raise InputError.about("image", "a path or null", _shown(image), "name the picture's file")
        for name, listed in (("regions", regions), ("turns", turns)):
            if not isinstance(listed, list):
                raise InputError.about(name, "a list", type(listed).__name__, "write it in square brackets")
        return cls(
            id=value["id"],
            image=None if image is None else Path(folder) / image,
            regions=tuple(_region(region, n) for n, region in enumerate(regions, start=1)),
            turns=tuple(_turn_from_json(turn, i) for i, turn in enumerate(turns, start=1)),
        )

    def to_json(self, folder: Path | str = ".") -> dict[str, Any]:
        """What `from_json` reads, with the picture's path relative to `folder`. Masks become RLE."""
        return {
            "id": self.id,
            "image": None if self.image is None else _relative(self.image, Path(folder)),
            "regions": [region.to_json() for region in self.regions],
            "turns": [turn._asdict() for turn in self.turns],
        }


def read_jsonl(path: Path | str) -> Iterator[Sample]:
    """Samples of a JSONL file, one at a time; memory does not grow with the file.

    Raises:
        InputError: at once when the file is missing; later, naming file and line, at the first line that is
            not a sample. Lines of blanks only are passed over.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing at this path"
        raise InputError.about(
            f"samples {str(path)!r}", "an existing JSONL file", found, "check the spelling"
        )
    return _read(path)


def _read(path: Path) -> Iterator[Sample]:
    for number, line in numbered_lines(path):
        try:
            yield Sample.from_json(parse_line(line), path.parent)
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error


def write_jsonl(path: Path | str, samples: Iterable[Sample]) -> int:
    """Write samples to a JSONL file, whole or not at all, and return how many there were.

    The lines go to a hidden file beside `path`, which takes its name at the end. Whatever `samples` raises
    passes through, and a file that was there before is then still there.
    """
    path, written = Path(path), 0
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8", newline="\n") as stream:
        for sample in samples:
            stream.write(dump_line(sample.to_json(path.parent)))
            written += 1
    return written


def _region(value: Any, number: int) -> Region:
    try:
        return region_from_json(value)
    except InputError as error:
        raise InputError(f"region {number}: {error}") from error


def _turn_from_json(value: Any, number: int) -> QuestionAnswer:
    if not isinstance(value, Mapping) or set(value) != set(QuestionAnswer._fields):
        found = f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
        raise InputError.about(
            f"turn {number}", "an object with exactly question and answer", found[:80], "add or remove keys"
        )
    return QuestionAnswer(value["question"], value["answer"])


def _turn(value: Any, number: int) -> QuestionAnswer:
    if not isinstance(value, (tuple, list)) or len(value) != 2:  # a union would be built each time
        raise InputError.about(f"turn {number}", "a (question, answer) pair", _shown(value), "give both")
    for name, text in zip(QuestionAnswer._fields, value, strict=True):
        if not (isinstance(text, str) and text.isascii() and text.strip()):  # nearly always the case
            _check_text(text, f"{name} of turn {number}")
    return value if isinstance(value, QuestionAnswer) else QuestionAnswer(*value)


def _check_text(value: Any, thing: str) -> None:
    """InputError unless `value` is a string with more than blanks that can be written as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        raise InputError.about(thing, "words", _shown(value), "write some text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError.about(
            thing, "whole characters", f"half of a pair, {error.object[error.start]!a}", "repair it"
        ) from error


def _relative(image: Path, folder: Path) -> str:
    """The picture's path as seen from `folder`, with forward slashes."""
    parent, name = os.path.split(os.path.abspath(image))
    return (Path(_relative_folder(parent, os.path.abspath(folder))) / name).as_posix()


@lru_cache(maxsize=4096)  # following links asks the disk, and the pictures of a data set share few folders
def _relative_folder(parent: str, folder: str) -> str:
    """A picture's folder as seen from `folder`; both absolute."""
    if not Path(parent).is_relative_to(folder):
        # `..` after a linked folder leads elsewhere: follow links of folders before counting steps.
        parent, folder = os.path.realpath(parent), os.path.realpath(folder)
    return os.path.relpath(parent, folder)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

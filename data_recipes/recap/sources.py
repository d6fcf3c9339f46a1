"""What is to be captioned: pictures with named regions, from a detection file or a sample file, in shards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_recipes.detections import Detection
from rgpt.data.schema import Sample
from rgpt.errors import InputError
from rgpt.files import file_sha256, sha256
from rgpt.formats.jsonl import numbered_lines, parse_line
from rgpt.prompts import MENTION, WORDINGS, mentioned
from rgpt.regions import Region

_ASKED = WORDINGS["classification"] + WORDINGS["classification_followup"]
_WORDINGS = "|".join(sorted({re.escape(w).replace(re.escape("{region}"), MENTION.pattern) for w in _ASKED}))
_CLASSIFICATION = re.compile(rf"(?:{_WORDINGS})(?: Answer the question using .+ category names\.)?")


@dataclass(frozen=True)
class Target:
    """A region to caption. `id` is the record's id, #, and the region's number in the record."""

    id: str
    region: Region
    name: str


@dataclass(frozen=True)
class Record:
    """A line of the input. `key` names the picture: its path as seen from the input's folder."""

    id: str
    image: Path
    key: str
    targets: tuple[Target, ...]
    nameless: int


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, 1-based. A picture belongs to one part, with all its regions."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `2/8`. Raises InputError."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError.about("--shard", "I/N with I from 1 to N, such as 2/8", repr(text))
        return cls(int(found[1]), int(found[2]))

    def holds(self, key: str) -> bool:
        return int(sha256(key)[:16], 16) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


@dataclass(frozen=True)
class Index:
    """What a shard of the input holds, counted before any work."""

    digest: str
    pictures: int
    regions: int
    nameless: int
    """Regions without a class name: those are not asked about (`Target`s exclude them)."""


def read_records(path: Path, shard: Shard | None = None) -> Iterator[Record]:
    """The records of `path` that belong to the shard, one at a time.

    A line is a detection record (`data_recipes.detections`) or a sample (`rgpt.data.schema`); of a sample the
    class names are the answers to its classification questions, wherever one region is asked about.

    Raises:
        InputError: naming file and line, for a line that is neither.
    """
    for number, line in numbered_lines(path):
        try:
            record = _record(parse_line(line), path.parent)
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error
        if record is not None and (shard is None or shard.holds(record.key)):
            yield record


def index_of(path: Path, shard: Shard) -> Index:
    """Count the shard's part of the input, and refuse what would fail in the middle of a paid run.

    Raises:
        InputError: for a missing file, a bad line, an id given twice, a picture that is not there, or nothing
            to caption in the whole file.
    """
    if not path.is_file():
        raise InputError.about(f"input {str(path)!r}", "a JSONL file", "none at this path")
    seen, pictures = set[str](), set[str]()
    regions = nameless = every = 0
    content = file_sha256(path)
    for record in tqdm(read_records(path), desc="reading the input", unit="record", delay=2, leave=False):
        if record.id in seen:
            raise InputError(f"{path}: the id {record.id!r} is given twice; make ids unique.")
        seen.add(record.id)
        every += len(record.targets)
        if not shard.holds(record.key):
            continue
        if record.key not in pictures and not record.image.is_file():
            raise InputError(f"{path}: the picture {str(record.image)!r} of {record.id!r} is not there.")
        pictures.add(record.key)
        regions += len(record.targets)
        nameless += record.nameless
    if not every:
        raise InputError(f"{path}: no region has a class name; give detection records or classified samples.")
    return Index(content, len(pictures), regions, nameless)


def _record(value: Any, folder: Path) -> Record | None:
    if isinstance(value, dict) and "names" in value:
        found = Detection.from_json(value, folder)
        names: dict[int, str] = dict(enumerate(found.names, start=1))
        return _targets(found.id, found.image, found.regions, names, folder)
    sample = Sample.from_json(value, folder)
    if sample.image is None or not sample.regions:
        return None
    return _targets(sample.id, sample.image, sample.regions, class_names(sample), folder)


def class_names(sample: Sample) -> dict[int, str]:
    """Region number → class name, from the sample's classification turns."""
    names = {}
    for question, answer in sample.turns:
        numbers = mentioned(question)
        # "What is <region1>?" is answered by a sentence too, which ends in a full stop; class names are bare.
        if len(numbers) == 1 and _CLASSIFICATION.fullmatch(question) and not answer.rstrip().endswith("."):
            names[numbers[0]] = answer
    return names


def _targets(
    name: str, image: Path, regions: tuple[Region, ...], names: dict[int, str], folder: Path
) -> Record:
    targets = tuple(
        Target(f"{name}#{number}", region, readable(names[number]))
        for number, region in enumerate(regions, start=1)
        if number in names
    )
    key = Path(os.path.relpath(image, folder)).as_posix()
    return Record(name, image, key, targets, len(regions) - len(targets))


def readable(name: str) -> str:
    """A class name as a person would write it: `baseball_bat` → `baseball bat`."""
    return " ".join(name.replace("_", " ").rstrip(".").split())

"""What every recipe leaves behind: a folder that appears whole or not at all, a report, a contact sheet."""

from __future__ import annotations

import random
import signal
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image, ImageDraw, ImageFont

from rgpt.data.schema import Sample
from rgpt.errors import InputError
from rgpt.files import whole_folder, write_json
from rgpt.regions import RLE, Box, Polygon, draw_regions, open_image

SHEET_SAMPLES = 24
SHEET_COLUMNS = 6
Item = TypeVar("Item")
CELL = 320
"""Pixels along the longer side of a picture on the contact sheet."""
LINES = 13
FONT_SIZE = 13


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` when the block ends well and vanishes when it does not.

    Until then it lies beside `out` under a hidden name, so that `out` never holds half a data set, whatever
    stops the run. (Only a kill that no program can catch leaves the hidden folder behind.)

    Raises:
        InputError: when `out` is a file or a folder that is not empty, before anything is written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError.about(
            f"output {str(out)!r}",
            "a new or an empty folder",
            "a folder with files in it" if out.is_dir() else "a file",
            "name another one or remove it",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(out) as partial:
        yield partial


def stop_cleanly_when_terminated() -> None:
    """Let SIGTERM end the program as an exception, so that `new_folder` tidies up."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


@dataclass
class Report:
    """Counts of a run, written as `report.json`.

    `read` counts the source's records (a picture with its annotations, a conversation) and equals
    `records_kept` and all of `dropped`; `kept` counts samples, of which a record may give several.
    `regions_read` and `regions_dropped` count the source's regions, `regions` those in the samples.
    `pictures` counts records by whether their picture is there.
    """

    recipe: str
    options: dict[str, Any]
    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    records_kept: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    regions: int = 0
    regions_read: int = 0
    regions_dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    pictures: Counter[bool] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)
    turns: int = 0
    words: int = 0
    _began: float = field(default_factory=time.perf_counter, repr=False)

    def drop(self, reason: str) -> None:
        """Count one record that did not become a sample."""
        self.read += 1
        self.dropped[reason] += 1

    def keep(self, sample: Sample) -> None:
        """Count one sample; words are counted in questions and answers."""
        self.read += 1
        self.records_kept += 1
        self.kept += 1
        self.regions += len(sample.regions)
        self.turns += len(sample.turns)
        self.words += sum(len(text.split()) for turn in sample.turns for text in turn)

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "options": self.options,
            "read": self.read,
            "records_kept": self.records_kept,
            "dropped": dict(sorted(self.dropped.items())),
            "kept": self.kept,
            "regions_read": self.regions_read,
            "regions_dropped": dict(sorted(self.regions_dropped.items())),
            "repaired": dict(sorted(self.repaired.items())),
            "pictures_missing": self.pictures[False],
            "regions": self.regions,
            "turns": self.turns,
            "words": self.words,
            "tasks": dict(sorted(self.tasks.items())),
            "facts": self.facts,
            "wall_seconds": round(time.perf_counter() - self._began, 3),
        }

    def write(self, path: Path) -> None:
        write_json(path, self.to_json(), indent=2)


class Reservoir(Generic[Item]):
    """A random choice of `size` samples from a stream of unknown length (algorithm R), seeded."""

    def __init__(self, seed: int, size: int = SHEET_SAMPLES) -> None:
        self.samples: list[Item] = []
        self._size, self._seen, self._rng = size, 0, random.Random(seed)

    def offer(self, sample: Item) -> None:
        self._seen += 1
        if len(self.samples) < self._size:
            self.samples.append(sample)
        elif (place := self._rng.randrange(self._seen)) < self._size:
            self.samples[place] = sample


def contact_sheet(samples: list[Sample]) -> Image.Image:
    """One RGB picture of many samples: each with its regions drawn and numbered, its conversation beneath."""
    font = ImageFont.load_default(FONT_SIZE)
    line = FONT_SIZE + 4
    cell_width, cell_height = CELL + 16, CELL + 20 + line * (LINES + 1)
    columns = max(1, min(SHEET_COLUMNS, len(samples)))
    rows = max(1, -(-len(samples) // columns))
    sheet = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, sample in enumerate(samples):
        left, top = i % columns * cell_width + 8, i // columns * cell_height + 8
        if sample.image is not None:
            picture = _drawn(sample, sample.image)
            picture.thumbnail((CELL, CELL))
            sheet.paste(picture, (left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2))
        lines = [sample.id, *_conversation_lines(sample, CELL // 7)]
        if len(lines) > LINES + 1:
            lines = [*lines[:LINES], "…"]
        for k, text in enumerate(lines):
            draw.text((left, top + CELL + 6 + k * line), text, fill="grey" if k == 0 else "black", font=font)
    return sheet


def _drawn(sample: Sample, path: Path) -> Image.Image:
    """The sample's picture with its regions; grey, and as large as they reach, where it cannot be read."""
    numbered = dict(enumerate(sample.regions, start=1))
    try:
        return draw_regions(open_image(path), numbered)
    except InputError:
        # Annotations are often turned into samples before the pictures are downloaded.
        width, height = _extent(sample)
        return draw_regions(Image.new("RGB", (width, height), (150, 150, 150)), numbered)


def _extent(sample: Sample) -> tuple[int, int]:
    """(width, height) that every region of the sample fits into."""
    width = height = 1.0
    for region in sample.regions:
        if isinstance(region, Box):
            width, height = max(width, region.x2), max(height, region.y2)
        elif isinstance(region, Polygon):
            points = [point for ring in region.rings for point in ring]
            width, height = max(width, *(x for x, _ in points)), max(height, *(y for _, y in points))
        elif isinstance(region, RLE):
            return region.size[1], region.size[0]
    return (round(width) + 1, round(height) + 1) if sample.regions else (CELL, CELL)


def _conversation_lines(sample: Sample, width: int) -> list[str]:
    lines: list[str] = []
    for question, answer in sample.turns:
        lines += textwrap.wrap(question, width, initial_indent="Q ", subsequent_indent="   ")
        lines += textwrap.wrap(answer, width, initial_indent="A ", subsequent_indent="   ")
    return lines

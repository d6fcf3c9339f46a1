"""LLaVA's conversation files as samples; shared by llava_pretrain and llava_instruct."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_recipes.pictures import keys_of_file
from data_recipes.runner import Made, Record, Source
from rgpt.data.schema import QuestionAnswer, Sample
from rgpt.formats.json_stream import read_records
from rgpt.formats.llava import Unusable, picture_name, read_llava
from rgpt.formats.paths import picture_below


def add_arguments(parser: argparse.ArgumentParser, file: str) -> None:
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help=file)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="the folder that the file's paths start from",
    )


def open_source(options: argparse.Namespace, prefix: str, task: str) -> Source:
    def records() -> Iterator[Record]:
        # Ids repeat in mix665k, so the place in the file is part of ours.
        for place, entry in enumerate(read_records(options.annotations)):
            name = picture_name(entry)
            yield Record(
                f"{place:07d}-{entry.get('id', '') if isinstance(entry, dict) else ''}",
                None if name is None else str(picture_below(options.images, name)),
                () if name is None else keys_of_file(name),
                entry,
            )

    return Source(records(), Converter(prefix, task))


@dataclass(frozen=True)
class Converter:
    """Turns one conversation into one sample. `<image>` goes: where the picture stands is the template's."""

    prefix: str
    task: str

    def __call__(self, record: Record, rng: random.Random) -> Made:
        try:
            read = read_llava(record.content)
        except Unusable as error:
            return Made(dropped=error.reason)
        made = Made(repaired=read.notes)
        image = None if record.image is None else Path(record.image)
        turns = tuple(QuestionAnswer(*turn) for turn in read.turns)
        made.add(Sample(f"{self.prefix}-{record.id}", image, (), turns), *[self.task] * len(turns))
        return made

"""LLaVA's conversation files as samples; shared by llava_pretrain and llava_instruct."""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_recipes.json_stream import read_records
from data_recipes.pictures import keys_of_file
from data_recipes.runner import Made, Record, Source
from rgpt.data.schema import QuestionAnswer, Sample

IMAGE_MARK = "<image>"
MARK_WITHOUT_PICTURE = "<image> without a picture"
PICTURE_WITHOUT_MARK = "picture without <image>: asked about it all the same"
MORE_MARKS = "more than one <image>"
NO_TURN = "no question with an answer"
MENTION = "text with a region's mark"
NO_CONVERSATION = "no conversation"
NOT_FROM_HUMAN = "words before the first question left out"
NO_ANSWER = "question without an answer left out"
_REGION = re.compile(r"<region\d*>")


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
            entry = entry if isinstance(entry, dict) else {}
            name = entry.get("image")
            known = isinstance(name, str) and bool(name)
            yield Record(
                f"{place:07d}-{entry.get('id', '')}",
                str(options.images / name) if known else None,
                keys_of_file(name) if known else (),
                entry.get("conversations"),
            )

    return Source(records(), Converter(prefix, task))


@dataclass(frozen=True)
class Converter:
    """Turns one conversation into one sample. `<image>` goes: where the picture stands is the template's."""

    prefix: str
    task: str

    def __call__(self, record: Record, rng: random.Random) -> Made:
        made = Made()
        if not isinstance(record.content, list):
            made.dropped = NO_CONVERSATION
            return made
        marks = sum(_value(message).count(IMAGE_MARK) for message in record.content)
        if marks > 1:
            made.dropped = MORE_MARKS
        elif marks and record.image is None:
            made.dropped = MARK_WITHOUT_PICTURE
        elif any(_REGION.search(_value(message)) for message in record.content):
            made.dropped = MENTION
        elif not (turns := pair_up(record.content, made)):
            made.dropped = NO_TURN
        if made.dropped:
            return made
        if record.image is not None and not marks:
            made.repaired[PICTURE_WITHOUT_MARK] += 1
        image = None if record.image is None else Path(record.image)
        made.add(Sample(f"{self.prefix}-{record.id}", image, (), tuple(turns)), *[self.task] * len(turns))
        return made


def pair_up(messages: list[Any], made: Made) -> list[QuestionAnswer]:
    """Questions with their answers; what has no partner is left out and counted."""
    turns: list[QuestionAnswer] = []
    question = ""
    for message in messages:
        sender = message.get("from") if isinstance(message, dict) else None
        text = _value(message).replace(IMAGE_MARK, "").strip()
        if sender == "human":
            if question:
                made.repaired[NO_ANSWER] += 1
            question = text
        elif sender == "gpt" and question and text:
            turns.append(QuestionAnswer(question, text))
            question = ""
        else:
            made.repaired[NOT_FROM_HUMAN if not turns and not question else NO_ANSWER] += 1
            question = ""
    if question:
        made.repaired[NO_ANSWER] += 1
    return turns


def _value(message: Any) -> str:
    value = message.get("value") if isinstance(message, dict) else None
    return value if isinstance(value, str) else ""

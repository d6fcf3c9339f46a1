"""One visitor's state: the picture, the regions drawn on it, and the turns of the conversation.

Everything here is a value. Event handlers replace the visitor's `Conversation`, they never change it, so that
nothing is shared between visitors and a cancelled event leaves a whole state behind.

A turn keeps the regions as they were when it was asked: a retry uses these, whatever was drawn or removed
since.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from PIL import Image

from rgpt.errors import InputError
from rgpt.prompts import MENTION, list_mentions, mention, mentioned
from rgpt.regions import RLE, Region, open_image
from rgpt.serve.workers import decoding_memory, shared_workers

MAX_QUESTION = 4000
DECODE_SECONDS = 4.0
"""CPU time that opening a visitor's picture may take."""
MAX_PIXELS = 50_000_000
"""Of a visitor's picture: every region drawn on it may become a mask of its size, one byte a pixel."""


def decoded(data: bytes) -> Image.Image:
    """The upright RGB picture of a file that a visitor sent, decoded in a process with limits.

    Raises:
        InputError: it cannot be used, or takes too long.
    """
    task = shared_workers().submit(
        "rgpt.serve.decoding:decode",
        data,
        MAX_PIXELS,
        thing="The picture",
        slow=True,
        seconds=DECODE_SECONDS,
        memory=decoding_memory(MAX_PIXELS),
    )
    _, (pixels,) = task.future.result()
    return Image.fromarray(pixels)


def region_bytes(region: Region) -> int:
    """About what a region takes in memory."""
    return len(region.counts) if isinstance(region, RLE) else 100


Status = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True)
class Label:
    """What a recognizer calls a region, and how sure it is (0 to 1)."""

    name: str
    score: float


@dataclass(frozen=True)
class Picture:
    """An upright RGB picture; `token` tells it from every other picture of every visitor."""

    image: Image.Image = field(repr=False)
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    """Also what brings the conversation back after a reload, so it is told to nobody but the visitor."""
    subject: str = "the red circle"
    """What the example question "which of these is …" asks about."""
    drawn: Mapping[int, Region] = field(default_factory=dict, repr=False, compare=False)
    """Regions that an example picture comes with."""
    is_scene: bool = False
    """Whether the app drew it itself, so that it is certainly no photograph."""
    masks: dict[str, Region] = field(default_factory=dict, repr=False, compare=False)
    """Masks that the page knows by name. The one thing here that grows: an answer under way writes back the
    conversation it began with, and a mask made meanwhile must not be lost by that.
    """
    labels: dict[str, Label] = field(default_factory=dict, repr=False, compare=False)
    """What the last "Find all" called some of `masks`, by their names here."""
    MOST_MASKS: ClassVar[int] = 400

    @classmethod
    def open(cls, source: str | bytes | Image.Image, **kwargs: Any) -> Picture:
        """Open a picture as `rgpt.regions.open_image` does (EXIF applied); InputError when it cannot be
        used.
        """
        return cls(decoded(source) if isinstance(source, bytes) else open_image(source, MAX_PIXELS), **kwargs)

    def again(self) -> Picture:
        """The same picture, opened anew: with a token, masks and labels of its own."""
        return Picture(self.image, subject=self.subject, drawn=self.drawn, is_scene=self.is_scene)

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    @property
    def bytes(self) -> int:
        """About what it takes in memory: Pillow keeps four a pixel."""
        return 4 * self.width * self.height + sum(region_bytes(mask) for mask in self.masks.values())

    def label(self, region: Region) -> Label | None:
        """What was found to be this region, or None."""
        found = (label for name, label in list(self.labels.items()) if self.masks.get(name) == region)
        return next(found, None)


@dataclass(frozen=True)
class Turn:
    """A question, its answer so far, and all regions as drawn when it was asked."""

    question: str
    regions: Mapping[int, Region] = field(default_factory=dict)
    answer: str = ""
    status: Status = "running"
    note: str = ""
    """What stands below the answer and is no part of the conversation."""

    def with_mentioned_regions(self) -> Turn:
        """This turn with only those regions that its question mentions."""
        numbers = set(mentioned(self.question))
        return replace(self, regions={n: r for n, r in self.regions.items() if n in numbers})


@dataclass(frozen=True)
class Table:
    """One question and its answer for each of many regions."""

    question: str
    regions: Mapping[int, Region]
    answers: Mapping[int, str] = field(default_factory=dict)
    status: Status = "running"
    notes: Mapping[int, str] = field(default_factory=dict)
    """What stands beside an answer and is no part of it: the likeliest names with their shares."""


@dataclass(frozen=True)
class Conversation:
    """What one visitor has: a picture (or none yet), the turns about it, oldest first, and the last table."""

    picture: Picture | None = None
    turns: tuple[Turn, ...] = ()
    table: Table | None = None

    @property
    def waiting(self) -> bool:
        """Whether the last turn has been asked and nothing has been answered yet."""
        return bool(self.turns) and self.turns[-1].status == "running"

    def asked(self, question: str, regions: Mapping[int, Region]) -> Conversation:
        """With a new turn at the end; a turn left running (its event was lost) counts as stopped."""
        turns = tuple(replace(t, status="stopped") if t.status == "running" else t for t in self.turns)
        return replace(self, turns=(*turns, Turn(question, dict(regions))))

    def answered(self, answer: str, status: Status, note: str = "") -> Conversation:
        """With this answer in the last turn."""
        turn = replace(self.turns[-1], answer=answer, status=status, note=note)
        return replace(self, turns=(*self.turns[:-1], turn))

    def before(self, index: int) -> Conversation:
        """Without turn `index` and those after it."""
        return replace(self, turns=self.turns[:index])

    def retried(self, index: int) -> Conversation:
        """Turn `index` asked again, with its own regions; later turns are dropped."""
        turn = self.turns[index]
        return self.before(index).asked(turn.question, turn.regions)

    def on(self, picture: Picture) -> Conversation:
        """The same about the same picture under another token; what was still running counts as stopped."""
        turns = tuple(replace(t, status="stopped") if t.status == "running" else t for t in self.turns)
        table = self.table
        if table is not None and table.status == "running":
            table = replace(table, status="stopped")
        return Conversation(picture, turns, table)

    def history(self) -> tuple[Turn, ...]:
        """The earlier turns that the model should see: those that have an answer, even a partial one."""
        return tuple(turn for turn in self.turns[:-1] if turn.answer)

    def messages(self) -> list[dict[str, str]]:
        """What the Chatbot shows: always two messages a turn, but one while nothing has been answered yet."""
        shown = []
        for turn in self.turns:
            shown.append({"role": "user", "content": as_plain_text(turn.question)})
            if turn.answer or turn.status != "running":
                answer = turn.answer or f"({turn.status}, no answer)"
                answer += f"\n{turn.note}" if turn.note else ""
                shown.append({"role": "assistant", "content": as_plain_text(answer)})
        return shown


def is_text(text: str) -> bool:
    """Whether a text can be sent at all: a lone surrogate, which JSON may hold, has no UTF-8."""
    return not re.search("[\ud800-\udfff]", text)


def as_plain_text(text: str) -> str:
    """Text for the Chatbot, which reads HTML even with markdown off: `<img src=…>` would load a picture.

    Mentions stay as they are: the Chatbot shows unknown tags as text, and what is copied is not littered.
    """
    return re.sub(r"<(?!region\d+>)", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))


def check_question(question: object, conversation: Conversation, regions: Mapping[int, Region]) -> str:
    """The question, stripped, when it can be asked.

    Raises:
        InputError: it is empty or too long, there is no picture, or it mentions a region that is not drawn.
    """
    if not isinstance(question, str) or not question.strip():
        raise InputError("The message is empty; type a question first.")
    if not is_text(question):
        raise InputError("The message holds half a character (a lone surrogate); type it again.")
    if len(question) > MAX_QUESTION:
        raise InputError(
            f"The message has {len(question)} characters, more than the {MAX_QUESTION} allowed; shorten it."
        )
    if conversation.picture is None:
        raise InputError("There is no picture yet; upload one or choose an example first.")
    missing = sorted(set(mentioned(question)) - set(regions))
    if missing:
        names = ", ".join(f"<region{number}>" for number in missing)
        drawn = ", ".join(f"<region{number}>" for number in sorted(regions)) or "no region"
        raise InputError(
            f"{names} is not on the picture, which has {drawn}; draw it or ask about another one."
        )
    return question.strip()


def question_for_each(text: object) -> str:
    """The question of a message box, to be asked about each region: `<region>` stands for each in turn.

    A question about one region serves as it is; an empty box asks for a description.

    Raises:
        InputError: the text mentions several regions, or none.
    """
    text = text.strip() if isinstance(text, str) and is_text(text) else ""
    if not text:
        return "Describe <region>."
    if len(text) > MAX_QUESTION:
        raise InputError(
            f"The message has {len(text)} characters, more than the {MAX_QUESTION} allowed; shorten it."
        )
    numbers = set(mentioned(text))
    if len(numbers) + ("<region>" in text) != 1:
        found = f"mentions {len(numbers)} regions" if numbers else "mentions no region"
        raise InputError(f"The question {found}; write <region> where each region in turn belongs.")
    return MENTION.sub("<region>", text)


def fill_question(template: str, numbers: Sequence[int], subject: str) -> str:
    """An example question about the regions that are there.

    A single `{region}` becomes the newest, `{region}` with `{other}` the newest two, `{regions}` all;
    `{text}` is the subject. Numbers that are missing stand for what is drawn next, and asking says so.
    """
    present = sorted(numbers)
    while len(present) < 2:
        present.append(max(present, default=0) + 1)
    newest = numbers and "{other}" not in template
    return template.format(
        region=mention(max(numbers) if newest else present[-2]),
        other=mention(present[-1]),
        regions=list_mentions(present),
        text=subject,
    )

"""One visitor's state: the picture, the regions drawn on it, and the turns of the conversation.

Everything here is a value. Event handlers replace the visitor's `Conversation`, they never change it, so that
nothing is shared between visitors and a cancelled event leaves a whole state behind.

A turn keeps the regions as they were when it was asked: a retry uses these, whatever was drawn or removed
since.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from PIL import Image

from rgpt.errors import InputError
from rgpt.prompts import list_mentions, mention
from rgpt.regions import RLE, Box, Point, Polygon, Region, Scribble, open_image

MAX_REGIONS = 50
MAX_POINTS = 4000
"""Corners of one polygon, or points of one brush stroke."""
MAX_STROKES = 200
MAX_PAINT = 60
"""Brush work of one region (area swept by all strokes), in picture areas: bounds what rasterising costs."""
MAX_QUESTION = 4000

_MENTION = re.compile(r"<region(\d{1,9})>")

Status = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True)
class Picture:
    """An upright RGB picture; `token` tells it from every other picture of every visitor."""

    image: Image.Image = field(repr=False)
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    subject: str = "the red circle"
    """What the example question "which of these is …" asks about."""

    @classmethod
    def open(cls, source: str | bytes | Image.Image, **kwargs: Any) -> Picture:
        """Open a picture as `rgpt.regions.open_image` does (EXIF applied); InputError when it cannot be
        used.
        """
        return cls(open_image(source), **kwargs)

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height


@dataclass(frozen=True)
class Turn:
    """A question, its answer so far, and all regions as drawn when it was asked."""

    question: str
    regions: Mapping[int, Region] = field(default_factory=dict)
    answer: str = ""
    status: Status = "running"

    def with_mentioned_regions(self) -> Turn:
        """This turn with only those regions that its question mentions."""
        mentioned = mentioned_numbers(self.question)
        return replace(self, regions={n: r for n, r in self.regions.items() if n in mentioned})


@dataclass(frozen=True)
class Conversation:
    """What one visitor has: a picture (or none yet) and the turns about it, oldest first."""

    picture: Picture | None = None
    turns: tuple[Turn, ...] = ()

    @property
    def waiting(self) -> bool:
        """Whether the last turn has been asked and nothing has been answered yet."""
        return bool(self.turns) and self.turns[-1].status == "running"

    def asked(self, question: str, regions: Mapping[int, Region]) -> Conversation:
        """With a new turn at the end; a turn left running (its event was lost) counts as stopped."""
        turns = tuple(replace(t, status="stopped") if t.status == "running" else t for t in self.turns)
        return replace(self, turns=(*turns, Turn(question, dict(regions))))

    def answered(self, answer: str, status: Status) -> Conversation:
        """With this answer in the last turn."""
        return replace(self, turns=(*self.turns[:-1], replace(self.turns[-1], answer=answer, status=status)))

    def before(self, index: int) -> Conversation:
        """Without turn `index` and those after it."""
        return replace(self, turns=self.turns[:index])

    def retried(self, index: int) -> Conversation:
        """Turn `index` asked again, with its own regions; later turns are dropped."""
        turn = self.turns[index]
        return self.before(index).asked(turn.question, turn.regions)

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
                shown.append({"role": "assistant", "content": as_plain_text(answer)})
        return shown

    def to_json(self, model: str) -> dict[str, Any]:
        """The conversation for export; regions in the JSON form of `rgpt.regions`, by number."""
        size = {"width": self.picture.width, "height": self.picture.height} if self.picture else None
        turns = [
            {
                "question": turn.question,
                "answer": turn.answer,
                "status": turn.status,
                "regions": {str(number): region.to_json() for number, region in sorted(turn.regions.items())},
            }
            for turn in self.turns
        ]
        return {"format": "rgpt-conversation", "version": 1, "model": model, "picture": size, "turns": turns}


def mentioned_numbers(text: str) -> set[int]:
    """The numbers of the regions that a text mentions as `<regionN>`."""
    return {int(number) for number in _MENTION.findall(text)}


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
    if len(question) > MAX_QUESTION:
        raise InputError(
            f"The message has {len(question)} characters, more than the {MAX_QUESTION} allowed; shorten it."
        )
    if conversation.picture is None:
        raise InputError("There is no picture yet; upload one or choose an example first.")
    missing = sorted(mentioned_numbers(question) - set(regions))
    if missing:
        names = ", ".join(f"<region{number}>" for number in missing)
        drawn = ", ".join(f"<region{number}>" for number in sorted(regions)) or "no region"
        raise InputError(
            f"{names} is not on the picture, which has {drawn}; draw it or ask about another one."
        )
    return question.strip()


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


def read_regions(value: object, picture: Picture | None) -> dict[int, Region]:
    """The regions in the value of a `RegionCanvas`, by number, cut to the picture.

    The value comes from a browser and is checked like any request: kinds, counts, numbers and sizes. Regions
    that were drawn on another picture (an event that a new picture overtook) are left out. The picture's size
    is the one known here; what the page says about it is not read.

    Raises:
        InputError: something in the value is not what the canvas sends, or exceeds a cap.
    """
    if picture is None or value is None:
        return {}
    if not isinstance(value, dict) or not isinstance(value.get("regions"), list):
        raise InputError("The drawing could not be read; reload the page.")
    if value.get("picture") != picture.token:
        return {}
    drawn = value["regions"]
    if len(drawn) > MAX_REGIONS:
        raise InputError(f"There are {len(drawn)} regions, more than the {MAX_REGIONS} allowed; remove some.")
    regions: dict[int, Region] = {}
    for entry in drawn:
        number = entry.get("id") if isinstance(entry, dict) else None
        if type(number) is not int or not 1 <= number <= 9999 or number in regions:
            raise InputError(
                f"A region has the number {str(number)[:20]!r}; numbers are whole, 1 to 9999, and differ."
            )
        try:
            region = _read_region(entry, picture)
            region.check_inside(picture.height, picture.width)
        except InputError as error:
            raise InputError(f"<region{number}>: {error}") from error
        regions[number] = region
    return regions


_FIELDS = {"box": "box", "polygon": "points", "point": "point", "brush": "strokes"}


def _read_region(entry: dict[str, Any], picture: Picture) -> Region:
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise InputError(f"its kind is {str(kind)[:20]!r}; it must be one of {', '.join(_FIELDS)}.")
    if set(entry) != {"id", "kind", _FIELDS[kind]}:
        raise InputError(
            f"a {kind} has exactly id, kind and {_FIELDS[kind]}, not {sorted(map(str, entry))[:8]}."
        )
    shape = entry[_FIELDS[kind]]
    if kind == "box":
        x1, y1, x2, y2 = _numbers(shape, 4, "the box")
        box = Box(x1, y1, x2, y2)
        box.check_inside(picture.height, picture.width)
        return box.bounds(picture.height, picture.width)
    if kind == "polygon":
        return Polygon([_points(shape, "the polygon", picture)])
    if kind == "point":
        x, y = _numbers(shape, 2, "the point")
        # The right and lower edges belong to the canvas but not to the half-open picture.
        return Point(_clip(x, picture.width - 0.5), _clip(y, picture.height - 0.5))
    return _brush(shape, picture)


def _brush(strokes: object, picture: Picture) -> Region:
    """The union of the strokes: a `Scribble` when all have one width, else the pixels."""
    if not isinstance(strokes, list) or not 1 <= len(strokes) <= MAX_STROKES:
        raise InputError(f"a brush region is a list of 1 to {MAX_STROKES} strokes.")
    by_width: dict[float, list[list[tuple[float, float]]]] = {}
    swept = 0.0
    for stroke in strokes:
        if not isinstance(stroke, dict) or set(stroke) != {"width", "points"}:
            raise InputError("a brush stroke has exactly width and points.")
        (width,) = _numbers([stroke["width"]], 1, "the brush width")
        if not 0 < width <= max(picture.width, picture.height):
            raise InputError(
                f"the brush is {width:g} px wide; it must be above 0 and no wider than the picture."
            )
        points = _thinned(_points(stroke["points"], "a stroke", picture), width / 12)
        swept += sum(
            (abs(ax - bx) + width) * (abs(ay - by) + width) for (ax, ay), (bx, by) in pairwise(points)
        )
        by_width.setdefault(width, []).append(points)
    # One window a segment is what rasterising costs; small pictures are cheap whatever is painted.
    if swept > MAX_PAINT * max(picture.width * picture.height, 1_000_000):
        raise InputError("there is too much brush work in it; paint it with fewer strokes or a larger brush.")
    scribbles = [Scribble(lines, width) for width, lines in by_width.items()]
    if len(scribbles) == 1:
        return scribbles[0]
    mask = scribbles[0].to_mask(picture.height, picture.width)
    for scribble in scribbles[1:]:
        mask |= scribble.to_mask(picture.height, picture.width)
    return RLE.from_mask(mask)


def _points(values: object, thing: str, picture: Picture) -> list[tuple[float, float]]:
    """[[x, y], …] moved into the picture."""
    if not isinstance(values, list) or not values:
        raise InputError(f"{thing} has no points.")
    if len(values) > MAX_POINTS:
        raise InputError(f"{thing} has {len(values)} points, more than the {MAX_POINTS} allowed.")
    pairs = (_numbers(pair, 2, f"a point of {thing}") for pair in values)
    return [(_clip(x, picture.width), _clip(y, picture.height)) for x, y in pairs]


def _numbers(values: object, count: int, thing: str) -> list[float]:
    good = isinstance(values, list) and len(values) == count and all(type(v) in (int, float) for v in values)
    # The range first: a Python int may be too large for isfinite.
    if not good or not all(abs(v) < 1e9 and math.isfinite(v) for v in values):  # type: ignore[attr-defined]
        raise InputError(f"{thing} needs {count} finite numbers, got {str(values)[:60]}.")
    return [float(v) for v in values]  # type: ignore[attr-defined]


def _clip(value: float, most: float) -> float:
    return min(max(value, 0.0), float(most))


def _thinned(points: list[tuple[float, float]], step: float) -> list[tuple[float, float]]:
    """The points without those nearer than `step` to the one kept before; the last one stays."""
    kept = points[:1]
    for point in points[1:]:
        if math.dist(point, kept[-1]) >= step:
            kept.append(point)
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]

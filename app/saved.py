"""A conversation as a file: written for the visitor, read back with the distrust that any upload deserves.

Format `rgpt-conversation`, version 2: the picture (PNG up to `LOSSLESS_PIXELS`, else JPEG), the turns with
the regions of each, what is on the canvas, the last table, and `labels`, where some region has a name.
Regions are in the JSON form of `rgpt.regions`.
Version 1 had neither picture nor canvas; it is read onto a picture of the same size.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from app.drawing import MAX_REGIONS, add_mask
from app.session import Conversation, Label, Picture, Table, Turn, is_text
from rgpt.errors import InputError
from rgpt.formats.outward import csv_cell
from rgpt.prompts import mentioned
from rgpt.regions import Region, check_work, region_from_json

LOSSLESS_PIXELS = 1_000_000
MAX_TURNS = 500
MAX_TEXT = 50_000
"""Characters of one question or answer."""

MAX_VALUES = 1_000_000
"""By the commas between them: each takes memory, whatever it is worth."""

_STATUSES = ("done", "stopped", "failed")


def to_json(
    conversation: Conversation, drawn: Mapping[int, Region], model: str, last_id: int = 0
) -> dict[str, Any]:
    """The conversation, and the regions `drawn` on its picture now, as plain JSON values."""
    picture, table = conversation.picture, conversation.table
    turns = [
        {
            "question": turn.question,
            "answer": turn.answer,
            "status": turn.status,
            "regions": _regions_json(turn.regions),
            **({"note": turn.note} if turn.note else {}),
        }
        for turn in conversation.turns
    ]
    labels = labels_of(conversation, drawn)
    value = {
        "format": "rgpt-conversation",
        "version": 2,
        "model": model,
        "picture": picture and {"width": picture.width, "height": picture.height, "data": encoded(picture)},
        "turns": turns,
        "drawn": _regions_json(drawn),
        "last_id": max([last_id, *drawn]),
        "table": table
        and {
            "question": table.question,
            "status": table.status,
            "regions": _regions_json(table.regions),
            "answers": {str(number): answer for number, answer in table.answers.items()},
            **({"notes": {str(number): note for number, note in table.notes.items()}} if table.notes else {}),
        },
    }
    if labels:
        value["labels"] = {str(n): {"name": label.name, "score": label.score} for n, label in labels.items()}
    return value


def encoded(picture: Picture) -> str:
    """The picture's pixels in base64: lossless where it is small, else as a good JPEG."""
    buffer = io.BytesIO()
    if picture.width * picture.height <= LOSSLESS_PIXELS:
        picture.image.save(buffer, "PNG")
    else:
        picture.image.save(buffer, "JPEG", quality=95, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def from_json(content: bytes, shown: Picture | None = None) -> tuple[Conversation, dict[int, Region], int]:
    """Read an exported conversation: (conversation, regions drawn on its picture, last number given).

    Args:
        shown: the picture for files that hold none; it must have the size that the file tells.

    Raises:
        InputError: it is no such file, or something in it is damaged; names what.
    """
    if content.count(b",") > MAX_VALUES:
        raise InputError(f"The file holds more than {MAX_VALUES} values, which no conversation does.")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError("The file is not JSON; choose one that was made with Export.") from error
    if not isinstance(value, dict) or value.get("format") != "rgpt-conversation":
        raise InputError("The file is no conversation; choose one that was made with Export.")
    if value.get("version") not in (1, 2):
        raise InputError(
            f"The file has version {str(value.get('version'))[:20]}; expected 1 or 2: update rgpt."
        )
    picture = _picture(value.get("picture"), shown)
    turns = value.get("turns")
    if not isinstance(turns, list) or len(turns) > MAX_TURNS:
        raise InputError(f"The file's turns are not a list of at most {MAX_TURNS}; export it again.")
    if turns and picture is None:
        raise InputError("The file holds turns but no picture; export it again.")
    read = tuple(_turn(turn, f"turn {index}", picture) for index, turn in enumerate(turns, 1))
    drawn = _regions(value.get("drawn", {}), "the drawing", picture)
    if picture is not None:
        check_work(drawn.values(), picture.height, picture.width)
    last_id = value.get("last_id", 0)
    if type(last_id) is not int or not 0 <= last_id <= 9999:
        raise InputError("The file's last_id is not a whole number up to 9999; export it again.")
    numbers = [number for turn in read for number in turn.regions]
    table = value.get("table")
    conversation = Conversation(picture, read, None if table is None else _table(table, picture))
    _take_labels(value.get("labels", {}), conversation, drawn)
    return conversation, drawn, max([last_id, *drawn, *numbers])


def labels_of(conversation: Conversation, drawn: Mapping[int, Region] | None = None) -> dict[int, Label]:
    """The labels of the regions of the table, which keeps what it was asked with, and of those `drawn`."""
    if conversation.picture is None:
        return {}
    regions = {**(drawn or {}), **(conversation.table.regions if conversation.table else {})}
    labels = {number: conversation.picture.label(region) for number, region in sorted(regions.items())}
    return {number: label for number, label in labels.items() if label}


def to_csv(conversation: Conversation, drawn: Mapping[int, Region] | None = None) -> str:
    """The table as CSV (RFC 4180): number, bounds in pixels of the upright picture; name and score where some
    region has them; question and answer where there was a question, and where that asked for names, the
    likeliest ones. Texts are no formulas, see `csv_cell`.
    """
    picture, table = conversation.picture, conversation.table
    labels = labels_of(conversation, drawn)
    columns = ["region", "x1", "y1", "x2", "y2"] + ["name", "score"] * bool(labels)
    columns += ["question", "answer"] * (table is not None or not labels)
    columns += ["likeliest"] * (table is not None and bool(table.notes))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    regions = {**(drawn or {}), **(table.regions if table else {})}
    answers = table.answers if table else {}
    for number in sorted(set(labels) | set(answers)):
        assert picture is not None
        bounds = regions[number].bounds(picture.height, picture.width).xyxy
        row: dict[str, object] = dict(zip(columns[1:5], (f"{value:.6g}" for value in bounds), strict=True))
        row["region"] = number
        if number in labels:
            row |= {"name": csv_cell(labels[number].name), "score": f"{labels[number].score:.4f}"}
        if table and number in answers:
            question = table.question.replace("<region>", f"<region{number}>")
            said = {"question": question, "answer": answers[number], "likeliest": table.notes.get(number, "")}
            row |= {column: csv_cell(text) for column, text in said.items()}
        writer.writerow(row)
    return text.getvalue()


def _regions_json(regions: Mapping[int, Region]) -> dict[str, Any]:
    return {str(number): region.to_json() for number, region in sorted(regions.items())}


def _picture(value: object, shown: Picture | None) -> Picture | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InputError("The file's picture is not an object; export it again.")
    if "data" in value:
        if not isinstance(value["data"], str):
            raise InputError("The file's picture is not base64 text; export it again.")
        try:
            content = base64.b64decode(value["data"], validate=True)
        except ValueError as error:
            raise InputError(f"The file's picture is not base64 ({error}); export it again.") from error
        picture = Picture.open(content)
    elif shown is None:
        raise InputError("The file holds no picture; open the picture first, then import again.")
    else:
        picture = Picture(shown.image, subject=shown.subject)
    size = (value.get("width"), value.get("height"))
    if size != (picture.width, picture.height):
        raise InputError(
            f"The file's picture is {str(size[0])[:9]} x {str(size[1])[:9]}, this one is "
            f"{picture.width} x {picture.height}; open the picture that it belongs to."
        )
    return picture


def _turn(value: object, thing: str, picture: Picture | None) -> Turn:
    if not isinstance(value, dict):
        raise InputError(f"The file's {thing} is not an object; export it again.")
    status = value.get("status")
    question = _text(value.get("question"), f"question of {thing}")
    regions = _regions(value.get("regions", {}), thing, picture)
    if missing := sorted(set(mentioned(question)) - set(regions)):
        raise InputError(
            f"The file's {thing} mentions <region{missing[0]}> but has no such region; export it again."
        )
    return Turn(
        question,
        regions,
        _text(value.get("answer"), f"answer of {thing}"),
        status if status in _STATUSES else "stopped",
        _text(value.get("note", ""), f"note of {thing}"),
    )


def _table(value: object, picture: Picture | None) -> Table:
    if not isinstance(value, dict) or not isinstance(value.get("answers"), dict):
        raise InputError("The file's table is not an object with answers; export it again.")
    regions = _regions(value.get("regions", {}), "the table", picture)
    notes = value.get("notes", {})
    if not isinstance(notes, dict):
        raise InputError("The file's notes of the table are not an object; export it again.")
    answers, beside = (
        {n: _text(texts[str(n)], "the table") for n in regions if str(n) in texts}
        for texts in (value["answers"], notes)
    )
    status = value.get("status")
    question = _text(value.get("question"), "the table")
    return Table(question, regions, answers, status if status in _STATUSES else "stopped", beside)


def _take_labels(value: object, conversation: Conversation, drawn: Mapping[int, Region]) -> None:
    """Give the picture the labels of its regions."""
    table, picture = conversation.table, conversation.picture
    regions = {**drawn, **(table.regions if table else {})}
    numbers = {str(number): number for number in regions}
    if not isinstance(value, dict) or not set(value) <= set(numbers):
        raise InputError(
            "The file's labels are not an object by the numbers of its regions; export it again."
        )
    for key, entry in value.items():
        score = entry.get("score") if isinstance(entry, dict) else None
        if type(score) not in (int, float) or not 0 <= score <= 1:
            raise InputError(f"The file's label of <region{key}> has no score from 0 to 1; export it again.")
        label = Label(_text(entry.get("name"), f"label of <region{key}>"), float(score))
        assert picture is not None
        picture.labels[add_mask(picture, regions[numbers[key]])] = label


def _text(value: object, thing: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not is_text(value):
        raise InputError(f"The file's {thing} is not text of at most {MAX_TEXT} characters; export it again.")
    return value


def _regions(value: object, thing: str, picture: Picture | None) -> dict[int, Region]:
    if not isinstance(value, dict) or len(value) > MAX_REGIONS:
        raise InputError(
            f"The file's regions of {thing} are not an object of at most {MAX_REGIONS}; export it again."
        )
    regions: dict[int, Region] = {}
    for key, entry in value.items():
        if not (key.isascii() and key.isdecimal() and len(key) <= 4 and int(key) > 0):
            raise InputError(f"The file's {thing} has a region {key[:20]!r}; numbers are 1 to 9999.")
        if picture is None:
            raise InputError(f"The file's {thing} has regions but no picture; export it again.")
        try:
            region = region_from_json(entry)
            region.check_inside(picture.height, picture.width)
        except InputError as error:
            raise InputError(f"The file's {thing}, <region{key}>: {error}") from error
        regions[int(key)] = region
    return regions

"""JSON and JSON lines, told apart by looking; a half-written file is named as such.

Several published files hold JSON lines under the name `.json` (POPE), so the suffix alone decides nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.formats.jsonl import BrokenLine, parse_line

ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
PathOrValue = Path | str | list[Any] | dict[str, Any]


def show(value: Any, limit: int = 60) -> str:
    """A value in a message: its repr, cut short."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def name_of(source: PathOrValue) -> str:
    """What a message calls a file, or values handed over directly."""
    return str(source) if isinstance(source, str | Path) else "the given values"


def read_text(path: Path | str) -> str:
    """The text of a UTF-8 file. Raises InputError when it is missing, a folder, empty or not UTF-8."""
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing at this path"
        raise InputError.about(str(path), "an existing file", found)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError.about(
            str(path), "UTF-8", f"the byte 0x{error.object[error.start]:02x}", "save it as UTF-8"
        ) from error
    if not text.strip():
        raise InputError.about(str(path), "JSON or JSON lines", "an empty file", "run again")
    return text


def read_json(source: PathOrValue) -> Any:
    """One JSON document, or a list with one value a line for JSON lines; values pass through.

    Raises:
        InputError: the file is missing, empty, ends in the middle (a run that was stopped while writing) or
            is not JSON, or holds half a surrogate pair; the sentence names file and line, or the place.
    """
    if not isinstance(source, str | Path):
        return source
    text = read_text(source)
    value = _parse(source, text)
    if ESCAPED_SURROGATE.search(text):  # pairs are written so too, as is every character of a smiley
        refuse_lone_surrogates(value, str(source))
    return value


def _parse(source: Path | str, text: str) -> Any:
    if Path(source).suffix != ".jsonl":
        try:
            return json.loads(text)
        except RecursionError as error:
            raise InputError.about(str(source), "JSON", "too many brackets in brackets") from error
        except json.JSONDecodeError as error:
            if not (error.msg == "Extra data" or _is_json(text.lstrip().partition("\n")[0])):
                raise _broken(source, error, text) from error
        except ValueError as error:  # an integer of more than 4,300 digits
            raise InputError.about(str(source), "JSON", str(error)[:80]) from error
    return _read_lines(source, text)


def refuse_lone_surrogates(value: Any, name: str) -> None:
    """Raises InputError naming the first text that is no Unicode: nothing could write or tokenise it."""
    for place, text in _texts(value, name):
        if LONE_SURROGATE.search(text):
            raise InputError.about(place, "Unicode", f"half a surrogate pair in {show(text)}", "repair it")


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """(place, text) of all strings in a value."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield place, str(key)
            yield from _texts(inner, f"{place}, {key}")
    elif isinstance(value, list | tuple):
        for n, inner in enumerate(value):
            yield from _texts(inner, row_name(place, n))


def _is_json(line: str) -> bool:
    try:
        parse_line(line)
    except BrokenLine:
        return False
    return True


def _read_lines(source: Path | str, text: str) -> list[Any]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    values = []
    for number, line in lines:
        try:
            values.append(parse_line(line))
        except BrokenLine as error:
            if number == lines[-1][0] and not text.endswith("\n"):
                raise InputError.about(
                    f"{source}:{number}",
                    "a whole JSON object on the last line",
                    f"one that breaks off after {len(line)} characters",
                    "the file is half-written: finish or repeat the run that makes it",
                ) from error
            raise InputError(f"{source}:{number}: {error}") from error
    return values


def _broken(source: Path | str, error: json.JSONDecodeError, text: str) -> InputError:
    unfinished = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
    if unfinished:
        return InputError.about(
            str(source),
            "whole JSON",
            f"a file that breaks off in line {error.lineno}",
            "the file is half-written: finish or repeat the run that makes it",
        )
    return InputError.about(f"{source}:{error.lineno}", "JSON", error.msg.lower(), "repair the line")


def row_name(source: PathOrValue, index: int) -> str:
    """How a message names row `index` (from 0) of a list or of JSON lines without blank lines."""
    return f"{name_of(source)}, row {index + 1}"

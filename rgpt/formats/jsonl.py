"""JSON lines: one object a line, UTF-8, blank lines passed over.

Lines are read as bytes: one that is not UTF-8 must be named, not end the reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rgpt.errors import InputError


class BrokenLine(InputError):
    """A line that is not one JSON value in UTF-8."""


def numbered_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """(number, line) of every line that is not blank, counted from 1; memory does not grow with the file."""
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, line


def parse_line(line: bytes | str) -> Any:
    """The value of a line. Raises BrokenLine, an InputError, when it is not UTF-8 or not one JSON value."""
    try:
        return json.loads(line.decode("utf-8-sig") if isinstance(line, bytes) else line)
    except UnicodeDecodeError as error:
        raise _wrong("UTF-8", f"the byte 0x{line[error.start]:02x}", "save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _wrong("one JSON object", str(error)[:120], "write one object a line") from error


def dump_line(value: Any) -> str:
    """A value as a line, its end included."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def _wrong(expected: str, actual: str, fix: str) -> InputError:
    return BrokenLine.about("line", expected, actual, fix)

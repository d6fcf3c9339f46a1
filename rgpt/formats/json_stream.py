"""JSON files larger than memory, one element at a time.

Annotation files are one enormous array, or an object whose members are a few of them. Elements are decoded
by the standard library's C scanner from a window of the file, several times as fast as an event parser.
Files may be compressed (.gz, or .zip with one file in it), as many data sets are released.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from json.decoder import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from rgpt.errors import InputError

WINDOW = 1 << 20
"""Bytes read at a time."""
EXPANSION = 200
"""Times that a compressed file may expand; JSON of boxes and outlines does 5 to 30, zeros a thousand."""
FREE = 1 << 26
"""Bytes that any file may expand to."""
CUT_OFF = 64
"""Characters before the window's end in which a decoding error may come from the cut alone (a number, a
literal or an escape in two parts); an error before them is the file's."""


def read_array(path: Path) -> Iterator[Any]:
    """The elements of a JSON array.

    Raises InputError: at once when the file is missing, later when it is not an array or is cut off.
    """
    _check_file(path)
    return (value for value, _ in _elements(path))


def _elements(path: Path) -> Iterator[tuple[Any, str]]:
    with _scanner(path) as scanner:
        scanner.expect("[", "a list at the top")
        yield from scanner.array()
        scanner.end()


def read_records(path: Path) -> Iterator[Any]:
    """The elements of a JSON array or the lines of a JSONL file, whichever the file's first character says.

    Raises InputError as `read_array`.
    """
    _check_file(path)
    return _records(path)


def _records(path: Path) -> Iterator[Any]:
    with _scanner(path) as scanner:
        if scanner.peek() == "[":
            scanner.expect("[", "a list")
            yield from (value for value, _ in scanner.array())
        else:
            while scanner.peek():
                yield scanner.value()[0]
            return
        scanner.end()


def read_members(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, Any, str]]:
    """(key, element, the element's JSON text) of the arrays under `keys` of a JSON object, in file order.

    Raises InputError: at once when the file is missing; later when it is no object, is cut off, or lacks one
    of `keys`.
    """
    _check_file(path)
    return _members(path, keys)


def _members(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, Any, str]]:
    missing = set(keys)
    with _scanner(path) as scanner:
        scanner.expect("{", "an object at the top")
        while scanner.peek() != "}":
            key = scanner.value()[0]
            scanner.expect(":", "a colon after a key")
            if scanner.peek() == "[":
                scanner.expect("[", "a list")
                for value, text in scanner.array():  # other lists are passed over element by element, too
                    if key in keys:
                        yield key, value, text
                missing.discard(key)
            else:
                scanner.value()
            if scanner.peek() != "}":
                scanner.expect(",", "a comma between members")
        scanner.expect("}", "the end of the object")
        scanner.end()
    if missing:
        raise InputError.about(
            f"file {str(path)!r}",
            f"lists under the keys {', '.join(keys)}",
            f"none under {', '.join(sorted(missing))}",
            "check that it is the annotation file",
        )


class _Scanner:
    """Decodes one value after the other from a window of text that slides over the stream."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self._decode = json.JSONDecoder().raw_decode
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._place, self._ended = "", 0, False

    def _more(self, size: int | None = None) -> bool:
        """Read on; False at the end of the file."""
        if self._ended:
            return False
        try:
            data = self._stream.read(size or WINDOW)
            self._ended = not data
            self._text = self._text[self._place :] + self._utf8.decode(data, final=self._ended)
        except InputError:
            raise
        # ValueError: a byte that is not UTF-8; the other two: broken .gz and .zip
        except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
            raise self._wrong(f"data that cannot be read ({error})") from error
        self._place = 0
        return not self._ended

    def peek(self) -> str:
        """The next character that is not white space, "" at the end."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in " \t\r\n":
                self._place += 1
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more():
                return ""

    def expect(self, character: str, what: str) -> None:
        found = self.peek()
        if found != character:
            raise self._wrong(f"{found!r} instead of {what}" if found else f"its end instead of {what}")
        self._place += 1

    def value(self) -> tuple[Any, str]:
        """The next value and its text."""
        if not self.peek():
            raise self._wrong("its end inside the data")
        size = WINDOW
        while True:
            try:
                value, end = self._decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                if not isinstance(error, JSONDecodeError | RecursionError):
                    raise self._wrong("a number of too many digits") from error  # Python reads 4300
                # The value may only be cut off by the window: read on. Doubling keeps a value that is itself
                # large from being decoded again for every window. A string's error lies where it begins.
                far = isinstance(error, RecursionError) or (
                    error.pos < len(self._text) - CUT_OFF and not error.msg.startswith("Unterminated")
                )
                if far or not self._more(size):
                    message = str(error).partition(":")[0]
                    raise self._wrong(message[:1].lower() + message[1:]) from error
                size *= 2
                continue
            if isinstance(value, int | float) and end > len(self._text) - CUT_OFF and not self._ended:
                self._more()
                continue  # "1." and "1e" at the end are read as 1: the digits may go on in the next window
            text = self._text[self._place : end]
            self._place = end
            return value, text

    def array(self) -> Iterator[tuple[Any, str]]:
        """The elements after "[", up to and with the closing bracket."""
        if self.peek() != "]":
            yield self.value()
            while self.peek() == ",":
                self._place += 1
                yield self.value()
        self.expect("]", "a comma or the end of the list")

    def end(self) -> None:
        """Refuse what follows the top value: two files glued together are a broken download."""
        if self.peek():
            raise self._wrong(f"{self.peek()!r} after the end of the data")

    def _wrong(self, actual: str) -> InputError:
        return InputError.about(f"file {str(self._path)!r}", "whole JSON", actual, "download it again")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError.about(
            f"file {str(path)!r}", "an existing file", "a folder" if path.is_dir() else "nothing at this path"
        )


@contextmanager
def _scanner(path: Path) -> Iterator[_Scanner]:
    with open_data(path) as stream:
        yield _Scanner(stream, path)


@contextmanager
def open_data(path: Path) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file, under a progress bar over the bytes on disk.

    Raises InputError when the file is missing or is a .zip that does not hold exactly one file.
    """
    _check_file(path)
    with open(path, "rb") as raw, tqdm(**_bar(path)) as bar:
        counted = io.BufferedReader(_Counted(raw, bar), WINDOW)
        if path.suffix == ".gz":
            with gzip.open(counted) as stream:
                yield _bounded(stream, path)
        elif path.suffix == ".zip":
            try:
                archive = zipfile.ZipFile(counted)
            except zipfile.BadZipFile as error:
                raise InputError(f"file {str(path)!r}: {error}; download it again.") from error
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX")]
            if len(names) != 1:
                raise InputError.about(
                    f"archive {str(path)!r}", "one file in it", str(len(names)), "unpack it"
                )
            with archive, archive.open(names[0]) as stream:
                yield _bounded(stream, path)
        else:
            yield counted


def _bar(path: Path) -> dict[str, Any]:
    total = path.stat().st_size
    # `delay`: nothing flickers for small files; `None`: none where nobody looks.
    return {"total": total, "desc": path.name, "unit": "B", "unit_scale": True, "delay": 2, "disable": None}


def _bounded(stream: Any, path: Path) -> BinaryIO:
    return io.BufferedReader(_Expanding(stream, path), WINDOW)


class _Expanding(io.RawIOBase):
    """What comes out of a compressed file, as long as it is no more than such files of data expand to."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path, self._read = stream, path, 0
        self._most = max(FREE, EXPANSION * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._read += len(data)
        if self._read > self._most:
            raise InputError.about(
                f"file {str(self._path)!r}",
                f"data that expand at most {EXPANSION} times",
                f"more than {self._read:,} bytes",
                "unpack it if you trust it",
            )
        return len(data)


class _Counted(io.RawIOBase):
    """A raw stream whose reading moves a progress bar."""

    def __init__(self, raw: BinaryIO, bar: Any) -> None:
        self._raw, self._bar, self._reached = raw, bar, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        if (place := self._raw.tell()) > self._reached:
            self._bar.update(place - self._reached)
            self._reached = place
        return len(data)

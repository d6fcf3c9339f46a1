"""The journal: an append-only JSONL file in which nothing finished is ever lost or said twice.

Every append is one write and one fsync, shared by those who append at the same time; `append` returns when
the line is on the disk. A run that is killed can leave half of the last line: opening cuts it off. One
process writes a journal at a time (a lock of the operating system, gone with its process).
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.files import lock
from rgpt.formats.jsonl import BrokenLine, dump_line, parse_line

Replay = Callable[[dict[str, Any]], None]


class Journal:
    """An open journal. Close it, or use it as a context manager.

    Args:
        path: created with its folder when it is not there.
        header: what the run is about; the first line. A journal with another header is refused.
        replay: is called with every record that is there already, in order, without the header.

    Attributes:
        torn_bytes: how much of a half last line was cut off.

    Raises:
        InputError: when another process writes it, a line (not the last) is damaged, or the headers differ.
    """

    def __init__(self, path: Path, header: dict[str, Any], replay: Replay) -> None:
        self.path, self.torn_bytes = path, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if not lock(self._file):
                raise InputError(f"{path}: another process writes this journal; wait for it.")
            self.torn_bytes = self._cut_torn_line()
            # Parsed from JSON, so that tuples and lists compare equal.
            header = json.loads(json.dumps({"kind": "header", **header}))
            records = read_journal(path)
            if (found := next(records, None)) is None:
                self._write(_line(header))
            else:
                _check_header(path, found, header)
                for record in records:
                    replay(record)
        except BaseException:
            os.close(self._file)
            raise
        self._guard, self._turn = threading.Lock(), asyncio.Lock()
        self._waiting: list[bytes] = []
        self._queued = self._written = 0

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._guard:  # a thread may still be writing for a task that was cancelled
            os.close(self._file)

    async def append(self, record: dict[str, Any]) -> None:
        """Return when `record` is on the disk. Raises OSError when it cannot be (then nothing of it is)."""
        self._waiting.append(_line(record))
        self._queued += 1
        ticket = self._queued
        async with self._turn:
            if self._written >= ticket:
                return  # whoever had the turn before wrote this line along
            lines, upto, self._waiting = self._waiting, self._queued, []
            await asyncio.to_thread(self._write_guarded, b"".join(lines))
            self._written = upto

    def write(self, record: dict[str, Any]) -> None:
        """As `append`, without an event loop."""
        self._write_guarded(_line(record))

    def _write_guarded(self, data: bytes) -> None:
        with self._guard:
            self._write(data)

    def _write(self, data: bytes) -> None:
        end = os.fstat(self._file).st_size
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, end)  # a full disk must not leave half a line in the middle
            raise

    def _cut_torn_line(self) -> int:
        """Cut what follows the last line break, and a last line that is no JSON. Returns the bytes cut."""
        size = end = os.fstat(self._file).st_size
        tail = b""
        while end > 0 and b"\n" not in tail.rstrip(b"\n"):
            step = min(1 << 16, end)
            tail = os.pread(self._file, step, end - step) + tail
            end -= step
        start = size - len(tail)
        keep = tail.rfind(b"\n") + 1
        last = tail[:keep].rstrip(b"\n")
        last_start = last.rfind(b"\n") + 1
        if last[last_start:] and _record(last[last_start:]) is None:
            keep = last_start  # a power cut may leave blocks of zeros that end in a line break
        if start + keep < size:
            os.ftruncate(self._file, start + keep)
            os.fsync(self._file)
        return size - start - keep


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal, header first; half a last line is passed over.

    Raises:
        InputError: naming the line, when another line is damaged.
    """
    return (record for _, record in placed_records(path))


def placed_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_journal`, each record with its line's byte offset.

    Raises:
        InputError: naming the line, when another line is damaged.
    """
    offset = 0
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                return
            if (record := _record(line)) is None:
                raise InputError(
                    f"{path}:{number}: this line is damaged; restore the file or remove the line."
                )
            yield offset, record
            offset += len(line)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_line(line)
    except BrokenLine:
        return None
    return record if isinstance(record, dict) else None


def _line(record: dict[str, Any]) -> bytes:
    return dump_line(record).encode("utf-8")


def _check_header(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in sorted(set(found) | set(wanted)):
        if found.get(key) != wanted.get(key):
            raise InputError(
                f"{path}: this journal was begun with {key} {found.get(key)!r}, not {wanted.get(key)!r}; "
                "continue with the same settings or give another folder."
            )

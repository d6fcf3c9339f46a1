"""Sample files opened for random access: our JSONL, and LLaVA's JSON as it is.

A file is scanned once. What stays in memory is where each sample begins and ends and how long it is, not the
samples: a file of a million samples costs a few megabytes, in every worker.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rgpt.data.schema import QuestionAnswer, Sample
from rgpt.errors import InputError
from rgpt.files import file_sha256, sha256
from rgpt.formats.jsonl import BrokenLine, parse_line
from rgpt.formats.llava import LlavaRecord, read_llava
from rgpt.formats.paths import picture_below

KINDS = ("jsonl", "llava")


class FileChanged(InputError):
    """A file is no longer what it was when it was opened."""


class SampleFile:
    """The samples of one file, by number.

    Args:
        path: a JSONL file of `rgpt.data.schema`, or a JSON list in LLaVA's form.
        kind: `jsonl` or `llava` (a list, or one record a line); default: by the name's ending, `.json` is
            LLaVA's.
        images: the folder that LLaVA's picture paths start from; default: the file's own.
        check: make every sample once, so that a wrong line stops the run before it begins.
        keep_bad: with `check`, go on after a sample that is wrong; it raises again when it is asked for.

    Attributes:
        characters: `[n]` int64, letters of the conversation: a cheap stand-in for its length in tokens.
        has_picture: `[n]` bool.
        sha256: of the whole file, hex digits.
        notes: (with `check`) what was mended in LLaVA's records, and how often.
        keys: with `check`, `[n]` int64 that tell samples apart by picture path and text.

    Raises:
        InputError: when the file is missing or empty, or (with `check`) at the first sample that is wrong,
            naming file and line; with `keep_bad` only when all of them are.
    """

    def __init__(
        self,
        path: Path | str,
        kind: str | None = None,
        images: Path | str | None = None,
        check: bool = True,
        progress: bool = False,
        keep_bad: bool = False,
    ) -> None:
        self.path = Path(path)
        self.kind = kind or ("llava" if self.path.suffix == ".json" else "jsonl")
        if self.kind not in KINDS:
            raise InputError.about(f"kind of {self.path}", f"one of {', '.join(KINDS)}", self.kind, "choose")
        if not self.path.is_file():
            found = "a folder" if self.path.is_dir() else "nothing at this path"
            raise InputError.about(f"data {str(self.path)!r}", "an existing file", found)
        self.images = Path(images) if images is not None else self.path.parent
        if not self.images.is_dir():
            raise InputError.about(
                f"images of {self.path}",
                "an existing folder",
                repr(str(self.images)),
                "give the folder that picture paths start from",
            )
        facts = self.path.stat()
        self._size, self._changed = facts.st_size, facts.st_mtime_ns
        self._bytes: mmap.mmap | None = None
        self._open: int | None = None
        self.sha256 = file_sha256(self.path)
        lines = (
            self.kind == "jsonl"
            or self._map()[:64].decode("latin-1").lstrip("\xef\xbb\xbf \t\r\n")[:1] == "{"
        )
        spans = self._jsonl_spans() if lines else self._llava_spans()
        self._starts = np.array([start for start, _ in spans], np.int64)
        self._ends = np.array([end for _, end in spans], np.int64)
        if not len(spans):
            raise InputError.about(f"data {str(self.path)!r}", "at least one sample", "none")
        self.characters = np.zeros(len(spans), np.int64)
        self.has_picture = np.zeros(len(spans), bool)
        self.notes = Counter[str]()
        self.keys = np.zeros(len(spans), np.int64)
        bad: list[InputError] = []
        numbers = tqdm(
            range(len(spans)), desc=f"reading {self.path.name}", disable=not progress, mininterval=2
        )
        for number in numbers:
            if check:
                try:
                    sample, notes = self._read(number)
                except InputError as error:
                    if not keep_bad:
                        raise
                    bad.append(error)
                    continue
                self.notes += notes
                self.keys[number] = _key(sample)
                self.characters[number] = sum(len(turn.question) + len(turn.answer) for turn in sample.turns)
                self.has_picture[number] = sample.image is not None
            else:
                raw = self._raw(number)
                self.characters[number] = len(raw)
                self.has_picture[number] = b'"image"' in raw and b'"image": null' not in raw
        self._bytes = None  # a file that is cut short while it is mapped would end the process
        if len(bad) == len(spans):
            raise InputError(f"all {len(bad)} samples are bad, the first: {bad[0]}")
        if progress:
            for note, count in self.notes.items():
                tqdm.write(f"{self.path}: {count} times: {note}", file=sys.stderr)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Sample:
        """Raises InputError naming file and line."""
        return self._read(number)[0]

    def _read(self, number: int) -> tuple[Sample, Counter[str]]:
        """A sample, and what was mended in it."""
        try:
            value = parse_line(self._raw(number))
            if self.kind == "jsonl":
                return Sample.from_json(value, self.path.parent), Counter()
            record = read_llava(value)
            return sample_from_llava(record, self.images, number), record.notes
        except FileChanged:
            raise
        except InputError as error:
            kind = BrokenLine if isinstance(error, BrokenLine) else InputError
            raise kind(f"{self.path}:{self.line(number)}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        # What is open does not travel to a worker.
        return {**self.__dict__, "_bytes": None, "_open": None}

    def __del__(self) -> None:
        if self.__dict__.get("_open") is not None:
            os.close(self._open)  # type: ignore[arg-type]

    def _map(self) -> mmap.mmap:
        if self._bytes is None:
            if not os.path.getsize(self.path):
                raise InputError.about(
                    f"data {str(self.path)!r}", "samples", "an empty file", "write it again"
                )
            with open(self.path, "rb") as stream:
                self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return self._bytes

    def _raw(self, number: int) -> bytes:
        """Raises FileChanged when the file is no longer what it was."""
        start, end = int(self._starts[number]), int(self._ends[number])
        if self._bytes is not None:
            return self._bytes[start:end]
        return self._bytes_at(start, end - start)

    def _bytes_at(self, start: int, length: int) -> bytes:
        if self._open is None:
            try:
                self._open = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                raise FileChanged(f"data {str(self.path)!r} can no longer be opened: {error}.") from error
        found = os.fstat(self._open)
        size = found.st_size
        if size == self._size and found.st_mtime_ns != self._changed:
            self._compare(found.st_mtime_ns)
        data = os.pread(self._open, length, start) if size == self._size else b""
        if len(data) != length:
            raise FileChanged.about(
                f"data {str(self.path)!r}",
                f"the {self._size:,} bytes it had when it was opened",
                f"{size:,}",
                "put it back as it was",
            )
        return data

    def _compare(self, changed: int) -> None:
        """Raises FileChanged unless a file that was written to again holds what it held."""
        assert self._open is not None
        # Of the file that is open, whatever has its name now.
        starts = range(0, self._size, 1 << 20)
        now = sha256(os.pread(self._open, 1 << 20, start) for start in starts)
        if now != self.sha256:
            raise FileChanged.about(
                f"data {str(self.path)!r}",
                "what it held when it was opened",
                "something else of the same length",
                "put it back as it was",
            )
        self._changed = changed

    def line(self, number: int) -> int:
        """The line of the file on which a sample begins, from 1."""
        stop, piece = int(self._starts[number]), 2**24
        starts = range(0, stop, piece)
        return sum(self._bytes_at(at, min(piece, stop - at)).count(b"\n") for at in starts) + 1

    def _jsonl_spans(self) -> list[tuple[int, int]]:
        data, spans, start = self._map(), [], 0
        if data[:3] == b"\xef\xbb\xbf":
            start = 3
        while start < len(data):
            end = data.find(b"\n", start)
            end = len(data) if end < 0 else end
            if data[start:end].strip():
                spans.append((start, end))
            start = end + 1
        return spans

    def _llava_spans(self) -> list[tuple[int, int]]:
        # Latin-1 keeps one character a byte, so that positions in the text are positions in the file.
        text = self._map()[:].decode("latin-1")
        decoder, spans = json.JSONDecoder(), []

        def skip(position: int, wanted: str) -> int:
            while position < len(text) and text[position] in " \t\r\n":
                position += 1
            if position >= len(text) or text[position] not in wanted:
                line = text.count("\n", 0, position) + 1
                raise InputError(
                    f"{self.path}:{line}: expected a JSON list of samples in LLaVA's form, got "
                    f"{text[position : position + 20]!r}; give a .jsonl file or repair this one."
                )
            return position

        position = skip(3 if text[:3] == "\xef\xbb\xbf" else 0, "[") + 1
        if text[skip(position, "{]")] == "]":
            return []
        while True:
            start = skip(position, "{")
            try:
                _, position = decoder.raw_decode(text, start)
            except (ValueError, RecursionError) as error:
                line = text.count("\n", 0, start) + 1
                raise InputError(f"{self.path}:{line}: expected JSON, got {error}; repair it.") from error
            spans.append((start, position))
            position = skip(position, ",]") + 1
            if text[position - 1] == "]":
                return spans


def _key(sample: Sample) -> int:
    picture = None if sample.image is None else os.path.realpath(sample.image)
    return int(sha256(repr((picture, sample.turns)))[:16], 16) - 2**63


def sample_from_llava(record: LlavaRecord, images: Path, number: int) -> Sample:
    """A record of LLaVA's JSON, the `number`th of its file, which names it where its id does not.

    Raises InputError as `Sample`.
    """
    image = None if record.image is None else picture_below(images, record.image)
    return Sample(record.id or str(number), image, (), tuple(QuestionAnswer(*turn) for turn in record.turns))

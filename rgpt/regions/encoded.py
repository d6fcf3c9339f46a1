"""Encoded pictures as files hold them: read within limits, and what may cost more than its pixels is counted
before a decoder sees it.

Some formats repeat parts without a limit of their own: scans of a JPEG, each of which passes over the whole
picture; chunks, segments and comments, each of which Pillow reads in Python.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from pathlib import Path
from typing import Literal

from PIL import PngImagePlugin

from rgpt.errors import InputError

MAX_FILE_BYTES = 2**30
"""Of a picture's file; a float TIFF of 100 megapixels has 400 MB [D]."""
MAX_SCANS = 50
"""Of a JPEG; cameras and encoders write 1 to 20 [D]."""
MAX_PARTS = 20_000
"""Segments, chunks or blocks of a picture [D]."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # not a stuffed byte, not a restart
_TAG_BYTES = {3: 2, 8: 2, 4: 4, 9: 4, 11: 4, 13: 4, 5: 8, 10: 8, 12: 8, 16: 8}  # by a tag's type; others 1
_SCAN, _END, _ALONE = 0xDA, 0xD9, (0x01, 0xD8)


def read_file(path: Path | str, thing: str, most: int = MAX_FILE_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        InputError: it is something else (a device would have no end, a pipe no beginning), or larger than
            `most` bytes.
        OSError: it cannot be read.
    """
    # Without waiting: opening a named pipe would wait for whoever writes into it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InputError.about(thing, "a regular file", "a device, pipe or socket", "copy it to a file")
        if found.st_size > most:
            raise InputError.about(thing, f"at most {most} bytes", str(found.st_size), "make it smaller")
        return file.read(found.st_size)


def check_parts(name: str, data: bytes) -> bytes:
    """The picture, of a GIF without what stands before its first frame and is none of it.

    Raises:
        InputError: it has more parts or scans than any picture needs.
    """
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(name, data)
    elif data.startswith(_PNG):
        _check_chunks(name, data, len(_PNG), 12, "big")
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _check_chunks(name, data, 12, 8, "little")
    elif data[:3] == b"GIF":
        return _first_frame(name, data)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        _check_tags(name, data)
    return data


def claimed_pixels(data: bytes) -> int | None:
    """How many pixels a PNG, JPEG or GIF says that it has; None of others."""
    if data.startswith(_PNG):
        return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    if data[:3] == b"GIF":
        return int.from_bytes(data[6:8], "little") * int.from_bytes(data[8:10], "little")
    place = 2 if data.startswith(b"\xff\xd8") else len(data)
    for _ in range(500):
        found = _MARKER.search(data, place)
        if found is None:
            return None
        place, marker = found.end(), found[1][0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = data[place + 3 : place + 5], data[place + 5 : place + 7]
            return int.from_bytes(height, "big") * int.from_bytes(width, "big")
        if marker not in _ALONE:
            place += int.from_bytes(data[place : place + 2], "big")
    return None


def _refuse(name: str, most: int, what: str) -> InputError:
    return InputError.about(name, f"at most {most} {what}", "more", "save it again")


def _check_jpeg(name: str, data: bytes) -> None:
    place = scans = parts = 0
    while found := _MARKER.search(data, place):
        place, marker = found.end(), found[1][0]
        if marker == _END:
            return
        parts, scans = parts + 1, scans + (marker == _SCAN)
        if scans > MAX_SCANS:
            raise _refuse(name, MAX_SCANS, "scans in a JPEG")
        if parts > MAX_PARTS:
            raise _refuse(name, MAX_PARTS, "segments in a JPEG")
        if marker not in _ALONE:
            place += int.from_bytes(data[place : place + 2], "big")


def _check_chunks(name: str, data: bytes, place: int, around: int, order: Literal["little", "big"]) -> None:
    """Of a PNG (length, kind, content, checksum) or a RIFF (kind, length, content padded to even)."""
    at = 0 if order == "big" else 4
    for _ in range(MAX_PARTS):
        if place >= len(data):
            return
        size = int.from_bytes(data[place + at : place + at + 4], order)
        place += around + (size if order == "big" else size + size % 2)
    raise _refuse(name, MAX_PARTS, "chunks in a picture")


def _check_tags(name: str, data: bytes) -> None:
    """Of a TIFF's first directory: Pillow keeps a copy of what each tag points at, and all may point at one
    place."""
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    start = number(4, 4)
    tags = range(start + 2, start + 2 + 12 * number(start, 2), 12)
    if sum(_TAG_BYTES.get(number(tag + 2, 2), 1) * number(tag + 4, 4) for tag in tags) > 2 * len(data):
        raise _refuse(name, 2 * len(data), "bytes in all tags of a TIFF")


def _first_frame(name: str, data: bytes) -> bytes:
    """A GIF from which comments and the like before the first frame are taken out: Pillow joins them block by
    block, in quadratic time. What says how the frame is shown stays."""

    def table(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    if len(data) < 13:
        return data
    place = 13 + table(data[10])
    kept = [data[:place]]
    blocks = 0
    while data[place : place + 1] == b"!":
        start, label = place, data[place + 1 : place + 2]
        place += 2
        while place < len(data) and (size := data[place]):
            place, blocks = place + 1 + size, blocks + 1
            if blocks > 10 * MAX_PARTS:
                raise _refuse(name, 10 * MAX_PARTS, "blocks before the first frame of a GIF")
        place += 1
        if label == b"\xf9":  # graphic control: transparency
            kept.append(data[start:place])
            if len(kept) > MAX_PARTS:
                raise _refuse(name, MAX_PARTS, "control blocks in a GIF")
    return b"".join([*kept, data[place:]])


def without_large_text(data: bytes) -> bytes:
    """A PNG without the texts and colour profiles that make Pillow refuse it; anything else as it is.

    Pillow expands them to at most 1 MB each, and ends over a damaged one as over damaged pixels. None of them
    changes a pixel here; small ones stay, since an EXIF turn may stand in them.
    """
    if not data.startswith(_PNG):
        return data
    kept, place, budget = [_PNG], len(_PNG), PngImagePlugin.MAX_TEXT_CHUNK
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind, content = data[place + 4 : place + 8], data[place + 8 : end - 4]
        size = _expanded(kind, content, budget) if kind in _PNG_TEXT else 0
        whole = not size or zlib.crc32(kind + content).to_bytes(4, "big") == data[end - 4 : end]
        if whole and size <= budget:
            kept.append(data[place:end])
            budget -= size
        place = end
    return b"".join(kept)


def _expanded(kind: bytes, content: bytes, limit: int) -> int:
    """Bytes of a PNG's text or profile when it is unpacked; more than `limit` is not counted to the end."""
    if kind == b"tEXt" or (kind == b"iTXt" and content.partition(b"\0")[2][:1] == b"\0"):
        return len(content)
    rest = content.partition(b"\0")[2]
    packed = rest[1:] if kind != b"iTXt" else rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    try:
        return len(content) + len(zlib.decompressobj().decompress(packed, limit + 1))
    except zlib.error:
        return limit + 1

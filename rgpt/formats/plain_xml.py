"""XML that is read element by element and can do nothing but hold data."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from rgpt.errors import InputError


def read_elements(stream: BinaryIO, name: str) -> Iterator[ElementTree.Element]:
    """Every element when it ends, children before their parents; the caller clears what it has used.

    Args:
        name: of the file, for messages.

    Raises:
        InputError: it is no whole XML, or declares entities: a kilobyte of them can unfold to gigabytes.
    """
    thing = f"file {name!r}"
    try:
        for _, element in ElementTree.iterparse(_WithoutEntities(stream, thing), events=("end",)):
            yield element
    except InputError:
        raise
    # An odd encoding in the declaration is a LookupError or a ValueError; the rest are broken archives.
    except (ElementTree.ParseError, LookupError, ValueError, OSError, EOFError, zlib.error) as error:
        raise InputError.about(thing, "whole XML", str(error)[:120], "export it again") from error


class _WithoutEntities(io.RawIOBase):
    """Refuses a document that declares entities."""

    def __init__(self, stream: BinaryIO, thing: str) -> None:
        self._stream, self._thing, self._tail = stream, thing, b""

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        plain = self._tail + data.replace(b"\0", b"")  # in UTF-16 every other byte is zero
        if b"<!ENTITY" in plain:
            raise InputError.about(self._thing, "plain XML", "<!ENTITY", "export it again")
        self._tail = plain[-8:]
        return data

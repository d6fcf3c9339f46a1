"""Rows of a table in every encoding and with every separator, or the row that is none."""

from __future__ import annotations

import io
import itertools

import pytest

from rgpt.errors import InputError
from rgpt.formats.tables import Row, read_rows

ROWS = [["image", "label, as said", "x1"], ["ä.png", 'a 5" "pipe"', "1,5"], ["b;c.png", "two\nlines", ""]]


def written(separator: str) -> str:
    return "\n".join(separator.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in ROWS)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_and_separator(separator: str, encoding: str) -> None:
    stream = io.BytesIO(written(separator).encode(encoding))
    assert [row.cells for row in read_rows(stream, "t", ["Image", "X 1"])] == ROWS


def test_names_of_columns_tell_the_separator_and_not_their_number() -> None:
    stream = io.BytesIO(b"filepath\ttitle, in short, as found\na.png\tone; two\n")
    assert list(read_rows(stream, "t", ["filepath"]))[1] == Row(2, ["a.png", "one; two"])


def test_rows_are_numbered_as_a_spreadsheet_does() -> None:
    stream = io.BytesIO(b'a,b\n\n"two\nlines",x\n,\nlast,y\n')
    assert [row.number for row in read_rows(stream, "t")] == [1, 3, 5]


def test_a_table_is_not_held_in_memory() -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            buffer[:] = (b"a,b\n" * len(buffer))[: len(buffer)]
            return len(buffer)

    rows = read_rows(io.BufferedReader(Endless()), "t")
    assert len(list(itertools.islice(rows, 100_000))) == 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\nc,M\xfcll\n", "table 't', line 2: expected UTF-8, got the byte 0xfc"),
        (b'a,b\n"c,d\ne,f\n', "row 2: expected quotes in pairs"),
        (b'a,b\nc,"d" e\n', "row 2: expected quotes in pairs"),
        ("a,b\n".encode("utf-16-be"), "zero bytes"),
        ("a,b\n".encode("utf-16") + b"x", "expected whole text"),
    ],
)
def test_what_is_no_table_is_one_sentence(content: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        list(read_rows(io.BytesIO(content), "t"))
    assert message in str(caught.value)


def test_captions_from_the_web_may_have_quotes_anywhere() -> None:
    stream = io.BytesIO(b'image,title\na.png,"pipe" is no pipe\nb.png,it is\n')
    assert [row.cells[1] for row in read_rows(stream, "t", strict=False)] == [
        "title",
        "pipe is no pipe",
        "it is",
    ]

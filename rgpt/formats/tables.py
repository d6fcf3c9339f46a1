"""Tables of text (CSV, TSV): rows as spreadsheets and scripts write them, and boxes in such rows.

A spreadsheet's "CSV" is separated by semicolons where numbers have a decimal comma; its "Unicode text" is
UTF-16 with tabs. What separates is told by the first row, the encoding by the mark at the file's beginning;
without a mark it is UTF-8 or refused, since no other encoding can be told from the bytes.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from rgpt.errors import InputError
from rgpt.formats.annotated import AnnotatedObject, AnnotatedPicture, number, refuse
from rgpt.formats.size_claims import claimed_size

SEPARATORS = (",", ";", "\t", "|")
LONGEST = 1 << 28
"""Characters of a field; the library's own limit is 131,072."""
_MARKS = {  # UTF-32's begins as UTF-16's does
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig",
}  # fmt: skip
_SAID = re.compile(r'"?sep=(.)"?\s*$', re.IGNORECASE)
"""A first line by which Excel is told what separates."""


class Row(NamedTuple):
    """Cells of a row, and its number as a spreadsheet shows it: the header is row 1."""

    number: int
    cells: list[str]


def read_rows(
    stream: BinaryIO, name: str, wanted: Collection[str] = (), strict: bool = True
) -> Iterator[Row]:
    """Every row that is not blank, the header first; memory does not grow with the file.

    Args:
        name: of the table, for messages.
        wanted: names of columns (see `column_key`), by which the separator is told.
        strict: refuse quotes that are not in pairs. Otherwise they are read as best they can.

    Raises:
        InputError: the bytes are not text of a known encoding; with `strict`, quotes are broken.
    """
    thing = f"table {name!r}"
    csv.field_size_limit(max(LONGEST, csv.field_size_limit()))
    lines = _lines(stream, thing)
    first = next(lines, "")
    skipped = 0
    if said := _SAID.match(first):
        first, skipped = next(lines, ""), 1
    keys = set(map(column_key, wanted))
    separator = said[1] if said else max(SEPARATORS, key=lambda one: _likelihood(first, one, keys))
    rows = csv.reader(
        itertools.chain([first], lines), delimiter=separator, strict=strict, skipinitialspace=True
    )
    count = skipped
    while True:
        count += 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            refuse(f"{thing}, row {count}", "quotes in pairs around whole values", str(error), "correct it")
        if any(cell.strip() for cell in cells):
            yield Row(count, cells)


def column_key(name: str) -> str:
    """The name of a column by which it is known: "X Min", "x_min" and "xMin" are one."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _likelihood(line: str, separator: str, wanted: set[str]) -> tuple[int, int]:
    cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    return sum(column_key(cell) in wanted for cell in cells), len(cells)


def _lines(stream: BinaryIO, thing: str) -> Iterator[str]:
    buffered: Any = stream if hasattr(stream, "peek") else io.BufferedReader(stream)  # type: ignore[type-var]
    row = 0
    try:
        head = buffered.peek(4096)[:4096]
        encoding = next((code for mark, code in _MARKS.items() if head.startswith(mark)), "utf-8")
        if encoding == "utf-8" and b"\0" in head:
            refuse(thing, "text", "zero bytes", "save it as UTF-8")
        # Escaped, a byte that is not UTF-8 is found in its row; the decoder itself reads far ahead.
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        for line in io.TextIOWrapper(buffered, encoding, errors, newline=""):
            row += 1
            if not line.isascii():
                line.encode("utf-8")
            yield line
    except UnicodeEncodeError as error:
        byte = ord(error.object[error.start]) - 0xDC00
        refuse(f"{thing}, line {row}", "UTF-8", f"the byte 0x{byte:02x}", "save it as UTF-8")
    except (UnicodeError, OSError, EOFError, zlib.error) as error:
        refuse(f"{thing}, after line {row}", "whole text", str(error)[:80], "save it as UTF-8")


# ----------------------------------------------------------------------------------------------------- boxes

_PICTURE = (
    "image", "filename", "imagepath", "imagename", "imagefile", "filepath", "path", "file", "imageid", "img",
)  # fmt: skip
_LABEL = ("label", "class", "name", "category", "labelname", "classname", "categoryname")
_CORNERS = (
    ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"),
    ("xtl", "ytl", "xbr", "ybr"),
)  # fmt: skip
_SIZED = (
    ("x", "y", "w", "h"), ("x", "y", "width", "height"), ("bboxx", "bboxy", "bboxw", "bboxh"),
    ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
)  # fmt: skip
_PICTURE_SIZE = (("imagewidth", "imageheight"), ("imgwidth", "imgheight"), ("width", "height"))
_KNOWN = {*_PICTURE, *_LABEL, *itertools.chain(*_CORNERS, *_SIZED, *_PICTURE_SIZE)}


def read_boxes(stream: BinaryIO, name: str, caption_key: str | None = None) -> Iterator[AnnotatedPicture]:
    """One picture with one object a row, in any order; the caller brings rows of one picture together.

    Columns are known by their usual names (`column_key`): the picture (image, filename, …), the label (label,
    class, …), the box (x1 y1 x2 y2, xmin ymin xmax ymax, or x y w h). Beside corners, "width" and "height"
    are the picture's size. A row whose box is blank is a picture without an object.

    Raises:
        InputError: a column is missing or there twice, or a row is broken; it names row and column.
    """
    rows = read_rows(stream, name, _KNOWN | ({caption_key} if caption_key else set()))
    columns = _Columns.of(next(rows, Row(1, [])).cells, name, caption_key)
    for row in rows:
        yield columns.read(row)


@dataclass
class _Columns:
    """Where what stands in a row; box and size by their columns' names, for messages."""

    table: str
    count: int
    picture: int
    label: int | None
    box: dict[str, int]
    sized: bool
    size: tuple[int, int] | None
    """Of the picture: (height, width)."""
    caption: int | None

    @classmethod
    def of(cls, header: list[str], table: str, caption_key: str | None) -> _Columns:
        keys = [column_key(cell) for cell in header]
        said = column_key(caption_key or "")
        picture = next((key for key in _PICTURE if key in keys), None)
        label = next((key for key in _LABEL if key in keys), None)
        corners = next((names for names in _CORNERS if set(names) <= set(keys)), None)
        box = corners or next((names for names in _SIZED if set(names) <= set(keys)), None)
        missing = [
            what
            for what, there in (("a picture", picture), ("a box", box), ("a label", label or said in keys))
            if not there
        ]
        if missing or picture is None or box is None:
            raise InputError.about(
                f"table {table!r}",
                f"columns for {' and '.join(missing)} (image, label, x1, y1, x2, y2 or x, y, w, h)",
                f"the columns {', '.join(header)[:120] or 'none'}",
                "rename them in the first line",
            )
        for key in (picture, label, *box):
            if keys.count(key or "") > 1:
                refuse(
                    f"table {table!r}, row 1", f"one column {key!r}", str(keys.count(key or "")), "rename one"
                )
        size = next((pair for pair in _PICTURE_SIZE if set(pair) <= set(keys) - set(box)), None)
        return cls(
            table=table,
            count=len(header),
            picture=keys.index(picture),
            label=keys.index(label) if label else None,
            box={header[keys.index(key)].strip(): keys.index(key) for key in box},
            sized=corners is None,
            size=(keys.index(size[1]), keys.index(size[0])) if size else None,
            caption=keys.index(said) if said in keys and said else None,
        )

    def read(self, row: Row) -> AnnotatedPicture:
        place, cells = f"table {self.table!r}, row {row.number}", row.cells
        if any(cell.strip() for cell in cells[self.count :]):
            refuse(
                place, f"{self.count} values, as the first row has", str(len(cells)), "quote what has commas"
            )
        cells = cells + [""] * (self.count - len(cells))
        name = cells[self.picture].strip()
        label = cells[self.label].strip() if self.label is not None else ""
        for what, text in (("picture", name), ("label", label)):
            if "\n" in text or "\r" in text:  # a quote that is nowhere closed swallows rows
                refuse(f"{place}, {what}", "one line", repr(text)[:60], "close the quotes")
        if not name:
            refuse(f"{place}, picture", "the name of a file", "nothing")
        claim = claimed_size(*(cells[i] for i in self.size)) if self.size else None
        picture = AnnotatedPicture(name, claim, place=place)
        written = {column: cells[i].strip() for column, i in self.box.items()}
        if not any(value and value.lower() != "nan" for value in written.values()):
            return picture
        x1, y1, x2, y2 = (number(text, f"{place}, {column}") for column, text in written.items())
        if self.sized:
            x2, y2 = x1 + x2, y1 + y2
        caption = cells[self.caption] if self.caption is not None else ""
        picture.objects.append(AnnotatedObject(label, (x1, y1, x2, y2), caption=caption))
        return picture

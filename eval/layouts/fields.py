"""Fields of a row and ids, each checked once: what is missing or of another type is named with its row."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.layouts.files import PathOrValue, row_name, show
from rgpt.errors import InputError

WHOLE = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?", re.ASCII)  # re.ASCII: "²" is a digit to str.isdigit
PLAIN = re.compile(r"-?(?:0|[1-9]\d*)", re.ASCII)


def has_rows(value: Any, *keys: str) -> bool:
    """Whether a parsed file is a list in which some row has all these keys: of which layout it is.

    Rows that lack one are not another layout, but wrong: their reader names them.
    """
    wanted = set(keys)
    return isinstance(value, list) and any(isinstance(row, Mapping) and wanted <= set(row) for row in value)


def as_object(value: Any, thing: str) -> Mapping[str, Any]:
    """The value, an object. Raises InputError."""
    if not isinstance(value, Mapping):
        raise InputError.about(thing, "an object", show(value), "repair or remove it")
    return value


def field_of(row: Any, key: str, thing: str) -> Any:
    """`row[key]`. Raises InputError when the row is no object or lacks it."""
    row = as_object(row, thing)
    if key not in row:
        raise InputError.about(f"{thing}, {key}", "a value", "none", "add it, or name a file of this layout")
    return row[key]


def words_of(row: Any, key: str, thing: str, *, empty: bool = False) -> str:
    """`row[key]`, a string; with `empty` also one without a word. Raises InputError."""
    value = field_of(row, key, thing)
    if not isinstance(value, str) or not (empty or value.strip()):
        raise InputError.about(f"{thing}, {key}", "words", show(value))
    return value


def list_of(row: Any, key: str, thing: str) -> list[Any]:
    """`row[key]`, a list. Raises InputError."""
    value = field_of(row, key, thing)
    if not isinstance(value, list | tuple):
        raise InputError.about(f"{thing}, {key}", "a list", show(value))
    return list(value)


def check_number(value: Any, thing: str) -> float:
    """A finite number, or InputError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:  # an int of 400 digits
            pass
    raise InputError.about(thing, "a finite number", show(value), "repair the run that wrote it")


def id_text(value: Any, thing: str) -> str:
    """An id as text: 7 and 7.0 are "7", a string stays as it is. Raises InputError for anything else."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30:
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    raise InputError.about(thing, "a whole number or words", show(value), "name the item")


class Ids:
    """The ids of a ground truth, and which of them another file means.

    7, 7.0, "7" and "007" are one id where all of the file's own ids are whole numbers; otherwise ids are
    compared letter by letter.
    """

    def __init__(self, own: Iterable[str], what: str = "id") -> None:
        self.own, self.what = frozenset(own), what
        self.numbers = all(PLAIN.fullmatch(text) for text in self.own)

    def spell(self, value: Any, thing: str) -> str:
        """The file's own text of an id, or the id as it stands where the file has none such."""
        text = id_text(value, thing)
        if text not in self.own and self.numbers and (whole := WHOLE.fullmatch(text.strip())):
            sign, digits = whole.groups()
            return f"-{digits}" if sign == "-" and digits != "0" else digits
        return text

    def find(self, values: Sequence[Any], source: PathOrValue, key: str = "id") -> list[str]:
        """The file's own text of each id. Raises InputError naming the first row with an unknown one."""
        found = [self.spell(v, f"{row_name(source, index)}, {key}") for index, v in enumerate(values)]
        unknown = [(index, text) for index, text in enumerate(found) if text not in self.own]
        if unknown:
            index, text = unknown[0]
            how_many = (
                "none" if len(unknown) == len(found) else f"{len(found) - len(unknown)} of {len(found)}"
            )
            raise self.unknown(f"{row_name(source, index)}, {key}", f"{text}, and {how_many} known in all")
        return found

    def find_one(self, value: Any, thing: str) -> str:
        """The file's own text of one id. Raises InputError when it has none."""
        if (text := self.spell(value, thing)) not in self.own:
            raise self.unknown(thing, text)
        return text

    def unknown(self, thing: str, said: str) -> InputError:
        return InputError.about(
            thing,
            f"{self.what}s of the ground truth's {len(self.own)}",
            f"{self.what} {said}",
            "the ground truth may be of another split or data set",
        )


def once(
    rows: Sequence[Any], ids: Sequence[Any], source: PathOrValue, what: str = "id", key: str = "id"
) -> list[int]:
    """Places of the rows that count: of rows that are the same, the first.

    Published files repeat rows (RefCOCO's sentences, those of refs with two annotations). `key` is the field
    that spells the id, which may differ. Raises InputError when rows of one id differ, naming both.
    """
    first: dict[Any, int] = {}
    for index, id_ in enumerate(ids):
        if id_ not in first:
            first[id_] = index
        elif _rest(rows[index], key) != _rest(rows[first[id_]], key):
            raise InputError.about(
                row_name(source, index),
                f"one row for each {what}",
                f"another one of {what} {show(id_) if isinstance(id_, tuple) else id_}, "
                f"first in row {first[id_] + 1}",
                "remove one of the two",
            )
    return list(first.values())


def _rest(row: Any, key: str) -> Any:
    return {k: v for k, v in row.items() if k != key} if isinstance(row, Mapping) else row

"""Pickles of plain containers, for data sets that are distributed as pickles.

Unpickling runs what the file says. RefCOCO's files need lists, dicts, strings and numbers only, so nothing
else is let through.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from rgpt.errors import InputError


class _PlainUnpickler(pickle.Unpickler):
    """Knows no class and no function: containers, strings and numbers have opcodes of their own."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to an object outside the file")


def read_plain_pickle(path: Path) -> Any:
    """The content of a pickle; str of Python 2 is read as Latin-1.

    Raises InputError when the file is missing, is no pickle, is cut off, or holds anything but plain
    containers, strings and numbers. Nothing of it has run then.
    """
    try:
        with open(path, "rb") as stream:
            return _PlainUnpickler(stream, encoding="latin1").load()
    except (OSError, MemoryError) as error:
        raise _wrong(path, str(error)) from error
    except Exception as error:  # a broken pickle raises nearly anything: KeyError, IndexError, UnicodeError …
        raise _wrong(path, str(error)[:120] or type(error).__name__) from error


def _wrong(path: Path, actual: str) -> InputError:
    return InputError.about(
        f"pickle {str(path)!r}",
        "lists, dicts, strings and numbers only",
        actual,
        "take the original file from the refer repository",
    )

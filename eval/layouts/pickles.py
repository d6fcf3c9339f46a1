"""The pickles of RefCOCO(+/g): lists, dicts, strings and numbers; anything that would run code is refused."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from rgpt.errors import InputError


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_plain_pickle(path: Path | str) -> Any:
    """The value of a pickle that holds plain values only. Python-2 strings are read as Latin-1.

    Raises:
        InputError: the file is missing, not a whole pickle, or names a class or function.
    """
    path = Path(path)
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise InputError.about(
            str(path), expected="an existing file", actual=str(error.strerror), fix="check the path"
        ) from error
    except Exception as error:  # a broken pickle raises nearly anything
        raise InputError.about(
            str(path),
            expected="a pickle of lists, dicts, strings and numbers",
            actual=str(error)[:80] or type(error).__name__,
            fix="download it again",
        ) from error

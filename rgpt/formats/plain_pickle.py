"""Pickles of plain containers, for data sets that are distributed as pickles.

Unpickling runs what the file says. RefCOCO's files need lists, dicts, strings and numbers only, so nothing
else is let through.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rgpt.errors import InputError

LARGEST = 2**31
"""Bytes of a file; RefCOCO's largest has 70 MB."""

_NAMES = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 "
    "LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE "
    "BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST APPEND APPENDS LIST EMPTY_DICT DICT SETITEM SETITEMS "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE"
)
_PLAIN = {getattr(pickle, name)[0] for name in _NAMES.split()}


def _with_plain_keys(code: int, load: Callable[[Any], None]) -> Callable[[Any], None]:
    """A tuple of a tuple twice, and so on, is small in a file and takes for ever to be hashed as a key."""

    def checked(unpickler: Any) -> None:
        # SETITEM sets one pair; the others what lies since the last mark, keys and values in turn.
        keys = unpickler.stack[-2:-1] if code == pickle.SETITEM[0] else unpickler.stack[::2]
        if any(isinstance(key, tuple) for key in keys):
            raise pickle.UnpicklingError("a key that is no string or number")
        load(unpickler)

    return checked


_ALL = pickle._Unpickler.dispatch  # type: ignore[attr-defined]
_SETTING = [code[0] for code in (pickle.DICT, pickle.SETITEM, pickle.SETITEMS)]
_DISPATCH = {code: _ALL[code] for code in _PLAIN} | {
    code: _with_plain_keys(code, _ALL[code]) for code in _SETTING
}


class _PlainUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Knows the opcodes of containers, strings and numbers.

    The library's one in Python: the one in C keeps a list as long as the largest index that a file names, so
    that seven bytes take 64 GB.
    """

    dispatch = _DISPATCH


def read_plain_pickle(path: Path) -> Any:
    """The content of a pickle; str of Python 2 is read as Latin-1.

    Raises InputError when the file is missing, is no pickle, is cut off, or holds anything but plain
    containers, strings and numbers. Nothing of it has run then.
    """
    try:
        if not path.is_file():
            raise OSError("no file" if not path.exists() else "no regular file")
        if path.stat().st_size > LARGEST:
            raise OSError(f"{path.stat().st_size} bytes")
        # From memory, where a length that the file only claims allocates nothing.
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (OSError, MemoryError) as error:
        raise _wrong(path, str(error)) from error
    except KeyError as error:
        code = error.args[0]
        unknown = f"opcode {code:#x}, for something else" if isinstance(code, int) else f"no {code!r}"
        raise _wrong(path, unknown) from error
    except Exception as error:  # a broken pickle raises nearly anything: IndexError, UnicodeError …
        raise _wrong(path, str(error)[:120] or type(error).__name__) from error


def _wrong(path: Path, actual: str) -> InputError:
    return InputError.about(
        f"pickle {str(path)!r}",
        "lists, dicts, strings and numbers only",
        actual,
        "take the original file from the refer repository",
    )

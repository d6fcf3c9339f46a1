"""Files and folders that are there whole or not at all, and one writer at a time.

Whatever ends a program, nobody finds half a file under its name: it is written beside its place under a
hidden name and renamed, which the system does in one step. Only a kill that no program can catch leaves the
hidden one behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rgpt.errors import InputError

LEFT_OVER = ".*.partial*"
"""The glob of hidden names, for folders in which a killed writer may have left some."""
PATIENCE = 10.0
"""Seconds that `sole_writer` waits: the workers of a process that was killed let go a little later."""


def hidden(path: Path | str) -> Path:
    """The hidden name beside `path`, of this process alone; it keeps the suffix, by which libraries choose a
    format."""
    path = Path(path)
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """The hidden path to write to. The file takes its name when the block ends well; else it is removed, and
    what `path` held before is still there."""
    partial = hidden(path)
    try:
        yield partial
        flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path | str, replace: bool = False) -> Iterator[Path]:
    """An empty hidden folder to write into, with the same promise; `path` must be new or empty.

    Args:
        replace: put it in the place of a folder that is there. That is two renames: a kill between them
            leaves the old one under a hidden name, and nothing under its own.
    """
    path, partial = Path(path), hidden(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if replace:
            replace_folder(partial, path)
        else:
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(partial: Path, path: Path) -> None:
    """Give a finished folder its name, in the place of one that is there; `whole_folder` where one process
    writes all of it."""
    before = partial.with_name(f"{partial.name}.before")
    if path.exists():
        os.replace(path, before)
    try:
        os.replace(partial, path)
    except OSError:
        if before.exists():
            os.replace(before, path)
        raise
    shutil.rmtree(before, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """A kill while it is being removed leaves no half of it under its name, but `.old-NAME`."""
    old = path.with_name(f".old-{path.name}")
    os.replace(path, old)
    shutil.rmtree(old, ignore_errors=True)


def move_files(source: Path, target: Path) -> None:
    """Every file of a folder into another, each whole; the empty folder is removed."""
    for path in sorted(source.iterdir()):
        os.replace(path, target / path.name)
    source.rmdir()


def write_text(path: Path | str, text: str) -> None:
    """As UTF-8, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path | str, value: Any, indent: int = 1) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def sha256(data: bytes | str | Iterable[bytes]) -> str:
    """In hex digits: of bytes, of a text as UTF-8 (half characters too), or of pieces one behind
    another, which need not be in memory together."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256()
    for piece in (data,) if isinstance(data, bytes) else data:
        digest.update(piece)
    return digest.hexdigest()


def file_sha256(path: Path | str) -> str:
    """`sha256` of what a file holds, a mebibyte at a time."""
    with open(path, "rb") as stream:
        return sha256(iter(lambda: stream.read(1 << 20), b""))


def check_writable(folder: Path | str) -> None:
    """Raises InputError unless this is a folder, or can become one, and may be written."""
    folder = Path(folder)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        actual = "a folder that may not be written" if there.is_dir() else "a file"
        raise InputError.about(
            f"folder {str(folder)!r}", "one to write into", f"{actual} at {str(there)!r}", "name another"
        )


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, wait: bool = False) -> bool:
    """Whether this process now holds the lock of an open file or folder; `wait` until it does.

    The lock ends with the process, however that ends. Where there are no locks (a network file system,
    Windows) everyone holds it.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


@contextmanager
def sole_writer(folder: Path | str) -> Iterator[None]:
    """No other process writes this folder while the block runs, if it asks here too.

    Raises:
        InputError: another one does, and still does after `PATIENCE`.
    """
    if os.name == "nt":  # where a folder cannot be opened
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + PATIENCE
        while not lock(descriptor):
            if time.monotonic() >= until:
                raise InputError(
                    f"{str(folder)!r} is being written by another process: wait for its end, or name another "
                    "folder."
                )
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)

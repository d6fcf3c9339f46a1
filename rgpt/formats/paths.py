r"""Pictures as annotation files spell them, found in a folder.

A file that was made elsewhere names its pictures by that machine's paths: `train\a.png`, `C:\data\a.png`,
`/data/upload/4/my%20photo.png`, `https://host/a.png?signature=…`, `frame_000001`. What is looked for, in this
order: the name as written, its readings with slashes, without address and query and percent-decoded; then
the same from a later and later folder on ("upload/4/a.png", "4/a.png", "a.png"); last, names that differ in
upper case, in the form of Unicode or by a missing ending.

Taking folders away can lead two pictures to one file, so `PictureFolder` remembers what it found and refuses
that: objects of two pictures are never joined.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from rgpt.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".ppm", ".pgm")
"""Of files that are taken for a picture whose name came without one."""
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]+://[^/]*", re.IGNORECASE)
_DRIVE = re.compile(r"^[a-z]:", re.IGNORECASE)
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""


def readings(spelling: str) -> list[str]:
    """The relative paths, with slashes, that a spelling may mean, likeliest first.

    `..`, `.`, a leading slash, drive letter and the host of an address are left out. Empty for an empty name.
    """
    slashed = spelling.strip().replace("\\", "/")
    local = slashed.partition("?d=")[2]  # Label Studio: /data/local-files/?d=folder/a.png
    without = re.split(r"[?#]", slashed, maxsplit=1)[0]
    # In an address ? begins the query; in the name of a file it is a character like others.
    plain = [local or without, slashed] if local or _ADDRESS.match(slashed) else [slashed, without]
    found: dict[str, None] = {}
    for text in plain:
        for read in (text, unquote(text)):
            # file:///C:/a.png has its drive after the address, and a backslash may have been encoded.
            parts = _DRIVE.sub("", _ADDRESS.sub("", read).replace("\\", "/").lstrip("/")).split("/")
            found["/".join(part for part in parts if part not in ("", ".", ".."))] = None
    return [path for path in found if path]


def check_folder(path: Path) -> None:
    """Raises InputError when there is no such folder of pictures."""
    if not path.is_dir():
        actual = "a file" if path.exists() else "nothing at this path"
        raise InputError.about(
            f"pictures {str(path)!r}", "a folder", actual, "name the folder the pictures lie in"
        )


def holds_pictures(folder: Path) -> bool:
    """Whether there is a picture, by its ending, anywhere below."""
    return any(name.lower().endswith(ENDINGS) for _, _, names in os.walk(folder) for name in names)


def picture_below(root: Path, spelling: str) -> Path:
    """Where a picture of this name lies below `root`: as written, or as another machine may have meant it."""
    written = root / spelling
    if is_file(written):
        return written
    return next((path for name in readings(spelling) if is_file(path := root / name)), written)


class PictureFolder:
    """The pictures of one annotation file, below `root`.

    Raises InputError when there is no such folder, before any work.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        check_folder(self.root)
        self._spelled: dict[int, int] = {}
        self._approximate: dict[Path, str] = {}

    def find(self, spelling: str) -> Path | None:
        """The picture of this name, or None where there is none.

        Raises:
            InputError: it could be several files, or the one found was found for another name before.
        """
        as_read = readings(spelling)
        if not as_read:
            return None
        for relative in ([spelling] if not Path(spelling).is_absolute() else []) + as_read:
            if is_file(path := self.root / relative):
                return self._claimed(path, as_read[0], exact=True)
        for tail in _tails(as_read):
            if like := self._like(tail):
                return self._claimed(like, as_read[0], exact=False)
        return self._claimed(Path(spelling), as_read[0], exact=True) if is_file(Path(spelling)) else None

    def expected(self, spelling: str) -> Path:
        """Where a picture of this name would lie, for one that is not there yet."""
        return self.root / next(iter(readings(spelling)), spelling)

    def _like(self, tail: str) -> Path | None:
        """The file of this relative path, or the only one that differs in case, Unicode form or ending."""
        if is_file(path := self.root / tail):
            return path
        folder, _, name = tail.rpartition("/")
        by_name, by_stem = _listing(self.root / folder)
        found = by_name.get(_folded(name), ())
        if not found and not name.lower().endswith(ENDINGS):
            found = by_stem.get(_folded(name), ())
        if len(found) > 1:
            raise InputError.about(
                f"picture {tail!r}",
                f"one file like it in {str(self.root / folder)!r}",
                ", ".join(map(repr, sorted(found)[:4])),
                "write its whole name",
            )
        return self.root / folder / found[0] if found else None

    def _claimed(self, path: Path, reading: str, exact: bool) -> Path:
        """`path`, unless another name has led to it by a shorter way."""
        known, own = hash(os.path.normpath(path)), hash(reading)
        before = self._spelled.setdefault(known, own)
        if not exact:
            self._approximate.setdefault(path, reading)
        if before != own and path in self._approximate:
            other = self._approximate[path]
            raise InputError.about(
                f"pictures {str(self.root)!r}",
                "a file for each name",
                f"{str(path)!r} for {other!r} and for another name"
                if other == reading
                else f"{str(path)!r} for {other!r} and {reading!r}",
                "keep the folders in which they lay",
            )
        return path


def _tails(as_read: list[str]) -> Iterator[str]:
    """Every reading with fewer and fewer folders, the most folders first."""
    split = [path.split("/") for path in as_read]
    for length in range(max(map(len, split)), 0, -1):
        yield from dict.fromkeys("/".join(parts[-length:]) for parts in split if len(parts) >= length)
    for name in dict.fromkeys(parts[-1] for parts in split):
        if (uploaded := _UPLOAD.sub("", name)) != name:
            yield uploaded


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@lru_cache(maxsize=16)
def _listing(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The folder's files by folded name, and its pictures by folded name without ending."""
    by_name: dict[str, list[str]] = {}
    by_stem: dict[str, list[str]] = {}
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_file()]
    except (OSError, ValueError):
        names = []
    for name in names:
        by_name.setdefault(_folded(name), []).append(name)
        stem, dot, ending = name.rpartition(".")
        if stem and f"{dot}{ending}".lower() in ENDINGS:
            by_stem.setdefault(_folded(stem), []).append(name)
    return by_name, by_stem


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a character that no file may have
        return False

"""What belongs to one picture, brought together on disk: annotation files list it in any order.

Lines are dealt into buckets by a hash of the picture's name; one bucket at a time is small enough for memory.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

BUCKET_BYTES = 64 << 20
MOST_BUCKETS = 256
"""Files open at once while dealing; also the limit of what is grouped in bounded memory: 16 GiB."""
PICTURE, ANNOTATION = "P", "A"
_UNSAFE = re.compile(r'[\t\n]|^"')


class Group(NamedTuple):
    """A picture's own lines (none, one, or more where it is listed again) and those of its annotations, in
    file order."""

    key: str
    pictures: list[str]
    annotations: list[str]


class Buckets:
    """Deal with `add_picture` and `add_annotation`, then read `groups`, as often as needed.

    Args:
        folder: an existing folder for the buckets; the caller removes it.
        total_bytes: about how much will be added. It alone decides the number of buckets and with that the
            order of the groups, which is the file's own order as long as there is one bucket (64 MiB).
    """

    def __init__(self, folder: Path, total_bytes: int) -> None:
        count = min(MOST_BUCKETS, max(1, -(-total_bytes // BUCKET_BYTES)))
        self._paths = [folder / f"bucket-{i:03d}" for i in range(count)]
        self._files = [  # closed by `groups`
            open(path, "w", encoding="utf-8", errors="surrogatepass", newline="\n")  # noqa: SIM115
            for path in self._paths
        ]

    def add_picture(self, key: str, text: str) -> None:
        self._add(PICTURE, key, text)

    def add_annotation(self, key: str, text: str) -> None:
        self._add(ANNOTATION, key, text)

    def _add(self, kind: str, key: str, text: str) -> None:
        # In JSON a line break can only stand between tokens, where a blank does as well.
        line = text.replace("\n", " ").replace("\r", " ")
        safe = json.dumps(key) if _UNSAFE.search(key) else key
        bucket = zlib.crc32(safe.encode("utf-8", "replace")) % len(self._files)
        self._files[bucket].write(f"{kind}{safe}\t{line}\n")

    def groups(self, what: str = "pictures") -> Iterator[Group]:
        """Every picture once; annotations of pictures that were never added come as groups without one.

        Args:
            what: names the progress bar.
        """
        for file in self._files:
            file.close()
        for path in tqdm(self._paths, what, delay=2, disable=None):
            yield from self._groups_of(path)

    def _groups_of(self, path: Path) -> Iterator[Group]:
        pictures: dict[str, list[str]] = {}
        annotations: dict[str, list[str]] = {}
        with open(path, encoding="utf-8", errors="surrogatepass", newline="\n") as lines:
            for line in lines:
                safe, _, text = line[1:-1].partition("\t")
                key = json.loads(safe) if safe.startswith('"') else safe
                (annotations if line[0] == ANNOTATION else pictures).setdefault(key, []).append(text)
        for key, texts in pictures.items():
            yield Group(key, texts, annotations.pop(key, []))
        for key, texts in annotations.items():
            yield Group(key, [], texts)

"""Which picture is it? The same photograph has other names in other data sets.

A *picture key* is `coco:580294` (COCO, and everything built on it: LVIS, RefCOCO, LLaVA-Instruct, POPE),
`vg:2342728` (Visual Genome, GQA), or `file:name.jpg` for the rest. A picture may have several keys: half of
Visual Genome's pictures are COCO's. Lists of keys say what training must not see.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rgpt.errors import InputError

_COCO_2014 = re.compile(r"COCO_(?:train|val|test)20\d\d_0*(\d+)(?:_\d+)?$", re.IGNORECASE)
_COCO_2017 = re.compile(r"(\d{12})$")
_VISUAL_GENOME = re.compile(r"(?:^|/)(?:VG_100K(?:_2)?|gqa/images)/(\d+)\.\w+$")
_KEY = re.compile(r"(?:coco|vg):\d+$|file:.+$")


def coco_key(image_id: int | str) -> str:
    return f"coco:{int(image_id)}"


def visual_genome_key(image_id: int | str) -> str:
    return f"vg:{int(image_id)}"


def keys_of_file(name: str) -> tuple[str, ...]:
    """The keys that a picture's path tells.

    RefCOCO's suffix ("COCO_train2014_000000380440_491042.jpg" is picture 380440) is left out. A bare number
    of other than twelve digits says nothing about its data set, so such a file is known by its name only.
    """
    path = name.replace("\\", "/")
    base = path.rpartition("/")[2]
    stem = base.rpartition(".")[0] or base
    if found := _COCO_2014.match(stem) or _COCO_2017.match(stem):
        return (coco_key(found.group(1)),)
    if found := _VISUAL_GENOME.search(path):
        return (visual_genome_key(found.group(1)), f"file:{base}")
    return (f"file:{base}",)


def read_keys(paths: Iterable[Path]) -> frozenset[str]:
    """The keys of exclusion lists: a key or a picture's path a line; blank lines and "# …" are passed over.

    Raises InputError when a list is missing, is not text, or names nothing: an empty guard guards nothing.
    """
    keys: set[str] = set()
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError.about(
                f"list of pictures {str(path)!r}",
                "a text file with one picture a line",
                str(error),
                "make it with python -m data_recipes.eval_pictures",
            ) from error
        before = len(keys)
        for line in lines:
            if (entry := line.strip()) and not entry.startswith("#"):
                keys.update([entry] if _KEY.match(entry) else keys_of_file(entry))
        if len(keys) == before and before == 0:
            raise InputError.about(
                f"list of pictures {str(path)!r}",
                "at least one picture",
                "none",
                "make it with python -m data_recipes.eval_pictures",
            )
    return frozenset(keys)

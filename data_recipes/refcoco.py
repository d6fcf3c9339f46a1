"""RefCOCO, RefCOCO+ and RefCOCOg: captions of regions, and referring among candidate regions.

Downloads: refcoco.zip, refcoco+.zip, refcocog.zip (github.com/lichengunc/refer) and COCO train2014. FOLDER
is one of the three, with instances.json and refs(unc|google|umd).p; the pickle is read without running
anything in it.

Captions: every sentence is one turn, and no conversation describes a region twice. Referring: the
candidates are the picture's own instances, same class first, filled up with made boxes beside them where
there are too few; "No corresponding options found." is the answer where the described region was left out
of them.

RefCOCO's pictures, val and test too, are pictures of COCO train2014, and many are in COCO train2017:
python -m data_recipes.eval_pictures lists those that training must not see.

    python -m data_recipes.refcoco --folder refcocog --refs umd --images train2014 --out DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_recipes.coco_layout import LayoutConverter, records
from data_recipes.objects import ObjectWriter, add_conversation_arguments, positive
from data_recipes.referring import ReferringConverter
from data_recipes.runner import Recipe, Record, Source, main
from rgpt.errors import InputError
from rgpt.formats.coco import CocoFile, file_name_of, id_key
from rgpt.formats.plain_pickle import read_plain_pickle

SPLITS = ("train", "val", "test", "testA", "testB", "all")
REFS = ("unc", "google", "umd")
TASKS = ("caption", "rec", "both")
REF_KEYS = ("ref_id", "ann_id", "image_id", "split", "sentences")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="FOLDER", help="refcoco, refcoco+ or refcocog, unpacked"
    )
    parser.add_argument("--refs", choices=REFS, required=True, help="whose split: refs(umd).p for RefCOCOg")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="COCO's train2014")
    parser.add_argument("--split", choices=SPLITS, default="train", help="(default: train)")
    parser.add_argument("--task", choices=TASKS, default="both", help="(default: both)")
    parser.add_argument(
        "--name-2017",
        action="store_true",
        help="look for 000000380440.jpg (the files of COCO 2017), not COCO_train2014_000000380440.jpg",
    )
    parser.add_argument(
        "--candidates",
        type=positive,
        nargs=2,
        default=(3, 12),
        metavar=("MIN", "MAX"),
        help="of a referring question (default: 3 12)",
    )
    parser.add_argument(
        "--no-match",
        type=share,
        default=0.15,
        metavar="SHARE",
        help="of the described regions that are left out of the candidates (default: 0.15)",
    )
    add_conversation_arguments(parser)


def share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    low, high = options.candidates
    if low > high or high < 2:
        raise InputError.about(
            "--candidates", "MIN up to MAX, MAX at least 2", f"{low} {high}", "exchange them"
        )
    refs = read_refs(options.folder / f"refs({options.refs}).p", options.split)
    name_of = name_2017 if options.name_2017 else file_name_of
    path = options.folder / "instances.json"
    file = CocoFile(path, scratch, options.images, name_of, keep=refs.__contains__)

    def described() -> Iterator[Record]:
        found = set()
        for record in records(file, coco_ids=True):
            found.add(record.id)
            yield record._replace(content=(record.content, refs[record.id]))
        file.facts["described pictures that instances.json lacks"] = len(refs.keys() - found)

    name = options.folder.resolve().name
    # Segmentations and boxes of single annotations are read as everywhere; crowds are no candidates.
    writer = ObjectWriter(name, None, "samples", options.regions, options.turns)
    convert = ReferringConverter(
        name=f"{name}-{options.refs}",
        objects=LayoutConverter.of(file, writer),
        tasks=("caption", "rec") if options.task == "both" else (options.task,),
        candidates=(low, high),
        no_match=options.no_match,
    )
    return Source(described(), convert, facts=file.facts)


def name_2017(picture: dict[str, Any]) -> str:
    """COCO 2017 calls its files by their numbers. (The name in the refs has a suffix and is no file.)"""
    key = id_key(picture.get("id")) or ""
    return f"{int(key):012d}.jpg" if key.isdecimal() else file_name_of(picture)


def in_split(split: str) -> Callable[[str], bool]:
    """As the official loader: "test" is whatever contains it; RefCOCO's parts are "testA" and "testB"."""
    if split == "all":
        return lambda found: True
    if split == "test":
        return lambda found: "test" in found
    return lambda found: found == split


def read_refs(path: Path, split: str) -> dict[str, list[dict[str, Any]]]:
    """The refs of a split by picture id.

    Raises InputError when the file is no plain pickle, has another layout, or has nothing in this split.
    """
    content = read_plain_pickle(path)
    if not isinstance(content, list) or not all(
        isinstance(ref, dict) and all(key in ref for key in REF_KEYS) for ref in content
    ):
        raise InputError.about(
            f"pickle {str(path)!r}",
            f"a list of dicts with {', '.join(REF_KEYS)}",
            "something else",
            "give the refs file of the refer repository",
        )
    wanted = in_split(split)
    refs: dict[str, list[dict[str, Any]]] = {}
    for ref in content:
        if wanted(str(ref["split"])):
            refs.setdefault(id_key(ref["image_id"]) or "", []).append(ref)
    if not refs:
        raise InputError.about(
            f"--split {split}",
            f"one of {', '.join(sorted({str(ref['split']) for ref in content}))}",
            "a split that this file does not have",
            "choose one of them",
        )
    return refs


RECIPE = Recipe("refcoco", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))

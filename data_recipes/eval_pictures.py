"""The list of pictures in evaluation sets, for --exclude-images: what training must not see.

Give everything you evaluate on; the list holds each picture once, by every name that is known of it.

    python -m data_recipes.eval_pictures --out eval_pictures.txt \\
        --coco instances_val2017.json lvis_v1_val.json --refcoco "refcocog/refs(umd).p" \\
        --visual-genome densecap_splits.json --image-data image_data.json.zip \\
        --records coco_pope_random.json --folder dlc_bench/images
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_recipes.pictures import coco_key, keys_of_file, visual_genome_key
from data_recipes.visual_genome import read_image_data, read_split
from rgpt.errors import InputError
from rgpt.files import write_text
from rgpt.formats.coco import file_name_of, file_of_coco_url
from rgpt.formats.json_stream import read_members, read_records
from rgpt.formats.plain_pickle import read_plain_pickle

PICTURE_KEYS = ("image", "image_path", "image_name", "img_path", "file_name", "filename")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")


def coco_pictures(path: Path) -> Iterator[str]:
    """Of a file in COCO's layout (COCO, LVIS, V3Det, Objects365, DLC-Bench)."""
    for _, picture, text in read_members(path, ("images",)):
        if not isinstance(picture, dict):
            raise InputError.about(f"file {str(path)!r}", "images as objects", text[:80])
        for name in {file_name_of(picture), file_of_coco_url(picture)} - {""}:
            yield from keys_of_file(name)


def refcoco_pictures(path: Path, splits: Sequence[str]) -> Iterator[str]:
    """Of the refs whose split contains one of `splits` ("test": testA and testB, too)."""
    for ref in read_plain_pickle(path):
        if any(split in str(ref["split"]) for split in splits):
            yield coco_key(ref["image_id"])


def visual_genome_pictures(path: Path, splits: Sequence[str], image_data: Path | None) -> Iterator[str]:
    """Of the parts of a splits file; with `image_data` by their COCO ids, too."""
    wanted: set[int] = set()
    for split in splits:
        wanted |= read_split(path, split) or frozenset()
    if image_data is None:
        for image_id in sorted(wanted):
            yield visual_genome_key(image_id)
            yield f"file:{image_id}.jpg"
    else:
        for picture in read_image_data(image_data):
            if picture.image_id in wanted:
                yield from picture.keys


def record_pictures(path: Path) -> Iterator[str]:
    """Of a JSON list or JSONL whose records name a picture (POPE, LLaVA, Ferret-Bench, our samples …)."""
    for record in read_records(path):
        name = next((record[key] for key in PICTURE_KEYS if key in record), None) if _is(record) else None
        if isinstance(name, str) and name:
            yield from keys_of_file(name)


def _is(record: Any) -> bool:
    return isinstance(record, dict)


def folder_pictures(path: Path) -> Iterator[str]:
    """Of the files in a folder and the folders in it."""
    for found in sorted(path.rglob("*")):
        if found.suffix.lower() in ENDINGS:
            yield from keys_of_file(found.relative_to(path).as_posix())


def build_parser() -> argparse.ArgumentParser:
    first, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m data_recipes.eval_pictures",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, text in (
        ("coco", "files in COCO's layout: all their pictures"),
        ("refcoco", "refs(…).p of RefCOCO, RefCOCO+, RefCOCOg: the pictures of --splits"),
        ("visual-genome", "densecap_splits.json or one of its form: the pictures of --vg-splits"),
        ("records", "JSON lists or JSONL whose records name a picture (POPE, LLaVA, our samples)"),
        ("folder", "folders of pictures"),
    ):
        parser.add_argument(f"--{name}", type=Path, nargs="+", default=[], metavar="PATH", help=text)
    parser.add_argument("--splits", nargs="+", default=["val", "test"], help="(default: val test)")
    parser.add_argument("--vg-splits", nargs="+", default=["test"], help="(default: test)")
    parser.add_argument(
        "--image-data", type=Path, metavar="FILE", help="Visual Genome's image_data.json: adds the COCO ids"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the list; written anew")
    return parser


def collect(options: argparse.Namespace) -> dict[str, list[str]]:
    """Keys by source. Raises InputError when a source cannot be read or names no picture."""
    sources: list[tuple[Path, Iterator[str]]] = [
        *((path, coco_pictures(path)) for path in options.coco),
        *((path, refcoco_pictures(path, options.splits)) for path in options.refcoco),
        *(
            (path, visual_genome_pictures(path, options.vg_splits, options.image_data))
            for path in options.visual_genome
        ),
        *((path, record_pictures(path)) for path in options.records),
        *((path, folder_pictures(path)) for path in options.folder),
    ]
    if not sources:
        raise InputError(
            "evaluation sets: expected at least one of --coco, --refcoco, --visual-genome, --records, "
            "--folder, got none; name what you evaluate on."
        )
    found: dict[str, list[str]] = {}
    for path, keys in sources:
        try:
            listed = list(dict.fromkeys(keys))
        except (KeyError, TypeError) as error:
            raise InputError.about(
                f"evaluation set {str(path)!r}",
                "the layout of its option",
                f"another one ({error})",
                "see --help",
            ) from error
        if not listed:
            raise InputError.about(
                f"evaluation set {str(path)!r}",
                "at least one picture",
                "none",
                "check the file and the splits",
            )
        found[str(path)] = [*found.get(str(path), []), *listed]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        found = collect(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    lines = [f"# {len(keys)} keys from {path}" for path, keys in found.items()]
    keys = sorted({key for listed in found.values() for key in listed})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, "\n".join([*lines, *keys]) + "\n")
    kinds = Counter(key.partition(":")[0] for key in keys)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"{len(keys)} keys ({counts}) in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`rgpt cache-features`: run every picture of the data through the frozen tower once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def main(arguments: Sequence[str]) -> int:
    """Parse, read the sample files, compute, print how many pictures there are."""
    from rgpt.cli import OneLineParser

    parser = OneLineParser(
        prog="rgpt cache-features",
        description="Write the frozen tower's features of every picture, for `features:` of a run.",
    )
    parser.add_argument(
        "data",
        type=Path,
        nargs="+",
        help="sample files (.jsonl, or LLaVA's .json), pictures or their folders",
    )
    parser.add_argument("--images", type=Path, help="the folder that LLaVA's picture paths start from")
    parser.add_argument("--model", default="tiny", help="'tiny' or the folder whose tower is used")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache; what it has stays")
    parser.add_argument("--batch", type=int, default=16, help="pictures at once (default: 16)")
    options = parser.parse_args(list(arguments))
    from rgpt.errors import InputError
    from rgpt.model import load
    from rgpt.train.feature_cache import write_cache

    if options.batch < 1:
        raise InputError.about("--batch", "at least 1", str(options.batch))
    pictures = {picture for path in options.data for picture in _pictures(path, options.images)}
    model, processor = load(options.model)
    computed = write_cache(options.out, model, processor, pictures, batch=options.batch)
    print(f"{len(pictures)} pictures, {computed} computed now; the cache is {options.out}")
    return 0


def _pictures(path: Path, images: Path | None) -> list[Path]:
    """The pictures that DATA names. Raises InputError."""
    from rgpt.data.sample_files import SampleFile
    from rgpt.errors import InputError

    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in PICTURES and file.is_file()]
        if not found:
            raise InputError.about(
                f"data {str(path)!r}", f"pictures ({', '.join(PICTURES)}) in this folder", "none"
            )
        return found
    if path.suffix.lower() in PICTURES:
        return [path]
    file = SampleFile(path, images=images if path.suffix == ".json" else None, progress=True)
    return [image for n in range(len(file)) if (image := file[n].image) is not None]

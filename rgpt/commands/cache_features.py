"""`rgpt cache-features`: run every picture of the data through the frozen tower once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Parse, read the sample files, compute, print how many pictures there are."""
    from rgpt.cli import OneLineParser

    parser = OneLineParser(
        prog="rgpt cache-features",
        description="Write the frozen tower's features of every picture, for `features:` of a run.",
    )
    parser.add_argument("data", type=Path, nargs="+", help="sample files (.jsonl, or LLaVA's .json)")
    parser.add_argument("--images", type=Path, help="the folder that LLaVA's picture paths start from")
    parser.add_argument("--model", default="tiny", help="'tiny' or the folder whose tower is used")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache; interrupted ones go on")
    parser.add_argument("--batch", type=int, default=16, help="pictures at once (default: 16)")
    options = parser.parse_args(list(arguments))
    from rgpt.data.sample_files import SampleFile
    from rgpt.model import load
    from rgpt.train.feature_cache import write_cache

    pictures = []
    for path in options.data:
        file = SampleFile(path, images=options.images if path.suffix == ".json" else None, progress=True)
        pictures += [image for n in range(len(file)) if (image := file[n].image) is not None]
    model, processor = load(options.model)
    computed = write_cache(options.out, model, processor, pictures, batch=options.batch)
    print(f"{len(set(pictures))} pictures, {computed} computed now; the cache is {options.out}")
    return 0

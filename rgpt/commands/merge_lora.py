"""`rgpt merge-lora`: an adapter or delta and its base become one plain checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Parse, merge, print where the result is."""
    from rgpt.cli import OneLineParser

    parser = OneLineParser(
        prog="rgpt merge-lora", description="Write a plain checkpoint of a run that names its base."
    )
    parser.add_argument("adapter", type=Path, help="the adapter/ or delta/ folder of a run")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--base", help="the checkpoint it was trained on (default: the one it names)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "auto"),
        default="float32",
        help="of the weights (default: %(default)s, whose answers are the adapter's; auto: as the base's)",
    )
    options = parser.parse_args(list(arguments))
    from rgpt.train.adapters import merge_adapter

    merged = merge_adapter(options.adapter, options.out, options.base, options.dtype)
    print(f"the merged model is in {merged}")
    return 0

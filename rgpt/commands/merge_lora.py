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
    options = parser.parse_args(list(arguments))
    from rgpt.train.adapters import merge_adapter

    print(f"the merged model is in {merge_adapter(options.adapter, options.out, options.base)}")
    return 0

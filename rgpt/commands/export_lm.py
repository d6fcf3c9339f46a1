"""`rgpt export-lm`: the language model of a RegionGPT as a folder that transformers, vLLM and SGLang open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Parse, export, print where the result is."""
    from rgpt.cli import OneLineParser

    parser = OneLineParser(
        prog="rgpt export-lm",
        description="Write the language model with its head as a plain causal language model, for engines "
        "that take embeddings (vLLM: --enable-prompt-embeds).",
    )
    parser.add_argument("--model", required=True, help="photo, tiny, a model or run folder, or a hub id")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "auto"),
        help="of the weights (default: as saved; float32 for an adapter, whose answers then stay the same)",
    )
    options = parser.parse_args(list(arguments))
    from rgpt.model.export_language_model import export_language_model

    written = export_language_model(options.model, options.out, options.dtype)
    print(f"the language model is in {written}")
    return 0

"""Where a model runs and in which numbers: the same options for every command that opens one."""

from __future__ import annotations

import argparse
from typing import Any

EVERYWHERE = "auto"
"""As a device: spread over all GPUs by the library's device map."""
DTYPES = ("float32", "bfloat16", "float16", "auto")
DEVICE_HELP = "cpu, cuda, cuda:1 … or mps (Apple; not verified)"
NAMES = ("device", "dtype", "bits")


def add_placement(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Give a parser the options that `placement` reads."""
    parser.add_argument(
        "--device",
        metavar="D",
        help=f"{DEVICE_HELP}; {EVERYWHERE}: over all GPUs (default: the first GPU, or the CPU)",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="default: float32 on the CPU, else auto, which is as saved"
    )
    parser.add_argument(
        "--bits", type=int, choices=(8, 4), help="quantise tower and language model while loading"
    )


def placement(options: Any) -> dict[str, Any]:
    """What was given of `device`, `dtype` and `bits`, as `rgpt.model.load` takes it.

    Args:
        options: parsed, or what else has these attributes.
    """
    return {name: getattr(options, name) for name in NAMES if getattr(options, name) is not None}

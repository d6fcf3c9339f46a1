"""Which model is opened when nobody names one: `photo` where it can be had, else `tiny`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from rgpt.errors import InputError

PHOTO = Path(__file__).parent / "photo"
"""The trained part of `photo`; its base is fetched."""


def default_model() -> str:
    """`photo`, whose base is fetched now if it was not before; else `tiny`, with one sentence on stderr.

    The first time pip shows its progress bars on stderr; later nothing is fetched and nothing is said.
    """
    try:
        if not (PHOTO / "adapter_model.safetensors").is_file():
            raise InputError("the embedded model 'photo' is not part of this installation.")
        # By name: what it imports is wanted only where there is something to fetch for.
        importlib.import_module("rgpt.model.photo_base").ensure_base(progress=True)
    except InputError as error:
        said = " ".join(str(error).split()).rstrip(".")
        print(f"rgpt opens 'tiny', which knows drawn scenes only, because {said}.", file=sys.stderr)
        return "tiny"
    return "photo"

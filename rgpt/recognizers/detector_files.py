"""Detectors on disk: a recognizer's folder with `detector.json` (settings) and `detector.safetensors` (what
the detector adds to its recognizer) beside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from rgpt.errors import InputError
from rgpt.files import whole_file, write_json
from rgpt.recognizers.base import RegionRecognizer
from rgpt.recognizers.loading import load_recognizer, save_recognizer

OWN = "recognizer."  # the recognizer's part of a detector's state, which its own file holds
Detector = TypeVar("Detector", bound=nn.Module)


def save_beside(
    recognizer: RegionRecognizer, detector: nn.Module, settings: dict[str, Any], folder: Path | str
) -> None:
    """Write the recognizer, then what `detector` holds outside of its attribute `recognizer`."""
    from safetensors.torch import save_file

    folder = Path(folder)
    save_recognizer(recognizer, folder)
    weights = {
        key: value.detach().cpu().clone().contiguous()
        for key, value in detector.state_dict().items()
        if not key.startswith(OWN)
    }
    with whole_file(folder / "detector.safetensors") as partial:
        save_file(weights, partial)
    write_json(folder / "detector.json", settings)  # last: a folder with it is complete


def load_beside(
    folder: Path | str,
    kind: str,
    recipe: str,
    build: Callable[[Any, dict[str, Any]], Detector],
) -> Detector:
    """Read what `save_beside` wrote.

    Args:
        kind: of the recognizer. recipe: which makes such folders. build: recognizer and settings -> detector.

    Raises:
        InputError: the folder holds something else, or settings and weights that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    recognizer = load_recognizer(folder)
    if recognizer.kind != kind or not (folder / "detector.json").is_file():
        missing = "" if (folder / "detector.json").is_file() else " without detector.json"
        raise InputError.about(
            f"detector {str(folder)!r}",
            f"a folder of the recipe {recipe}",
            f"a {recognizer.kind}{missing}",
            "train one or name another folder",
        )
    try:
        detector = build(recognizer, json.loads((folder / "detector.json").read_text(encoding="utf-8")))
        own = {key: value for key, value in detector.state_dict().items() if key.startswith(OWN)}
        detector.load_state_dict({**own, **load_file(folder / "detector.safetensors")})
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError.about(
            f"detector {str(folder)!r}",
            "settings and weights that fit one another",
            f"{type(error).__name__}: {' '.join(str(error).split())}"[:200],
            "save it again",
        ) from error
    return detector.eval()

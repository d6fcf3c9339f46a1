"""What `eval.score` can be told besides the two files; unknown names are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from eval.layouts.fields import Ids
from rgpt.errors import InputError


@dataclass(frozen=True)
class Options:
    """
    Args:
        ids: score only these ids: of pictures for region classification and detection, of items otherwise.
        subset: items without a prediction are left out instead of refused.
        split: which split of a file that holds several (RefCOCO's `refs(…).p`).
        tokenised: the captions are tokenised already.
        iou_type: "bbox" or "segm", for COCO results.
        detections_a_region: under `scored`, how many of a region's best names become detections.
        embedder: folder or hub id of a sentence embedding model, "none", or a function from texts to rows.
        instances: the COCO instances file that holds the boxes of a RefExp or refs file.
        iou: a box is found at this IoU or more; None: 0.5.
        base: names a detector was trained with: AP of these and of the others apart.
    """

    ids: Sequence[Any] | None = None
    subset: bool = False
    split: str | None = None
    tokenised: bool = False
    iou_type: str = "bbox"
    detections_a_region: int = 1
    embedder: str | Callable[[Sequence[str]], np.ndarray[Any, Any]] | None = None
    instances: Path | str | None = None
    iou: float | None = None
    base: tuple[str, ...] | None = None

    def chosen(self, known: Iterable[str], what: str = "id") -> list[str]:
        """Those of the known ids that `ids` names, all without it. Raises InputError: unknown ids, none."""
        known = list(known)
        if self.ids is None:
            return known
        named = set(Ids(known, what).find(self.ids, "the given ids"))
        if not named:
            raise InputError.about("--ids", "at least one id", "none", "leave it out to score all")
        return [id_ for id_ in known if id_ in named]

    def refuse(self, name: str, why: str) -> None:
        """Raises InputError when an option was given that these files leave without effect."""
        default = next(f.default for f in fields(self) if f.name == name)
        if getattr(self, name) != default:
            raise unused(name, why)


def unused(name: str, why: str) -> InputError:
    """What is said of an option that would change nothing."""
    return InputError(f"{as_written(name)} has no effect: {why}; leave it out.")


def as_written(name: str) -> str:
    """An option as the command line has it."""
    return f"--{name.replace('_', '-')}"


DEFAULTS = Options()

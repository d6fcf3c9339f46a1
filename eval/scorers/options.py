"""What `eval.score` can be told besides the two files; unknown names are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


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
        iou: a referred box is found at this IoU or more.
        base: names a detector was trained with: AP of these and of the others apart.
    """

    ids: frozenset[str] | None = None
    subset: bool = False
    split: str | None = None
    tokenised: bool = False
    iou_type: str = "bbox"
    detections_a_region: int = 1
    embedder: str | Callable[[Sequence[str]], np.ndarray[Any, Any]] | None = None
    instances: Path | str | None = None
    iou: float = 0.5
    base: tuple[str, ...] | None = None


DEFAULTS = Options()

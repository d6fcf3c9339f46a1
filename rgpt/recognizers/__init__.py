"""Open-vocabulary region recognition: CLIP baselines, RegionSpot, RegionCLIP, RO-ViT, behind one interface.

See `rgpt.recognizers.base` for the interface and docs/recognizers.md for what each does. Names below are
imported when first used, so that this package costs nothing until then.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "ClipRecognizer": "clip",
    "Detections": "scores",
    "Geometry": "geometry",
    "RegionClip": "regionclip",
    "RegionClipDetector": "regionclip_detector",
    "RegionRecognizer": "base",
    "RegionScores": "scores",
    "RegionSet": "region_set",
    "RegionSpot": "regionspot",
    "RoVit": "rovit",
    "RoVitDetector": "rovit_detector",
    "TextBank": "vocabulary",
    "Vocabulary": "vocabulary",
    "load_recognizer": "loading",
    "name_everything": "everything",
    "open_detector": "detectors",
    "open_recognizer": "loading",
    "propose": "proposals",
    "read_vocabulary": "vocabulary",
    "save_recognizer": "loading",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"rgpt.recognizers.{_WHERE[name]}"), name)

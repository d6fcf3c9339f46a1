"""Inputs for RecapD: noise with named boxes on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def make_input(folder: Path, pictures: int, regions: int, names: tuple[str, ...] = ("thing",)) -> Path:
    """A detection file: record-0 … with boxes in a row, class names in turn."""
    lines = []
    for p in range(pictures):
        noise = np.random.default_rng(p).integers(0, 256, (40, 10 * regions + 2, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{p}.png")
        boxes = [{"box": [10 * r, 4 + r, 10 * r + 12, 30]} for r in range(regions)]
        record = {"id": f"record-{p}", "image": f"{p}.png", "width": 10 * regions + 2, "height": 40}
        named = [names[(p * regions + r) % len(names)] for r in range(regions)]
        lines.append(json.dumps({**record, "regions": boxes, "names": named}))
    path = folder / "input.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path

"""Features of the frozen tower, computed once: `rgpt cache-features` writes them, training reads them.

A cache is a folder: `features-00000.safetensors` ... with one bf16 tensor `[n, C, h, w]` each, and
index.json, written last: the fingerprint of tower and preprocessing, and for every picture its row, size in
pixels and size in bytes. A picture is known by its path as seen from the cache's folder, so both can move
together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from rgpt.errors import InputError
from rgpt.regions import open_image
from rgpt.train.record import write_whole

FORM = 1


def fingerprint(tower: nn.Module, config: Any, processor: Any) -> str:
    """SHA-256 of everything a feature depends on: tower weights (as bf16), layer, grid, preprocessing.

    bf16, so that a tower loaded in another precision for training has the same one.
    """
    digest = hashlib.sha256()
    settings = {
        "form": FORM,
        "layer": config.vision_feature_layer,
        "strategy": config.vision_feature_select_strategy,
        "grid": config.vision_grid,
        "image_size": processor.image_size,
        "mean": [float(value) for value in processor.image_mean],
        "std": [float(value) for value in processor.image_std],
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(tower.state_dict().items()):
        digest.update(f"{name} {list(value.shape)}".encode())
        kept = value.detach().cpu()
        kept = kept.to(torch.bfloat16).view(torch.int16) if kept.is_floating_point() else kept
        digest.update(kept.contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_cache(
    folder: Path, model: Any, processor: Any, pictures: Sequence[Path], shard: int = 512, batch: int = 16
) -> int:
    """Run every picture through the tower; returns how many were computed now.

    Whole shards of an earlier, interrupted call with the same tower are kept. Raises InputError for a picture
    that cannot be read, or a folder that holds a cache of another tower.
    """
    mark = fingerprint(model.model.vision_tower, model.config, processor)
    folder.mkdir(parents=True, exist_ok=True)
    started = folder / "started.json"
    if started.is_file() and json.loads(started.read_text())["fingerprint"] != mark:
        raise InputError.about(
            "--out",
            expected="a new folder",
            actual=f"{str(folder)!r}, a cache of another tower",
            fix="choose one",
        )
    write_whole(started, json.dumps({"fingerprint": mark}))
    unique = sorted({os.path.realpath(path) for path in pictures})
    device = next(model.parameters()).device
    entries: dict[str, Any] = {}
    computed = 0
    with tqdm(total=len(unique), desc="tower features", unit="picture", mininterval=1) as bar:
        for number in range(0, len(unique), shard):
            names = unique[number : number + shard]
            path = folder / f"features-{number // shard:05d}.safetensors"
            listing = path.with_suffix(".json")
            keys = [_key(folder, name) for name in names]
            facts = _facts(listing, keys) if path.is_file() else None
            if facts is None:
                tensors, facts = [], {}
                for start in range(0, len(names), batch):
                    opened = [open_image(name) for name in names[start : start + batch]]
                    pixels = processor.pixel_values(opened).to(device)
                    with torch.inference_mode():
                        tensors.append(model.model.vision_features(pixels).to(torch.bfloat16).cpu())
                    for name, picture in zip(names[start : start + batch], opened, strict=True):
                        facts[_key(folder, name)] = [picture.width, picture.height, os.path.getsize(name)]
                    bar.update(len(opened))
                partial = path.with_name(f".{path.name}.partial")
                save_file({"features": torch.cat(tensors).contiguous()}, partial)
                os.replace(partial, path)
                write_whole(listing, json.dumps(facts))
                computed += len(names)
            else:
                bar.update(len(names))
            for row, key in enumerate(keys):
                entries[key] = [number // shard, row, *facts[key]]
    write_whole(folder / "index.json", json.dumps({"fingerprint": mark, "pictures": entries}))
    return computed


def _facts(listing: Path, keys: list[str]) -> dict[str, Any] | None:
    try:
        facts = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if list(facts) == keys else None


def _key(folder: Path, picture: str | Path) -> str:
    return Path(os.path.relpath(os.path.realpath(picture), os.path.realpath(folder))).as_posix()


class FeatureCache:
    """Features by picture path; files are mapped, not read into memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "index.json"
        if not index.is_file():
            raise InputError.about(
                "features",
                expected="a folder written by rgpt cache-features",
                actual=repr(str(folder)),
                fix="write it first",
            )
        found = json.loads(index.read_text(encoding="utf-8"))
        self.fingerprint: str = found["fingerprint"]
        self.pictures: dict[str, list[int]] = found["pictures"]

    def check(self, wanted: str) -> None:
        """Raises InputError when the cache belongs to another tower or preprocessing."""
        if self.fingerprint != wanted:
            raise InputError.about(
                f"features {str(self.folder)!r}",
                expected=f"those of this model's tower and preprocessing ({wanted[:12]})",
                actual=f"those of another ({self.fingerprint[:12]})",
                fix="run rgpt cache-features again",
            )

    def get(self, path: str) -> tuple[Tensor, tuple[int, int]]:
        """(`[C, h, w]` bf16, (width, height) of the upright picture). Raises InputError."""
        entry = self.pictures.get(_key(self.folder, path))
        if entry is None:
            raise InputError.about(
                f"picture {path!r}", expected="its features in the cache", actual="none", fix="cache it too"
            )
        shard, row, width, height, size = entry
        try:
            now = os.path.getsize(path)
        except OSError:
            now = size  # features can be used where the pictures themselves are not
        if now != size:
            raise InputError.about(
                f"picture {path!r}",
                expected=f"the {size} bytes its features were made of",
                actual=f"{now} bytes",
                fix="run rgpt cache-features again",
            )
        rows = _open_shard(str(self.folder / f"features-{shard:05d}.safetensors"))
        return rows[row], (width, height)


@lru_cache(maxsize=8)
def _open_shard(path: str) -> Any:
    return safe_open(path, framework="pt").get_slice("features")

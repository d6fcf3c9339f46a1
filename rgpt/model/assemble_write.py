"""A model folder written shard by shard, which appears under its name only when it is complete."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils.logging import tqdm

from rgpt.errors import InputError
from rgpt.files import whole_folder
from rgpt.model.assemble_sources import TensorInfo

_SPARE = 64 * 2**20  # for tokenizer, configuration and the file system's own needs


@dataclass(frozen=True)
class Entry:
    """One tensor of the new model: its name, its final shape and type, and how to get it."""

    name: str
    info: TensorInfo
    load: Callable[[], Tensor]


@contextmanager
def new_model_folder(target: Path, needed_bytes: int) -> Iterator[Path]:
    """A hidden folder beside `target` to write into; it becomes `target` when the block ends well.

    Whatever ends the block otherwise, nothing is left. A killed process leaves the hidden folder, never a
    half `target`.

    Raises:
        InputError: `target` holds something already, cannot be made, or the disk is too small or fills up.
    """
    target = Path(os.path.abspath(target))
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise InputError(f"{target} exists already: give a new folder, or remove it first.")
    try:
        with whole_folder(target) as partial:
            free = shutil.disk_usage(partial).free
            if free < needed_bytes + _SPARE:
                raise InputError(
                    f"{target.parent} has {free / 1e9:.2f} GB free but the model needs "
                    f"{(needed_bytes + _SPARE) / 1e9:.2f} GB: free some space or choose another disk."
                )
            yield partial
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if full else str(error)
        raise InputError(
            f"{target} could not be written ({reason}): nothing was left behind; make room or choose another "
            "folder."
        ) from error


def write_shards(folder: Path, entries: Sequence[Entry], max_shard_bytes: int) -> dict[str, str]:
    """Write `model*.safetensors` (and their index), at most `max_shard_bytes` of tensors in memory at once.

    A shard is never larger than that unless one tensor is. Returns the file of every tensor.
    """
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.info.bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.info.bytes
    weight_map: dict[str, str] = {}
    total = sum(entry.info.bytes for entry in entries)
    with tqdm(total=total, unit="B", unit_scale=True, desc="writing") as progress:
        for number, shard in enumerate(shards, start=1):
            name = "model.safetensors"
            if len(shards) > 1:
                name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            tensors = {}
            for entry in shard:
                tensors[entry.name] = _checked(entry)
                weight_map[entry.name] = name
                progress.update(entry.info.bytes)
            save_file(tensors, folder / name, metadata={"format": "pt"})
            del tensors
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return weight_map


def _checked(entry: Entry) -> Tensor:
    tensor = entry.load()
    assert tuple(tensor.shape) == entry.info.shape, f"{entry.name}: {tensor.shape} != {entry.info.shape}"
    return tensor.to(entry.info.dtype).contiguous()


def shard_bytes(text: str | int) -> int:
    """`"2GB"`, `"500MB"`, `"20KB"` or a number of bytes. Raises InputError for anything else."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"([0-9.]+)\s*([KMG]?B?)", text.strip().upper())
    scale = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}.get(match[2]) if match else None
    try:
        size = int(float(match[1]) * scale) if match and scale else 0
    except ValueError:
        size = 0
    if size < 1:
        raise InputError(f"the shard size {text!r} is none: write it like 2GB or 500MB.")
    return size


def torch_dtype(name: str | None) -> torch.dtype | None:
    """`float32`, `float16`, `bfloat16`; `None` or `auto`: as in the source."""
    if name in (None, "auto"):
        return None
    found = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}.get(str(name))
    if found is None:
        raise InputError(f"the type {name!r} is none of auto, float32, float16, bfloat16.")
    return found

"""Checkpoints on disk or on the hub, read one tensor at a time and without building their model."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rgpt.errors import InputError
from rgpt.hub import model_folder

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Weights(Protocol):
    """Named tensors of one source."""

    def infos(self) -> dict[str, TensorInfo]:
        """Shape and type of every tensor, from headers alone."""

    def read(self, key: str) -> Tensor:
        """One tensor, owned by the caller (no view into a mapped file)."""

    def origins(self, key: str) -> list[str]:
        """The names, as published, of what a tensor is made from."""

    def files(self) -> list[Path]:
        """The files that hold them."""


@dataclass(frozen=True)
class Source:
    """A folder with a checkpoint, and what to write about it: its name as given and its hub revision."""

    name: str
    folder: Path
    revision: str | None = None

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder, or `{}` where it is absent."""
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is no JSON ({error}): copy the checkpoint again.") from error
        if not isinstance(values, dict):
            raise InputError(f"{path} holds {type(values).__name__}, not an object: copy it again.")
        return values

    def config(self) -> dict[str, Any]:
        """`config.json`. Raises InputError when there is none."""
        values = self.json("config.json")
        if not values:
            raise InputError(f"{self.name} has no config.json: give the folder of a whole checkpoint.")
        return values


def find_source(name: str) -> Source:
    """A folder, or a hub id `owner/name` or `owner/name@revision`, with the revision that was found.

    Raises:
        InputError: as `model_folder`.
    """
    folder = model_folder(name)
    if folder == Path(name):
        return Source(name, folder)
    found = folder.name if folder.parent.name == "snapshots" else name.partition("@")[2]
    return Source(name, folder, found or None)


@dataclass
class FileWeights:
    """The weights of a folder: `model*.safetensors`, or `pytorch_model*.bin`; sharded or not."""

    folder: Path
    _where: dict[str, Path] = field(init=False, repr=False)
    _infos: dict[str, TensorInfo] = field(init=False, repr=False)
    _loaded: tuple[Path, dict[str, Tensor]] | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        self._where, self._infos = {}, {}
        names, index = self._names()
        for name in names:
            path = self.folder / name
            if not path.is_file():
                raise InputError(f"{path} is missing though its index names it: copy the checkpoint again.")
            for key, info in self._header(path).items():
                self._where[key], self._infos[key] = path, info
        absent = sorted(set(index) - set(self._infos))
        if absent:
            raise InputError(
                f"{self.folder / index[absent[0]]} lacks {len(absent)} weights that the index lists, first "
                f"{absent[0]}: copy the checkpoint again."
            )

    def _names(self) -> tuple[list[str], dict[str, str]]:
        for stem, ending in (("model", "safetensors"), ("pytorch_model", "bin")):
            index = self.folder / f"{stem}.{ending}.index.json"
            if index.is_file():
                weight_map = Source("", self.folder).json(index.name).get("weight_map")
                if not isinstance(weight_map, dict) or not weight_map:
                    raise InputError(f"{index} has no weight_map: copy the checkpoint again.")
                return sorted(set(weight_map.values())), weight_map
            if (self.folder / f"{stem}.{ending}").is_file():
                return [f"{stem}.{ending}"], {}
        raise InputError(
            f"{self.folder} holds no weights: expected model.safetensors, pytorch_model.bin or their shards."
        )

    def _header(self, path: Path) -> dict[str, TensorInfo]:
        if path.suffix == ".bin":
            return {key: TensorInfo(tuple(t.shape), t.dtype) for key, t in self._unpickle(path).items()}
        try:
            with safe_open(path, "pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no dict)
                return {
                    key: TensorInfo(tuple(part.get_shape()), _DTYPES[part.get_dtype()])
                    for key, part in slices.items()
                }
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} cannot be read ({error}): it was cut short; copy it again.") from error
        except KeyError as error:
            raise InputError(
                f"{path} stores numbers as {error}: give a checkpoint that is not quantised."
            ) from error

    def _unpickle(self, path: Path) -> dict[str, Tensor]:
        # `weights_only` is torch's restricted unpickler: tensors and plain containers, no code. A zip file
        # is mapped and costs nothing; torch before 1.6 wrote another kind, which must be read whole.
        if self._loaded is not None and self._loaded[0] == path:
            return self._loaded[1]
        try:
            try:
                tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:
                tensors = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{path} cannot be read ({reason}): copy it again.") from error
        tensors = {key: value for key, value in tensors.items() if torch.is_tensor(value)}
        self._loaded = (path, tensors)
        return tensors

    def infos(self) -> dict[str, TensorInfo]:
        return self._infos

    def read(self, key: str) -> Tensor:
        path = self._where[key]
        if path.suffix == ".bin":
            tensor = self._unpickle(path)[key].clone()
            return tensor
        # Opened again for every tensor: pages of a mapped file count as ours until it is closed.
        with safe_open(path, "pt") as file:
            return file.get_tensor(key).clone()

    def origins(self, key: str) -> list[str]:
        return [key]

    def files(self) -> list[Path]:
        return sorted(set(self._where.values()))


@dataclass
class MemoryWeights:
    """Tensors that exist already: fresh layers, or a model that another library loaded."""

    tensors: dict[str, Tensor]
    origin: Iterable[Path] = ()

    def infos(self) -> dict[str, TensorInfo]:
        return {key: TensorInfo(tuple(t.shape), t.dtype) for key, t in self.tensors.items()}

    def read(self, key: str) -> Tensor:
        return self.tensors[key].detach().clone(memory_format=torch.contiguous_format)

    def origins(self, key: str) -> list[str]:
        return [key]

    def files(self) -> list[Path]:
        return list(self.origin)

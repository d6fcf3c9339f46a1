"""Whether a configuration is that of the weights beside it, before memory is taken for what it says.

A stranger's `config.json` may claim a billion layers, or a vocabulary of a terabyte: a library would build
the former and fill the latter with numbers before it says that the weights are missing.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from rgpt.errors import InputError
from rgpt.hub import broken
from rgpt.model.bases import tensors_in
from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.modeling_regiongpt import RegionGPTForConditionalGeneration

_COUNTS = re.compile(r"layers?$|depths?$|blocks?$|experts$|stages$|n_layer$")
SLACK = 8
"""Times that there may be more weights than the files hold: 4-bit weights are packed, others are tied."""


def held_shapes(folder: Path | str) -> dict[str, list[int]]:
    """Every tensor in a folder's safetensors files. Raises InputError where a file is damaged."""
    files = sorted(Path(folder).glob("*.safetensors"))
    return {name: shape for file in files for name, _, shape, *_ in tensors_in(file)}


def check_counts(folder: Path | str, values: Mapping[str, Any], held: Mapping[str, list[int]]) -> None:
    """InputError where the raw configuration has more layers, blocks or experts than there are numbers."""
    most = max(len(held), *(max(shape, default=0) for shape in held.values())) if held else 0
    for key, count in _counts(values):
        if count > max(most, 100):
            raise InputError(
                f"the model {str(folder)!r} has {key} = {str(count)[:20]}, but its files hold {len(held)} "
                "tensors: copy it again."
            )


def check_shapes(folder: Path | str, config: RegionGPTConfig, held: Mapping[str, list[int]]) -> None:
    """InputError where weights have another shape than the configuration gives them, or are far too few."""
    try:
        with torch.device("meta"):
            # A copy: building writes into the configurations of parts.
            wanted = RegionGPTForConditionalGeneration(copy.deepcopy(config)).state_dict()
    except Exception as error:  # every model has its own way to refuse a configuration
        raise broken(folder, error) from error
    quantized = getattr(config, "quantization_config", None) is not None  # packed: in other shapes
    wrong = sorted(n for n, tensor in wanted.items() if n in held and list(tensor.shape) != held[n])
    if wrong and not quantized:
        raise InputError(
            f"the checkpoint {str(folder)!r} has a wrong shape for {len(wrong)} weights, first {wrong[0]}: "
            "save it again."
        )
    total = sum(torch.Size(shape).numel() for shape in held.values())
    if sum(tensor.numel() for tensor in wanted.values()) > SLACK * total:
        lacking = sorted(set(wanted) - set(held)) or sorted(wanted)
        raise InputError(
            f"the checkpoint {str(folder)!r} lacks {len(lacking)} weights, first {lacking[0]}: save it again."
        )


def _counts(value: Any) -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if _COUNTS.search(str(key)):
                numbers = inner if isinstance(inner, list) else [inner]
                yield from (
                    (str(key), int(n)) for n in numbers if isinstance(n, int | float) and abs(n) < math.inf
                )
            yield from _counts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _counts(inner)

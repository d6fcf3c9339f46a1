"""How large a model is, from its configuration alone: laid out on the meta device, it has names and shapes
but no numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rgpt.errors import InputError
from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.modeling_regiongpt import RegionGPTForConditionalGeneration
from rgpt.model.quantization import KEPT_WHOLE

PROFILES = {"paper": {}, "spatialrgpt": {"profile": "spatialrgpt"}}
"""Configurations that are known by name: the default, and the authors' later architecture."""

WEIGHT_FORMS = ("bf16", "8-bit", "4-bit")


@dataclass(frozen=True)
class Sizes:
    """Parameters of every part, and bytes of everything at run time.

    parts: number of parameters; a tied head counts with the language model and has 0.
    weights: bytes of all weights in each of `WEIGHT_FORMS`.
    keys_per_token: bytes of keys and values that one token of one conversation takes, in bf16.
    """

    config: RegionGPTConfig
    parts: dict[str, int]
    weights: dict[str, int]
    keys_per_token: int

    @property
    def parameters(self) -> int:
        return sum(self.parts.values())

    def keys(self, length: int, batch: int = 1) -> int:
        """Bytes of keys and values of `batch` conversations of `length` tokens, in bf16."""
        return self.keys_per_token * length * batch


def measure(config: RegionGPTConfig) -> Sizes:
    """Sizes of the model of a configuration; takes no memory worth mentioning, whatever its size."""
    with torch.device("meta"):
        model = RegionGPTForConditionalGeneration(config)
    modules: dict[str, nn.Module | None] = {
        "vision_tower": model.model.vision_tower,
        "refinement": model.model.refinement,
        "connector": model.model.connector,
        "region_projector": model.model.region_projector,
        "region_geometry": model.model.region_geometry,
        "language_model": model.model.language_model,
        "lm_head": model.lm_head,
    }
    counts = {name: _count(module) for name, module in modules.items() if module is not None}
    if config.tie_word_embeddings:
        counts["lm_head"] = 0
    buffers = sum(b.numel() * b.element_size() for name, b in model.named_buffers())
    weights = {form: _bytes(model, form, config.tie_word_embeddings) + buffers for form in WEIGHT_FORMS}
    return Sizes(config, counts, weights, _keys_per_token(config.text_config))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _bytes(model: nn.Module, form: str, tied: bool) -> int:
    """Weights as bitsandbytes keeps them: linear layers small, all else in bf16.

    8-bit: one byte a weight and a float32 scale a row (LLM.int8). 4-bit: half a byte a weight and a float32
    scale for every 64 weights (NF4 without double quantisation).
    """
    total = 0
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            whole = form == "bf16" or set(name.split(".")) & set(KEPT_WHOLE)
            linear = isinstance(module, nn.Linear) and parameter.ndim == 2
            if tied and name == "lm_head":
                continue
            if whole or not linear:
                total += 2 * parameter.numel()
            elif form == "8-bit":
                total += parameter.numel() + 4 * parameter.shape[0]
            else:
                total += -(-parameter.numel() // 2) + 4 * -(-parameter.numel() // 64)
    return total


def _keys_per_token(text_config: Any) -> int:
    heads = text_config.num_attention_heads
    cached = getattr(text_config, "num_key_value_heads", None) or heads
    width = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    return 2 * 2 * text_config.num_hidden_layers * cached * width


def find_config(name: str) -> RegionGPTConfig:
    """The configuration of `paper`, `spatialrgpt`, `tiny`, a folder or a hub id; no weights are read.

    Raises:
        InputError: there is no such model, or it is no RegionGPT.
    """
    if name in PROFILES:
        return RegionGPTConfig(**PROFILES[name])  # type: ignore[arg-type]
    from rgpt.model.loading import open_config

    return open_config(name)


def check_length(config: RegionGPTConfig, length: int | None) -> int:
    """The length asked for, or the whole context. Raises InputError when the context is shorter."""
    context = getattr(config.text_config, "max_position_embeddings", None)
    if length is None:
        return int(context or 2048)
    if length < 1 or (context is not None and length > context):
        raise InputError(f"--length is {length} but the context holds 1 to {context} tokens.")
    return length

"""Tiny random models, tokenizers and processors, made in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    DPTConfig,
    LlamaConfig,
    Qwen2Config,
    ResNetConfig,
    SiglipVisionConfig,
)

from rgpt.model import (
    RegionGPTConfig,
    RegionGPTForConditionalGeneration,
    RegionGPTProcessor,
)
from scripts.checkpoint_kinds import make_tokenizer

VIT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
LM = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,  # large, so that answers of a random model depend on what it sees
}
RESNET = {
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 40],
    "depths": [1, 1, 1],
    "layer_type": "basic",
}
HYBRID = {
    "is_hybrid": True,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "backbone_featmap_shape": [1, 40, 4, 4],
}
KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "clip+llama": lambda: {"vision_config": CLIPVisionConfig(**VIT), "text_config": LlamaConfig(**LM)},
    "siglip+qwen2": lambda: {
        "vision_config": SiglipVisionConfig(**VIT),
        "text_config": Qwen2Config(**LM),
        "vision_feature_select_strategy": "full",
    },
    "resnet+llama": lambda: {
        "vision_config": ResNetConfig(**RESNET),
        "text_config": LlamaConfig(**LM),
        "vision_feature_layer": -1,
        "vision_grid": 4,
    },
    "hybrid+qwen2": lambda: {
        "vision_config": DPTConfig(
            **HYBRID, backbone_config=ResNetConfig(**RESNET, out_features=["stage1", "stage2", "stage3"])
        ),
        "text_config": Qwen2Config(**LM),
        "vision_feature_layer": None,
    },
}
PICTURE_SIZE = {"clip+llama": 28, "siglip+qwen2": 28, "resnet+llama": 64, "hybrid+qwen2": 64}


def make_config(kind: str = "clip+llama", **changes: Any) -> RegionGPTConfig:
    tokenizer = make_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(["<image>", "<region>"])
    settings = {**KINDS[kind](), "image_token_id": ids[0], "region_token_id": ids[1], "merge_grid": 2}
    return RegionGPTConfig(**{**settings, **changes})


def make_model(kind: str = "clip+llama", seed: int = 0, **changes: Any) -> RegionGPTForConditionalGeneration:
    torch.manual_seed(seed)
    model = RegionGPTForConditionalGeneration(make_config(kind, **changes)).eval()
    for name, module in model.model.vision_tower.named_modules():
        # A random tower of width 16 would hardly look at its input.
        if isinstance(module, torch.nn.Linear) or name.endswith("patch_embedding"):
            torch.nn.init.normal_(module.weight, std=0.3)
    return model


def make_processor(config: RegionGPTConfig, kind: str = "clip+llama", **settings: Any) -> RegionGPTProcessor:
    settings.setdefault("image_size", PICTURE_SIZE[kind])
    return RegionGPTProcessor.for_model(
        config, make_tokenizer(), settings.pop("template", "lines"), **settings
    )


def make_picture(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)

"""Tiny random recognizers of every kind, made in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from rgpt.recognizers.base import RegionRecognizer
from rgpt.recognizers.frozen import unit_gain_
from rgpt.recognizers.loading import build_recognizer
from rgpt.regions import Box, Mask, Region

VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 24,
}
HF_CLIP: dict[str, Any] = {"library": "transformers", "vision": VISION, "text": "words"}
TEXT_CFG = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
OPEN_VIT: dict[str, Any] = {
    "library": "open_clip",
    "embed_dim": 24,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": TEXT_CFG,
}
OPEN_RESNET: dict[str, Any] = {
    "library": "open_clip",
    "embed_dim": 24,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 64},
    "text_cfg": TEXT_CFG,
    "text": "words",
}
SAM: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 32,
        "output_channels": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
        "num_pos_feats": 16,
        "mlp_dim": 64,
        "initializer_range": 0.02,
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 8, "mask_input_channels": 8},
    "mask_decoder_config": {
        "hidden_size": 32,
        "mlp_dim": 64,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 32,
    },
}
ROVIT: dict[str, Any] = {
    "image_size": 32,
    "patch": 8,
    "width": 24,
    "depth": 2,
    "heads": 2,
    "detection_size": 64,
    "window": 4,
    "templates": "bare",
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip-crop": ("clip", {"clip": HF_CLIP, "mode": "crop", "templates": "bare"}),
    "clip-masked-crop": ("clip", {"clip": OPEN_VIT, "mode": "masked-crop", "templates": "bare"}),
    "clip-pooled": ("clip", {"clip": HF_CLIP, "mode": "pooled", "templates": "bare"}),
    "clip-pooled-resnet": ("clip", {"clip": OPEN_RESNET, "mode": "pooled", "templates": "bare"}),
    "regionspot": (
        "regionspot",
        {"sam": SAM, "clip": HF_CLIP, "head": {"feedforward": 64}, "templates": "bare"},
    ),
    "regionclip": (
        "regionclip",
        {"clip": OPEN_RESNET, "short_side": 64, "longest_side": 128, "templates": "bare"},
    ),
    "rovit": ("rovit", ROVIT),
}


def make(name: str, seed: int = 0) -> RegionRecognizer:
    torch.manual_seed(seed)
    made = build_recognizer(*CONFIGS[name])
    if name == "regionspot":
        unit_gain_(made.sam)  # or SAM's tokens would hardly depend on the picture
    return made


def picture(seed: int = 0, width: int = 50, height: int = 40) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def some_regions(width: int = 50, height: int = 40) -> list[Region]:
    mask = np.zeros((height, width), dtype=bool)
    mask[5:20, 8:30] = True
    return [Box(3, 4, 30, 28), Mask(mask), Box(20.5, 10.25, width, height)]

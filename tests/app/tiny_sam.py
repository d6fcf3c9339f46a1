"""Tiny SAM and SAM 2 models with random weights in the on-disk layout of the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.recognizers.tiny_recognizers import SAM

SIDE = 64
HIERA: dict[str, Any] = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 16,
    "image_size": [SIDE, SIDE],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [16, 32, 64, 128],
    "num_attention_heads_per_stage": [1, 2, 4, 8],
    "window_size_per_stage": [8, 4, 4, 2],
    "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [4, 4],
}
SAM2: dict[str, Any] = {
    "vision_config": {
        "model_type": "sam2_vision_model",
        "backbone_config": HIERA,
        "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": SIDE, "patch_size": 16},
    "mask_decoder_config": {
        "hidden_size": 32,
        "mlp_dim": 64,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 32,
    },
}


def save_tiny_sam(folder: Path, kind: str = "sam") -> Path:
    """Write config.json, model.safetensors and preprocessor_config.json. `kind`: sam or sam2."""
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, SamImageProcessor, SamModel

    from rgpt.recognizers.sam import sam_config

    torch.manual_seed(0)
    square = {"height": SIDE, "width": SIDE}
    if kind == "sam":
        SamModel(sam_config(SAM)).save_pretrained(folder)
        SamImageProcessor(size={"longest_edge": SIDE}, pad_size=square).save_pretrained(folder)
    else:
        Sam2Model(Sam2Config(**SAM2)).save_pretrained(folder)
        Sam2ImageProcessor(size=square, mask_size={"height": 16, "width": 16}).save_pretrained(folder)
    files = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in folder.iterdir()} == files
    return folder

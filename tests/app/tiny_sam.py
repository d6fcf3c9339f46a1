"""A tiny SamModel with random weights in the on-disk layout of the published ones."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.recognizers.tiny_recognizers import SAM

SIDE = 64


def save_tiny_sam(folder: Path) -> Path:
    """Write config.json, model.safetensors and preprocessor_config.json."""
    from transformers import SamImageProcessor, SamModel

    from rgpt.recognizers.sam import sam_config

    torch.manual_seed(0)
    SamModel(sam_config(SAM)).save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    SamImageProcessor(size={"longest_edge": SIDE}, pad_size=square).save_pretrained(folder)
    files = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in folder.iterdir()} == files
    return folder

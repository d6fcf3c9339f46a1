"""How fast a run is: tokens and samples a second, and the share of the device's peak that is used (MFU)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "B200": 2250.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0}
"""Dense bf16 tensor-core peaks from the vendors' data sheets."""


def peak_flops(given: float | None) -> float | None:
    """Floating-point operations a second of one device, or `None` where it is not known."""
    if given is not None:
        return given * 1e12
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((tflops * 1e12 for key, tflops in PEAK_TFLOPS.items() if key in name), None)


def flops_per_token(model: nn.Module, context: float) -> float:
    """Operations of the language model for one token of training.

    Two a weight forwards, two a weight for the gradient of what it reads (the connector below always needs
    it), two a *trained* weight for its own gradient; and attention over half of `context` tokens on average.
    The embedding is a table and not counted. Tower and refinement are left out: with 576 image tokens a
    picture they are below two percent of a 7B model.
    """
    config: Any = model.config
    text = config.text_config
    fixed, trained = 0, 0
    for name, parameter in model.named_parameters():
        if ("language_model" in name or "lm_head" in name) and "embed_tokens" not in name:
            size = getattr(parameter, "ds_numel", parameter.numel())
            fixed += size
            trained += size if parameter.requires_grad else 0
    attention = 12.0 * text.num_hidden_layers * text.hidden_size * context / 2
    return 4.0 * fixed + 2.0 * trained + attention

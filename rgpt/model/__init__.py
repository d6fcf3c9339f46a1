"""RegionGPT as a Hugging Face model.

Importing this package registers `regiongpt` with the Auto classes, so that `AutoConfig`, `AutoProcessor` and
`AutoModelForImageTextToText.from_pretrained` open a RegionGPT folder without remote code.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.modeling_regiongpt import (
    RegionGPTForConditionalGeneration,
    RegionGPTImageFeatures,
    RegionGPTModel,
)

AutoConfig.register(RegionGPTConfig.model_type, RegionGPTConfig)
AutoModel.register(RegionGPTConfig, RegionGPTModel)
AutoModelForImageTextToText.register(RegionGPTConfig, RegionGPTForConditionalGeneration)

__all__ = [
    "RegionGPTConfig",
    "RegionGPTForConditionalGeneration",
    "RegionGPTImageFeatures",
    "RegionGPTModel",
]

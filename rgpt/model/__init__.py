"""RegionGPT as a Hugging Face model.

Importing this package registers `regiongpt` with the Auto classes, so that `AutoConfig`, `AutoProcessor` and
`AutoModelForImageTextToText.from_pretrained` open a RegionGPT folder without remote code.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.conversation import chat_template
from rgpt.model.loading import load
from rgpt.model.modeling_regiongpt import (
    RegionGPTForConditionalGeneration,
    RegionGPTImageFeatures,
    RegionGPTModel,
)
from rgpt.model.processing_regiongpt import RegionGPTProcessor, add_placeholders
from rgpt.model.pyramid_tower import PyramidTower, PyramidTowerConfig

AutoConfig.register(PyramidTowerConfig.model_type, PyramidTowerConfig)
AutoModel.register(PyramidTowerConfig, PyramidTower)
AutoConfig.register(RegionGPTConfig.model_type, RegionGPTConfig)
AutoModel.register(RegionGPTConfig, RegionGPTModel)
AutoModelForImageTextToText.register(RegionGPTConfig, RegionGPTForConditionalGeneration)
AutoProcessor.register(RegionGPTConfig, RegionGPTProcessor)

__all__ = [
    "RegionGPTConfig",
    "RegionGPTForConditionalGeneration",
    "RegionGPTImageFeatures",
    "RegionGPTModel",
    "RegionGPTProcessor",
    "add_placeholders",
    "chat_template",
    "load",
]

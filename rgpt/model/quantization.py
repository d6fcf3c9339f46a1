"""8- and 4-bit loading through bitsandbytes: linear layers of tower and language model are made small;
connector, refinement, region projector and head stay whole.

The kept parts are few, are what stage 1 trains, and turn features into words: an error there is an error in
every region.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from rgpt.errors import InputError

KEPT_WHOLE = ("connector", "refinement", "region_projector", "region_geometry", "lm_head")
"""Names of modules that quantisation leaves alone."""
# transformers compares with the start or the end of a whole name: "connector" alone would not keep
# model.connector.linear_1, and the connector would be quantised without a word.
_PATTERNS = [*KEPT_WHOLE, *(f"model.{name}" for name in KEPT_WHOLE)]


def quantization_config(bits: int, compute_dtype: torch.dtype = torch.bfloat16) -> BitsAndBytesConfig:
    """What `from_pretrained(quantization_config=...)` takes, for 8 (LLM.int8) or 4 bits (NF4).

    Raises:
        InputError: for another number of bits.
    """
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(_PATTERNS))
    if bits == 4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=compute_dtype,
            llm_int8_skip_modules=list(_PATTERNS),
        )
    raise InputError(f"bits is {bits}: bitsandbytes loads 8 or 4.")


def keep_whole(config: Any) -> Any:
    """A quantisation configuration given by the caller, with the parts that must stay whole."""
    if isinstance(config, BitsAndBytesConfig):
        given = config.llm_int8_skip_modules or []
        config.llm_int8_skip_modules = [*given, *(name for name in _PATTERNS if name not in given)]
    return config

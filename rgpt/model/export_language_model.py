"""The language model of a RegionGPT, with its head, as a plain causal language model.

For engines that take embeddings in place of token ids: they run this part alone, and RegionGPT makes the
embeddings of pictures and regions (`RegionGPTModel.project`).
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rgpt.errors import InputError
from rgpt.files import whole_folder
from rgpt.model.assemble_library import on_meta
from rgpt.model.bases import lineage
from rgpt.model.loading import load, open_config


def export_language_model(
    name_or_path: str | Path, out: Path, dtype: str | None = None, max_shard_size: str = "5GB"
) -> Path:
    """Write the language model of a checkpoint to the new folder `out`, whole or not at all.

    What was trained on a base (LoRA, deltas) is merged into it first. The folder has configuration, weights,
    generation settings and tokenizer (the placeholders among its special tokens), but no chat template: text
    is written by RegionGPT's processor.

    Args:
        dtype: `float32`, `bfloat16`, `float16`, or `auto` (as saved). Default: as saved, but float32 where
            something is merged, since a sum that is rounded to 8 bits gives other answers.

    Raises:
        InputError: there is no such model, `out` exists, or transformers' class for this language model
            computes other logits.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise InputError.about("--out", "a new folder", f"{str(out)!r}, which exists", "choose another")
    _, layers = lineage(name_or_path)
    stored = dtype or ("float32" if layers else "auto")
    if layers:  # summed in float32 in any case, and rounded once
        model, processor = load(name_or_path, dtype="float32", device="cpu")
        if stored == "auto":
            stored = str(open_config(name_or_path).dtype or "float32").removeprefix("torch.")
        model = model.to(getattr(torch, stored))
    else:
        model, processor = load(name_or_path, dtype=stored, device="cpu")
    causal = as_causal(model)
    with whole_folder(out) as folder:
        causal.save_pretrained(folder, max_shard_size=max_shard_size)
        tokenizer = deepcopy(processor.tokenizer)
        tokenizer.chat_template = None
        tokenizer.save_pretrained(folder)
    return out


def as_causal(model: Any) -> PreTrainedModel:
    """The language model and head of a `RegionGPTForConditionalGeneration` in transformers' own causal class.

    Nothing is copied: both models share their weights from then on.

    Raises:
        InputError: that class is built otherwise, or computes other logits from the same embeddings.
    """
    config = deepcopy(model.config.text_config)
    config.tie_word_embeddings = model.config.tie_word_embeddings
    label = f"the language model ({config.model_type})"
    causal: Any = on_meta(lambda: AutoModelForCausalLM.from_config(config), label)
    body, head = model.model.language_model, causal.get_output_embeddings()
    own = getattr(causal, causal.base_model_prefix, None)
    if type(own) is not type(body) or head is None or (head.bias is None) is not (model.lm_head.bias is None):
        raise InputError(
            f"{label} cannot be written by itself: transformers' {type(causal).__name__} is built otherwise."
        )
    setattr(causal, causal.base_model_prefix, body)
    causal.set_output_embeddings(model.lm_head)
    causal.config.architectures = [type(causal).__name__]
    causal.config.dtype = model.dtype
    causal.generation_config = deepcopy(model.generation_config)
    # The step after the head (scaling, capping) is in no weight: whether it is the same is tried.
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(1, 4, config.hidden_size, generator=generator).to(model.dtype)
    with torch.inference_mode():
        ours = model(inputs_embeds=embeddings, use_cache=False).logits.float()
        theirs = causal(inputs_embeds=embeddings, use_cache=False).logits.float()
    rounding = 1e-3 if model.dtype == torch.float32 else 2e-2
    if not torch.allclose(ours, theirs, atol=rounding / 10, rtol=rounding):
        raise InputError(
            f"{label} cannot be written by itself: transformers' {type(causal).__name__} computes other "
            f"logits (apart by {float((ours - theirs).abs().max()):.3g})."
        )
    return causal

"""Keys and values of what the model has read.

Axes: C, G channels and side of the refined map, D the language model's width, V its vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rgpt.model import RegionGPTImageFeatures
from rgpt.model.conversation import Conversation


class Keys:
    """Keys and values of the tokens read so far, and what stood at each position.

    Args:
        model: a `RegionGPTForConditionalGeneration`.
        processor: its processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.refined: Tensor | None = None
        """`[1, C, G, G]`, the picture; whoever sets it calls `clear` too."""
        self.reused = 0
        """Tokens of the last prompt whose keys were there already."""
        self.clear()

    def clear(self) -> None:
        """Forget everything read."""
        self.ids: list[int] = []
        self.mentioned: list[bytes] = []
        self.cache = DynamicCache(config=self.model.config.get_text_config())

    @property
    def can_branch(self) -> bool:
        """Whether many continuations may stand in one row: plain attention that takes a mask of our own."""
        text = self.model.config.get_text_config()
        # ALiBi, and GPT-Neo's own windows, read distances off rows and columns, and take no other mask.
        plain = text.model_type not in ("bloom", "gpt_neo", "mpt") and not getattr(text, "alibi", False)
        plain = plain and text._attn_implementation in ("sdpa", "eager")
        return plain and all(type(layer) is DynamicLayer for layer in self.cache.layers)

    def prefill(self, prompt: Conversation) -> Tensor:
        """Read a prompt, as far as it was not read yet; the logits `[V]` of what follows it."""
        return self.read(prompt, len(prompt.ids))

    def read(self, prompt: Conversation, length: int, logits: bool = True) -> Tensor:
        """Read the first `length` tokens; without `logits` nothing is computed when all are known."""
        keep = self._keep(prompt, length - 1 if logits else length)
        self.reused = keep
        if keep == length:
            return torch.empty(0)
        return self._forward(prompt.ids[keep:length], self.features([prompt], keep, length))

    def step(self, token: int) -> Tensor:
        """Read one more token; the logits `[V]` of what follows it."""
        return self._forward([token], None)

    def features(self, prompts: Sequence[Conversation], start: int, stop: int | None = None) -> Any:
        """What is written over the placeholders in `ids[start:stop]` of all prompts; None for nothing."""
        if self.refined is None:
            return None
        image_id, network = self.processor.image_token_id, self.model.model
        pieces = [prompt.ids[start:stop] for prompt in prompts]
        weights = [
            prompt.weights[region]
            for prompt, piece in zip(prompts, pieces, strict=True)
            for slot, region in zip(prompt.slots, prompt.mentions, strict=True)
            if start <= slot < start + len(piece)
        ]
        # A prompt that ends with its picture (LLaVA's plain) is cut within it: some rows were read before.
        shown = [
            (prompt.ids[:start].count(image_id), piece.count(image_id))
            for prompt, piece in zip(prompts, pieces, strict=True)
        ]
        if not weights and not any(count for _, count in shown):
            return None
        with torch.inference_mode():
            regions = None
            if weights:
                regions = network.pool_regions(
                    self.refined, torch.stack(weights)[None].to(self.refined.device)
                )[0]
            width = self.model.config.get_text_config().hidden_size
            tokens = self.refined.new_zeros(0, width)
            if any(count for _, count in shown):
                (merged,) = network.merge(self.refined)
                tokens = torch.cat([merged[first : first + count] for first, count in shown])
        return RegionGPTImageFeatures(pooler_output=tokens[None], region_features=regions)

    def _keep(self, prompt: Conversation, length: int) -> int:
        """Cut the cache to what it shares with the prompt's first `length` tokens; how many that are."""
        keep = common(self.ids, prompt.ids[:length])
        same = common(self.mentioned, prompt.mentioned)
        if same < len(prompt.slots):  # a slot whose region differs, though its token is the same
            keep = min(keep, prompt.slots[same])
        if keep == 0 or not self._cut(len(self.ids) - keep):
            self.clear()
            keep = 0
        self.ids, self.mentioned = prompt.ids[:keep], prompt.mentioned
        return keep

    def _cut(self, surplus: int) -> bool:
        """Drop the last tokens; False where a layer cannot: it let keys go, or keeps one state of all."""
        if not surplus:
            return True
        for layer in self.cache.layers:
            if type(layer) is DynamicSlidingWindowLayer:
                if layer.get_seq_length() >= layer.sliding_window:
                    return False
            elif type(layer) is not DynamicLayer:
                return False
        self.cache.crop(-surplus)
        return True

    def _forward(self, new: list[int], features: Any) -> Tensor:
        logits = self.run(features, input_ids=torch.tensor([new], device=self.model.device), logits_to_keep=1)
        self.ids = self.ids + new
        return logits[-1]

    def run(self, features: Any, **inputs: Any) -> Tensor:
        """One pass of the model over a row, appended to the cache: logits `[kept, V]`."""
        try:
            with torch.inference_mode():
                outputs = self.model(
                    past_key_values=self.cache,
                    mm_encoder_outputs=None if features is None else {"image": features},
                    use_cache=True,
                    **inputs,
                )
        except BaseException:
            # Some layers may hold keys of these tokens and others not: half a cache is no cache.
            self.clear()
            raise
        return outputs.logits[0]


def common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many leading items two sequences share."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count

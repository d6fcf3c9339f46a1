"""The few hooks by which `generate` learns about regions.

Pictures are encoded once, before the first step; then their features and those of the regions are repeated
for beams and cut for a cached prompt. transformers does the like for image features only.
`tests/model/test_hf_contract.py` fails on the day an upgrade renames one of them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from rgpt.errors import InputError
from rgpt.model.projection import placeholder_mask


def _row_numbers(mask: Tensor) -> Tensor:
    """`[B, L]`: the feature row that every placeholder takes (reading order over the flattened batch)."""
    return mask.flatten().cumsum(0).view_as(mask) - 1


class RegionGenerationMixin:
    """Hooks of `GenerationMixin`; stands before it in the bases of `RegionGPTForConditionalGeneration`."""

    config: Any
    model: Any

    def _select(
        self, features: Any, choose: Any, input_ids: Tensor | None, inputs_embeds: Tensor | None
    ) -> Any:
        """A copy of `features` with the rows that `choose(mask, row_numbers)` keeps, of both kinds."""
        tokens = features.pooler_output
        tokens = tokens if torch.is_tensor(tokens) else torch.cat(list(tokens))
        rows = {self.config.image_token_id: tokens.reshape(-1, tokens.shape[-1])}
        if features.region_features is not None:
            rows[self.config.region_token_id] = features.region_features
        embeddings = self.model.get_input_embeddings()
        for token_id, values in rows.items():
            mask = placeholder_mask(input_ids, inputs_embeds, embeddings, token_id)
            rows[token_id] = values[choose(mask, _row_numbers(mask)).to(values.device)]
        chosen = copy.copy(features)  # never in place: a chat session asks many times with the same features
        chosen["pooler_output"] = rows[self.config.image_token_id].unsqueeze(0)
        if features.region_features is not None:
            chosen["region_features"] = rows[self.config.region_token_id]
        return chosen

    @torch.no_grad()
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, with the pictures and regions that `forward` takes; they are encoded once.

        That is `pixel_values` or `vision_features`, with `region_masks` and `region_index`, or the finished
        `mm_encoder_outputs`.
        """
        names = ("pixel_values", "vision_features", "region_masks", "region_index")
        inputs = {name: value for name in names if (value := kwargs.pop(name, None)) is not None}
        if inputs:
            given = kwargs.get("mm_encoder_outputs") or {}
            if given.get("image") is not None:
                raise InputError("generate takes pictures and regions, or mm_encoder_outputs, not both.")
            features = self.model.get_image_features(**inputs)
            kwargs["mm_encoder_outputs"] = {**given, "image": features}
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        # Beams and num_return_sequences repeat every row of text; its pictures and regions must follow it.
        outputs = model_kwargs.pop("mm_encoder_outputs", None)
        if outputs and outputs.get("image") is not None and expand_size > 1:

            def repeat(mask: Tensor, numbers: Tensor) -> Tensor:
                mask = mask.repeat_interleave(expand_size, dim=0)
                return numbers.repeat_interleave(expand_size, dim=0)[mask]

            embeds = model_kwargs.get("inputs_embeds")
            outputs = {**outputs, "image": self._select(outputs["image"], repeat, input_ids, embeds)}
        expanded_ids, expanded = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if outputs:
            expanded["mm_encoder_outputs"] = outputs
        return expanded_ids, expanded

    # `inputs_embeds` is named because generate() looks for it in this signature before it accepts embeddings.
    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        # A conversation that goes on from cached keys reads only the new end of the prompt: the features of
        # placeholders that lie in the cache are left out, or they would be written over the new ones.
        first_step = bool(kwargs.get("is_first_iteration"))
        if not first_step and kwargs.get("use_cache", True):
            kwargs.pop("mm_encoder_outputs", None)
        outputs = kwargs.get("mm_encoder_outputs") or {}
        features = outputs.get("image")
        length = input_ids.shape[1]
        if (
            first_step
            and features is not None
            and inputs_embeds is None
            and next_sequence_length is not None
            and next_sequence_length < length
        ):
            first = length - next_sequence_length

            def keep_new(mask: Tensor, numbers: Tensor) -> Tensor:
                return numbers[:, first:][mask[:, first:]]

            kwargs["mm_encoder_outputs"] = {
                **outputs,
                "image": self._select(features, keep_new, input_ids, None),
            }
        return super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, next_sequence_length=next_sequence_length, inputs_embeds=inputs_embeds, **kwargs
        )

    def _prefill(
        self, input_ids: Tensor, generation_config: Any, model_kwargs: dict[str, Any], **kwargs: Any
    ) -> Any:
        # Chunked prefill slices image features but drops every other field: the mentions would go unanswered.
        features = (model_kwargs.get("mm_encoder_outputs") or {}).get("image")
        if (
            getattr(generation_config, "prefill_chunk_size", None) is not None
            and getattr(features, "region_features", None) is not None
        ):
            raise InputError("prefill_chunk_size cannot be used with regions: leave it unset.")
        return super()._prefill(input_ids, generation_config, model_kwargs, **kwargs)  # type: ignore[misc]

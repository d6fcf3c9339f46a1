"""Pictures, regions and text in; tensors for `RegionGPTForConditionalGeneration` out.

This is the face that the library knows: one prompt or many, short forms of every argument, batches. What it
makes of a single conversation is `rgpt.model.tokenizing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from rgpt.errors import InputError
from rgpt.model.arguments import as_conversations, deal_pictures, image_blocks, one_each
from rgpt.model.batch import make_batch
from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.conversation import (
    IGNORED,
    Conversation,
    Messages,
    chat_template,
    control_pattern,
    expand_mentions,
    numbered_regions,
)
from rgpt.model.pictures import as_picture
from rgpt.model.tokenizing import Tokenizing

_OF_A_ROW = ("add_special_tokens", "learn", "truncation", "return_pixel_values", "max_length")
"""Options of one conversation; the last also counts for the batch."""


class RegionGPTProcessor(Tokenizing, ProcessorMixin):
    """Turns pictures, regions and text into model inputs.

    Args:
        tokenizer: must hold `image_token` and `region_token` (see `add_placeholders`).
        image_size: side S of the model's input in pixels.
        image_mean, image_std: per channel, of values in [0, 1].
        merge_grid: image tokens along a side; a picture becomes merge_grid^2 tokens.
        refined_grid: cells along a side of the grid that region masks live on.
        region_mention: what `<regionN>` becomes; holds `<region>` once and `{number}` if the number is
            written. `"[{number}] <region>"` (the number is written before), `"<region>"` (by order alone).
        max_length: longest prompt in tokens, the model's context; `None`: not checked.
        chat_template: Jinja text.
    """

    # `from_pretrained` reads these names from __init__: no keyword-only arguments here.
    def __init__(
        self,
        tokenizer: Any = None,
        image_size: int = 336,
        image_mean: Sequence[float] = tuple(OPENAI_CLIP_MEAN),
        image_std: Sequence[float] = tuple(OPENAI_CLIP_STD),
        merge_grid: int = 24,
        refined_grid: int = 96,
        region_mention: str = "[{number}] <region>",
        image_token: str = "<image>",
        region_token: str = "<region>",
        max_length: int | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_size, self.merge_grid, self.refined_grid = image_size, merge_grid, refined_grid
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.image_token, self.region_token = image_token, region_token
        self.region_mention, self.max_length = region_mention, max_length
        if region_mention.count(region_token) != 1:
            raise InputError(
                f"region_mention is {region_mention!r} but a mention must hold {region_token} exactly once."
            )
        self.image_token_id = self._token_id(image_token)
        self.region_token_id = self._token_id(region_token)
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._control = control_pattern([*added, *tokenizer.all_special_tokens, image_token, region_token])

    def _token_id(self, token: str) -> int:
        token_id = self.tokenizer.get_vocab().get(token)
        if token_id is None:
            raise InputError(
                f"the tokenizer has no {token} token: add it with rgpt.model.add_placeholders(tokenizer)."
            )
        return token_id

    @classmethod
    def for_model(
        cls, config: RegionGPTConfig, tokenizer: Any, template: str, **settings: Any
    ) -> RegionGPTProcessor:
        """A processor whose grids, picture size and context follow a model's configuration.

        Args:
            template: name of a chat template (`rgpt.model.CHAT_TEMPLATES`) or Jinja text.
            settings: override any argument of the constructor, e.g. `image_size` for a tower that does not
                state it.
        """
        settings.setdefault("image_size", config.image_size)
        if settings["image_size"] is None:
            raise InputError("the tower's config does not state its picture size: give image_size.")
        settings.setdefault("merge_grid", config.token_grid)
        settings.setdefault("refined_grid", config.refined_grid)
        settings.setdefault("max_length", getattr(config.text_config, "max_position_embeddings", None))
        processor = cls(tokenizer, chat_template=chat_template(template), **settings)
        processor.check_model(config)
        return processor

    def check_model(self, config: RegionGPTConfig) -> None:
        """Refuse a model that this processor does not belong to; the message names the value that differs."""
        for name in ("merge_grid", "refined_grid", "image_token_id", "region_token_id", "image_size"):
            ours = getattr(self, name)
            theirs = config.token_grid if name == "merge_grid" else getattr(config, name)
            if theirs is not None and ours != theirs:
                raise InputError(
                    f"{name} is {ours} in the processor but {theirs} in the model: "
                    "they were not saved together."
                )

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "region_masks", "region_index"]

    # ---------------------------------------------------------------------------------------------- prompts

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        regions: Any = None,
        *,
        add_special_tokens: bool = True,
        **options: Any,
    ) -> BatchFeature:
        """Ready-made prompts, in which `<image>` and `<regionN>` are placeholders.

        Args:
            images: one picture, a flat list in reading order, or one list a prompt. A picture is a PIL
                image, a path, encoded bytes or a uint8 array.
            text: one prompt or a list of prompts.
            regions: for one prompt a list (numbered from 1) or `{number: region}`; for a list of prompts
                one such value (or `None`) each. A region is a `rgpt.regions` value or its JSON, on picture
                0 of its prompt, or `(picture_index, region)`.
            options: `padding` (True or `longest`, `max_length`, or False for rows that are equally long);
                `padding_side` (`left` or `right`; default: the tokenizer's); `truncation` (cut a row that is
                too long at its end, never a placeholder); `max_length` in tokens (default: the processor's);
                `return_tensors`; `return_pixel_values` (False where the model has the pictures already).

        Returns:
            `input_ids`, `attention_mask` `[B, L]`; `pixel_values` `[I, 3, S, S]` when there are pictures;
            `region_masks` `[I, R, G, G]` float32 and `region_index` `[M]` when there are regions.

        Raises:
            InputError: for anything that cannot be used, before the model runs.
        """
        if text is None:
            raise InputError("the processor needs text: a prompt, with <image> where the picture belongs.")
        single = isinstance(text, str)
        texts = [text] if isinstance(text, str) else list(text)
        all_regions = [regions] if single else one_each(regions, len(texts), "regions")
        pictures = deal_pictures(images, [item.count(self.image_token) for item in texts], self.image_token)
        bos = self.tokenizer.bos_token
        if bos and any(item.startswith(bos) for item in texts):
            add_special_tokens = False
        batching, tokenizing = _split({**options, "add_special_tokens": add_special_tokens})
        conversations = []
        for item, item_pictures, item_regions in zip(texts, pictures, all_regions, strict=True):
            if self.region_token in item:
                raise InputError(
                    f"the prompt holds a bare {self.region_token}: "
                    "write <region1>, <region2> ... to say which one."
                )
            expanded, mentions = expand_mentions(item, self.mention)
            conversations.append(
                self._tokenize(
                    expanded, mentions, item_pictures, numbered_regions(item_regions), **tokenizing
                )
            )
        return self._batch(conversations, **batching)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        images: Any = None,
        regions: Any = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = False,
        return_dict: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        sanitize_control_tokens: bool = True,
        **options: Any,
    ) -> Any:
        """Conversations to prompts (`tokenize=False`) or to model inputs; arguments as in `encode_chat`.

        Control tokens that a person typed are always neutralised, whatever `sanitize_control_tokens` says.
        """
        options = {**options, **(processor_kwargs or {})}
        if tokenize:
            batch = self.encode_chat(
                conversation,
                chat_template,
                images=images,
                regions=options.pop("regions", regions),
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **options,
            )
            return batch if return_dict else batch["input_ids"]
        conversations, single = as_conversations(conversation)
        prompts = []
        for item in conversations:
            messages = Messages(item, self._control, lambda number: f"<region{number}>").messages
            prompts.append(
                self._render(messages, chat_template, add_generation_prompt, continue_final_message)[0]
            )
        return prompts[0] if single else prompts

    def encode_chat(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        images: Any = None,
        regions: Any = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_labels: bool = False,
        return_assistant_tokens_mask: bool = False,
        padding_side: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """One conversation, or a list of conversations, to model inputs.

        A conversation is a list of `{"role", "content"}`; content is text or a list of blocks: `{"type":
        "text", "text"}`, `{"type": "image", "image"}`, `{"type": "region", "region", "number"?}` (a mention
        of that region). In the text of users `<regionN>` is a mention; any other control token is
        neutralised. A message may have `regions` of its own, as in `__call__`: there its numbers mean these,
        so that a number may mean one region in one message and another in the next.

        Args:
            chat_template: name of one of ours or Jinja text; default: the processor's own.
            images: pictures for image blocks that carry none, as in `__call__`.
            regions: as in `__call__`, besides those of region blocks.
            add_generation_prompt: end with the assistant's header; pads on the left unless told otherwise.
            return_labels: add `labels` `[B, L]`: the assistant's words and their end-of-turn token, -100
                elsewhere.
            return_assistant_tokens_mask: add `assistant_masks` `[B, L]`: 1 where `labels` would be.
            options: as in `__call__`.
        """
        conversations, single = as_conversations(conversation)
        all_regions = [regions] if single else one_each(regions, len(conversations), "regions")
        pictures: Sequence[list[Any] | None] = [None] * len(conversations)
        if images is not None:
            pictures = deal_pictures(images, list(map(image_blocks, conversations)), self.image_token)
        if padding_side is None and add_generation_prompt:
            padding_side = "left"
        learn = return_labels or return_assistant_tokens_mask
        batching, tokenizing = _split({**options, "padding_side": padding_side, "learn": learn})
        rows = [
            self.tokenize_chat(
                item,
                chat_template,
                images=item_pictures,
                regions=item_regions,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **tokenizing,
            )
            for item, item_pictures, item_regions in zip(conversations, pictures, all_regions, strict=True)
        ]
        batch = self._batch(rows, return_labels=True, **batching)
        if return_assistant_tokens_mask:
            batch["assistant_masks"] = (batch["labels"] != IGNORED).long()
        if not return_labels:
            del batch["labels"]
        return batch

    def _batch(
        self,
        conversations: Sequence[Conversation],
        *,
        return_labels: bool = False,
        padding: bool | str = True,
        padding_side: str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Rows to tensors; arguments as in `__call__`."""
        if not padding and len(set(map(len, conversations))) > 1:
            raise InputError("prompts of unlike length need padding=True to become one batch.")
        # Padding is masked, so any id will do where the tokenizer names none.
        pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        length = (max_length or self.max_length) if padding == "max_length" else None
        side = padding_side or self.tokenizer.padding_side
        batch = make_batch([[item] for item in conversations], pad_id, length, side)
        del batch["position_ids"]  # the model counts them by the mask
        if not return_labels:
            del batch["labels"]
        return BatchFeature(batch)

    def pixel_values(self, pictures: Sequence[Any]) -> Tensor:
        """Pictures in any form that `__call__` takes -> float32 `[I, 3, S, S]`."""
        return torch.stack([self.pixels(as_picture(item)) for item in pictures])


def add_placeholders(tokenizer: Any, image_token: str = "<image>", region_token: str = "<region>") -> int:
    """Add the two placeholders as special tokens where they are missing; returns how many were added."""
    wanted = [token for token in (image_token, region_token) if token not in tokenizer.get_vocab()]
    return tokenizer.add_special_tokens({"additional_special_tokens": wanted}) if wanted else 0


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of `__call__` for a batch, and those for each of its rows."""
    if options.get("return_tensors") not in ("pt", None):
        raise InputError(
            f"return_tensors is {options['return_tensors']!r}: this processor makes torch tensors, 'pt'."
        )
    rows = {name: value for name, value in options.items() if name in _OF_A_ROW}
    return {name: value for name, value in options.items() if name not in _OF_A_ROW[:-1]}, rows


__all__ = ["IGNORED", "RegionGPTProcessor", "add_placeholders"]

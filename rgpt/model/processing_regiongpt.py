"""Pictures, regions and text in; tensors for `RegionGPTForConditionalGeneration` out.

Everything that can be wrong with an input is refused here, before anything is computed. Masks reach the
model as weights on the refined grid, computed once, never as full-size float tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils.chat_template_utils import render_jinja_template

from rgpt.errors import ContextLengthError, InputError
from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.pictures import as_picture, to_pixels
from rgpt.model.prompt_text import Conversation, chat_template, control_pattern, expand_mentions
from rgpt.model.region_tensors import region_tensors
from rgpt.model.samples import Sample, as_conversations, deal_pictures, numbered_regions, one_each

IGNORED = -100
"""The label of a position that nothing is learned from."""


class RegionGPTProcessor(ProcessorMixin):
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
            template: name of a chat template (`vicuna`, `llama-3`, `qwen`, `plain`) or Jinja text.
            settings: override any argument of the constructor, e.g. `image_size` for a tower that does not
                state it.
        """
        settings.setdefault("image_size", config.image_size)
        if settings["image_size"] is None:
            raise InputError("the tower's config does not state its picture size: give image_size.")
        settings.setdefault("merge_grid", config.token_grid)
        settings.setdefault("refined_grid", config.refined_grid)
        settings.setdefault("max_length", getattr(config.text_config, "max_position_embeddings", None))
        text = template if "{" in template else chat_template(template)
        processor = cls(tokenizer, chat_template=text, **settings)
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

    @property
    def image_tokens(self) -> int:
        """T: tokens that one picture becomes."""
        return self.merge_grid**2

    def mention(self, number: int) -> str:
        """What `<regionN>` becomes."""
        return self.region_mention.replace("{number}", str(number))

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
            options: see `_batch`: `padding`, `padding_side`, `truncation`, `max_length`, `return_tensors`,
                `return_pixel_values`.

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
        samples = []
        for item, item_pictures, item_regions in zip(texts, pictures, all_regions, strict=True):
            if self.region_token in item:
                raise InputError(
                    f"the prompt holds a bare {self.region_token}: "
                    "write <region1>, <region2> ... to say which one."
                )
            expanded, mentions = expand_mentions(item, self.mention)
            samples.append(
                self._make_sample(expanded, mentions, item_pictures, numbered_regions(item_regions))
            )
        bos = self.tokenizer.bos_token
        if bos and any(item.startswith(bos) for item in texts):
            add_special_tokens = False
        return self._batch(samples, add_special_tokens=add_special_tokens, **options)

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
        prepared = [
            Conversation(item, self._control, lambda number: f"<region{number}>") for item in conversations
        ]
        prompts, _ = self._render(prepared, chat_template, add_generation_prompt, continue_final_message)
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
            options: as in `__call__`, and `return_assistant_tokens_mask` for `assistant_masks` `[B, L]`.
        """
        conversations, single = as_conversations(conversation)
        all_regions = [regions] if single else one_each(regions, len(conversations), "regions")
        numbered = [numbered_regions(item) for item in all_regions]
        prepared = [
            Conversation(item, self._control, self.mention, given)
            for item, given in zip(conversations, numbered, strict=True)
        ]
        prompts, learned = self._render(
            prepared, chat_template, add_generation_prompt, continue_final_message
        )
        if images is None:
            pictures: list[list[Any]] = [item.pictures for item in prepared]
        else:
            pictures = deal_pictures(
                images, [prompt.count(self.image_token) for prompt in prompts], self.image_token
            )
        samples = [
            self._make_sample(prompt, item.mentions, item_pictures, item.regions, spans)
            for prompt, item, item_pictures, spans in zip(prompts, prepared, pictures, learned, strict=True)
        ]
        if padding_side is None and add_generation_prompt:
            padding_side = "left"
        return self._batch(
            samples,
            add_special_tokens=False,
            return_labels=return_labels,
            padding_side=padding_side,
            **options,
        )

    def _render(
        self,
        prepared: list[Conversation],
        template: str | None,
        generation_prompt: bool,
        continue_final: bool | str,
    ) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """Prompts, and in each the character spans of the assistant's words (`{% generation %}`)."""
        if template is None:
            template = self.chat_template
            if not isinstance(template, str):
                raise InputError("this processor has no chat template: give one, e.g. chat_template='plain'.")
        elif "{" not in template:
            template = chat_template(template)
        # transformers cannot track spans in a message that it cuts; a prompt to continue has no labels.
        prompts, spans = render_jinja_template(
            conversations=[item.messages for item in prepared],
            chat_template=template,
            return_assistant_tokens_mask=not continue_final,
            continue_final_message=continue_final,
            add_generation_prompt=generation_prompt,
            **self.tokenizer.special_tokens_map,
        )
        return prompts, [list(item) for item in spans] or [[] for _ in prompts]

    # ---------------------------------------------------------------------------------------------- rows

    def _make_sample(self, *parts: Any) -> Sample:
        return Sample.checked(*parts, image_token=self.image_token, region_token=self.region_token)

    def _batch(
        self,
        samples: list[Sample],
        *,
        add_special_tokens: bool,
        return_labels: bool = False,
        return_assistant_tokens_mask: bool = False,
        padding: bool | str = True,
        padding_side: str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
        return_pixel_values: bool = True,
    ) -> BatchFeature:
        """Rows to tensors.

        Args:
            padding: True or `longest`, `max_length`, or False for rows that are equally long.
            padding_side: `left` or `right`; default: the tokenizer's.
            truncation: cut a row that is too long at its end; never a placeholder.
            max_length: in tokens; default: the processor's `max_length`.
            return_pixel_values: False where the picture was encoded before: only its size is needed then.
        """
        if return_tensors not in ("pt", None):
            raise InputError(
                f"return_tensors is {return_tensors!r}: this processor makes torch tensors, 'pt'."
            )
        limit = max_length or self.max_length
        learn = return_labels or return_assistant_tokens_mask
        rows = [self._tokens(sample, add_special_tokens, learn, limit, truncation) for sample in samples]
        masks, index = region_tensors(samples, self.refined_grid)
        pad_to = limit if padding == "max_length" and limit else max(len(ids) for ids, _ in rows)
        if not padding and any(len(ids) != pad_to for ids, _ in rows):
            raise InputError("prompts of unlike length need padding=True to become one batch.")
        side = padding_side or self.tokenizer.padding_side
        ids = _pad([row for row, _ in rows], pad_to, self._pad_id(), side)
        data: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": _pad([np.ones(len(row), np.int64) for row, _ in rows], pad_to, 0, side),
        }
        learned = _pad([row for _, row in rows], pad_to, 0, side)
        if return_labels:
            data["labels"] = torch.where(learned == 1, ids, IGNORED)
        if return_assistant_tokens_mask:
            data["assistant_masks"] = learned
        pictures = [picture for sample in samples for picture in sample.pictures]
        if pictures and return_pixel_values:
            data["pixel_values"] = self.pixel_values(pictures)
        if masks is not None:
            data["region_masks"], data["region_index"] = masks, index
        return BatchFeature(data)

    def _pad_id(self) -> int:
        # Padding is masked, so any id will do where the tokenizer names none.
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    def _tokens(
        self, sample: Sample, add_special_tokens: bool, learn: bool, limit: int | None, truncation: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids `[L]` with every `<image>` written out, and 1 where the assistant's words are, `[L]`."""
        if learn and not self.tokenizer.is_fast:
            raise InputError("labels need a fast tokenizer, one that knows the characters of every token.")
        encoded = self.tokenizer(
            sample.text, add_special_tokens=add_special_tokens, return_offsets_mapping=learn, verbose=False
        )
        ids = np.asarray(encoded["input_ids"], dtype=np.int64)
        learned = np.zeros(len(ids), np.int64)
        if learn and len(ids):
            starts, ends = np.asarray(encoded["offset_mapping"]).T
            for start, end in sample.learned:
                learned |= (starts < end) & (ends > start)
        for token, token_id, count in (
            (self.image_token, self.image_token_id, len(sample.pictures)),
            (self.region_token, self.region_token_id, len(sample.mentions)),
        ):
            found = int((ids == token_id).sum())
            if found != count:
                raise InputError(
                    f"the text has {count} {token} but the tokenizer made {found} of them: "
                    f"is {token} one of its special tokens?"
                )
        # Written out as ids, not as text: the character positions above stay those of the short prompt.
        times = np.where(ids == self.image_token_id, self.image_tokens, 1)
        ids, learned = np.repeat(ids, times), np.repeat(learned, times)
        if limit is not None and len(ids) > limit:
            if not truncation:
                raise ContextLengthError(
                    f"the prompt has {len(ids)} tokens but the context holds {limit}: "
                    "shorten the text or leave out pictures or turns."
                )
            if np.isin(ids[limit:], (self.image_token_id, self.region_token_id)).any():
                raise InputError(
                    f"cutting the prompt of {len(ids)} tokens to {limit} would cut a picture or a "
                    "region out: shorten the text before it."
                )
            ids, learned = ids[:limit], learned[:limit]
        return ids, learned

    # ---------------------------------------------------------------------------------------------- pictures

    def pixel_values(self, pictures: Sequence[Any]) -> torch.Tensor:
        """Pictures -> float32 `[I, 3, S, S]`: padded to a square, resized, normalised."""
        pixels = [
            to_pixels(as_picture(item), self.image_size, self.image_mean, self.image_std) for item in pictures
        ]
        return torch.from_numpy(np.stack(pixels))


def add_placeholders(tokenizer: Any, image_token: str = "<image>", region_token: str = "<region>") -> int:
    """Add the two placeholders as special tokens where they are missing; returns how many were added."""
    wanted = [token for token in (image_token, region_token) if token not in tokenizer.get_vocab()]
    return tokenizer.add_special_tokens({"additional_special_tokens": wanted}) if wanted else 0


def _pad(rows: list[np.ndarray], length: int, value: int, side: str) -> torch.Tensor:
    """Rows of unlike length -> int64 `[B, length]`."""
    table = np.full((len(rows), length), value, np.int64)
    for number, row in enumerate(rows):
        table[number, slice(length - len(row), length) if side == "left" else slice(len(row))] = row
    return torch.from_numpy(table)


__all__ = ["IGNORED", "RegionGPTProcessor", "add_placeholders"]

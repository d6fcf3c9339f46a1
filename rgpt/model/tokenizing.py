"""One conversation to tokens: messages, pictures and regions in, a `Conversation` out.

Everything that can be wrong with an input is refused here, before anything is computed. Masks reach the
model as weights on the refined grid, never as full-size float tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from transformers.utils.chat_template_utils import render_jinja_template

from rgpt.errors import ContextLengthError, InputError
from rgpt.model.answer_form import AnswerForm
from rgpt.model.conversation import (
    IGNORED,
    Conversation,
    Key,
    Messages,
    chat_template,
    neutralise,
    number_of,
    numbered_regions,
    place_region,
)
from rgpt.model.pictures import as_picture
from rgpt.regions import Region, region_weights
from rgpt.regions.square import to_pixels


class Tokenizing:
    """The half of `RegionGPTProcessor` that a question passes; the other half sets what it reads here."""

    tokenizer: Any
    chat_template: Any
    image_size: int
    image_mean: list[float]
    image_std: list[float]
    merge_grid: int
    refined_grid: int
    image_token: str
    region_token: str
    image_token_id: int
    region_token_id: int
    region_mention: str
    max_length: int | None
    _control: Any

    @property
    def image_tokens(self) -> int:
        """T: tokens that one picture becomes."""
        return self.merge_grid**2

    def mention(self, number: int) -> str:
        """What `<regionN>` becomes."""
        return self.region_mention.replace("{number}", str(number))

    def tokenize_chat(
        self,
        messages: Sequence[dict[str, Any]],
        chat_template: str | None = None,
        *,
        images: Sequence[Any] | None = None,
        regions: Any = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        **options: Any,
    ) -> Conversation:
        """One conversation, not padded; arguments and errors as in `encode_chat`.

        A picture that the model has seen may be given as its (height, width): it is not opened, and only
        regions need it.

        Args:
            learn: label the assistant's words and their end-of-turn tokens.
            weigh: `self.weigh`, or what remembers its values.
        """
        read = Messages(messages, self._control, self.mention, numbered_regions(regions))
        prompt, spans = self._render(
            read.messages, chat_template, add_generation_prompt, continue_final_message
        )
        pictures = read.pictures if images is None else images
        return self._tokenize(prompt, read.mentions, pictures, read.regions, spans, **options)

    def answer_form(self) -> AnswerForm:
        """How the chat template writes an answer. Raises InputError without a template."""
        return AnswerForm.of(self.tokenizer, self._template(None))

    def answer_ids(self, answer: str, form: AnswerForm) -> list[int]:
        """Ids of an answer's words as training writes them; its end is `form.end`."""
        return form.ids(self.tokenizer, neutralise(answer, self._control))

    def _template(self, given: str | None) -> str:
        template = self.chat_template if given is None else given
        if not isinstance(template, str):
            raise InputError("this processor has no chat template: give one, e.g. chat_template='lines'.")
        return chat_template(template)

    def _render(
        self,
        messages: list[dict[str, Any]],
        template: str | None,
        generation_prompt: bool,
        continue_final: bool | str,
    ) -> tuple[str, list[tuple[int, int]]]:
        """The prompt, and in it the character spans of the assistant's words (`{% generation %}`)."""
        # transformers cannot track spans in a message that it cuts; a prompt to continue has no labels.
        try:
            prompts, spans = render_jinja_template(
                conversations=[messages],
                chat_template=self._template(template),
                return_assistant_tokens_mask=not continue_final,
                continue_final_message=continue_final,
                add_generation_prompt=generation_prompt,
                **self.tokenizer.special_tokens_map,
            )
        except TemplateError as error:
            raise InputError(f"the chat template cannot be written out ({error}): repair it.") from error
        return prompts[0], list(spans[0]) if spans else []

    def _tokenize(
        self,
        text: str,
        mentions: Sequence[Key],
        pictures: Sequence[Any],
        regions: Mapping[Any, Any],
        spans: Sequence[tuple[int, int]] = (),
        *,
        add_special_tokens: bool = False,
        learn: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_pixel_values: bool = True,
        weigh: Callable[[Region, tuple[int, int]], Tensor] | None = None,
    ) -> Conversation:
        """A prompt, which holds one `<image>` a picture and one `<region>` a mention, as its tokens.

        Args:
            mentions: what every `<region>` means, in reading order: a key of `regions`.
            spans: characters of the assistant's words.

        Raises:
            InputError: when text, pictures and regions do not fit; a region may go unmentioned.
        """
        if (count := text.count(self.image_token)) != len(pictures):
            raise InputError(
                f"the prompt has {count} {self.image_token} but {len(pictures)} pictures were given: "
                "give one picture for each."
            )
        if (count := text.count(self.region_token)) != len(mentions):
            raise InputError(
                f"the conversation mentions {len(mentions)} regions but its chat template wrote {count}: "
                "it leaves messages out."
            )
        if missing := [key for key in mentions if key not in regions]:
            numbers = sorted(set(map(number_of, regions)))
            names = ", ".join(f"<region{number}>" for number in numbers) or "none"
            raise InputError(
                f"the prompt mentions <region{number_of(missing[0])}> but there are {len(numbers)} regions "
                f"({names}): draw that region or change the number."
            )
        placed = {key: place_region(number_of(key), item, len(pictures)) for key, item in regions.items()}
        opened: list[Any] = [item if isinstance(item, tuple) else as_picture(item) for item in pictures]
        sizes = [item if isinstance(item, tuple) else (item.height, item.width) for item in opened]
        ids, labels = self._ids(text, spans if learn else None, add_special_tokens)
        limit = max_length or self.max_length
        cut = limit is not None and len(ids) > limit
        if cut:
            if not truncation:
                raise ContextLengthError(
                    f"the prompt has {len(ids)} tokens but the context holds {limit}: "
                    "shorten the text or leave out pictures or turns."
                )
            if np.isin(ids[limit:], (self.image_token_id, self.region_token_id)).any():
                raise ContextLengthError(
                    f"cutting the prompt of {len(ids)} tokens to {limit} would cut a picture or a "
                    "region out: shorten the text before it."
                )
            ids, labels = ids[:limit], labels[:limit]
        order = {key: row for row, key in enumerate(placed)}
        conversation = Conversation(
            torch.from_numpy(ids),
            torch.from_numpy(labels),
            slots=np.flatnonzero(ids == self.region_token_id).tolist(),
            mentions=[order[key] for key in mentions],
            places=[place for place, _ in placed.values()],
            pictures=[None] * len(pictures),
            cut=cut,
        )
        if placed:
            weights = []
            for key, (place, region) in placed.items():
                try:
                    weights.append((weigh or self.weigh)(region, sizes[place]))
                except InputError as error:
                    raise InputError(f"<region{number_of(key)}>: {error}") from error
            conversation.weights = torch.stack(weights)
        if return_pixel_values:
            conversation.pictures = [
                None if isinstance(item, tuple) else self.pixels(item) for item in opened
            ]
        return conversation

    def weigh(self, region: Region, size: tuple[int, int]) -> Tensor:
        """float32 `[G, G]`: the share of every refined cell that a region of a (height, width) picture
        covers."""
        return torch.from_numpy(region_weights(region, *size, self.refined_grid))

    def _ids(
        self, text: str, spans: Sequence[tuple[int, int]] | None, add_special_tokens: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids `[L]` with every `<image>` written out, and their labels `[L]`: those of `spans`."""
        if spans is not None and not self.tokenizer.is_fast:
            raise InputError("labels need a fast tokenizer, one that knows the characters of every token.")
        encoded = self.tokenizer(
            text,
            add_special_tokens=add_special_tokens,
            return_offsets_mapping=spans is not None,
            verbose=False,
        )
        ids = np.asarray(encoded["input_ids"], dtype=np.int64)
        learned = np.zeros(len(ids), bool)
        if spans and len(ids):
            starts, ends = np.asarray(encoded["offset_mapping"]).T
            for start, end in spans:
                learned |= (starts < end) & (ends > start)
        for token, token_id in (
            (self.image_token, self.image_token_id),
            (self.region_token, self.region_token_id),
        ):
            count, found = text.count(token), int((ids == token_id).sum())
            if found != count:
                raise InputError(
                    f"the text has {count} {token} but the tokenizer made {found} of them: "
                    f"is {token} one of its special tokens?"
                )
        # Written out as ids, not as text: the character positions above stay those of the short prompt.
        times = np.where(ids == self.image_token_id, self.image_tokens, 1)
        ids, learned = np.repeat(ids, times), np.repeat(learned, times)
        return ids, np.where(learned, ids, IGNORED)

    def pixels(self, picture: Image.Image) -> Tensor:
        """An upright RGB picture -> float32 `[3, S, S]`: padded to a square, resized, normalised."""
        return torch.from_numpy(to_pixels(picture, self.image_size, self.image_mean, self.image_std))

"""Conversations as the model reads them: token ids, and the area shares of every mention of a region.

Axes: m mentions of regions in a prompt, G the refined grid, P tokens of a common prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rgpt.errors import ContextLengthError, InputError
from rgpt.model.region_tensors import region_weights
from rgpt.prompts import mention, mentioned
from rgpt.regions import Region


@dataclass(frozen=True)
class Prompt:
    """A conversation as token ids.

    Args:
        ids: every picture is T image ids, every mention of a region one `<region>` id.
        weights: `[m, G, G]` area shares, one a mention, in reading order.
        region_id: the id of `<region>`.
    """

    ids: list[int]
    weights: Tensor
    region_id: int

    @cached_property
    def slots(self) -> list[int]:
        """Where the mentions stand."""
        return np.flatnonzero(np.asarray(self.ids) == self.region_id).tolist()

    @cached_property
    def mentioned(self) -> list[bytes]:
        """Something comparable for the region of every mention: the tokens of two regions are the same."""
        return [weights.tobytes() for weights in self.weights.numpy()]


def encode(
    processor: Any,
    image: Any,
    past: Iterable[tuple[str, str, Mapping[int, Region]]],
    questions: Sequence[str],
    regions: Sequence[Mapping[int, Region]],
) -> list[Prompt]:
    """The same conversation ending with each of the questions. The picture itself is not encoded.

    Numbers belong to turns: what `<region1>` meant when a turn was asked, it means there for good, whatever
    it means now. Questions that read the same are tokenised once; regions that nobody mentions cost nothing.

    Args:
        image: a PIL picture, or None.
        past: question, answer and regions of every earlier turn.
        regions: of each question, at least those that it mentions.

    Raises:
        InputError: an empty question, half a character, a turn without a region that it mentions, or a
            conversation longer than the context.
    """
    history: list[dict[str, Any]] = []
    before = 0
    for question, answer, known in past:
        history.append(_asked(question, known))
        history.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        before += len(mentioned(question))
    conversations: dict[str, list[dict[str, Any]]] = {}
    for question, known in zip(questions, regions, strict=True):
        _check(question)
        if question not in conversations:
            messages = [*history, _asked(question, known)]
            if image is not None:
                picture = {"type": "image", "image": image}
                messages[0] = {**messages[0], "content": [picture, *messages[0]["content"]]}
            conversations[question] = messages
    batch = processor.encode_chat(
        list(conversations.values()), add_generation_prompt=True, return_pixel_values=False
    )
    firsts = dict(zip(conversations, _rows(batch, processor), strict=True))
    length, limit = max(len(prompt.ids) for prompt in firsts.values()), processor.max_length
    if limit is not None and length >= limit:
        raise ContextLengthError(
            f"The conversation has {length} tokens but the context holds {limit}: no room for an answer; "
            "shorten the question or start a new conversation."
        )
    seen: set[str] = set()
    prompts = []
    for question, known in zip(questions, regions, strict=True):
        prompt = firsts[question]
        if question in seen and (numbers := mentioned(question)):
            own = [
                torch.from_numpy(region_weights(known[n], image.height, image.width, processor.refined_grid))
                for n in numbers
            ]
            prompt = Prompt(
                prompt.ids, torch.cat([prompt.weights[:before], torch.stack(own)]), prompt.region_id
            )
        seen.add(question)
        prompts.append(prompt)
    return prompts


def _asked(question: str, known: Mapping[int, Region]) -> dict[str, Any]:
    """A turn's message: its text, and what the numbers in it mean."""
    if missing := [n for n in mentioned(question) if n not in known]:
        raise InputError(f"A turn mentions {mention(missing[0])} but has no such region: give it one.")
    own = {n: known[n] for n in mentioned(question)}
    return {"role": "user", "content": [{"type": "text", "text": question}], "regions": own}


def _check(question: str) -> None:
    if not question.strip():
        raise InputError("The question is empty: type one.")
    if not question.isprintable() and any("\ud800" <= c <= "\udfff" for c in question):
        raise InputError("The question is not valid text (it holds half a character): type it again.")


def _rows(batch: Any, processor: Any) -> list[Prompt]:
    """The rows of a processor's batch `[B, L]` without padding, each with the weights of its mentions."""
    region_id, grid = processor.region_token_id, processor.refined_grid
    index, masks = batch.get("region_index"), batch.get("region_masks")
    every = torch.zeros(0, grid, grid) if masks is None else masks.flatten(0, 1).index_select(0, index)
    prompts, done = [], 0
    for ids, real in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        row = ids[real.bool()].tolist()
        mentions = row.count(region_id)
        prompts.append(Prompt(row, every[done : done + mentions], region_id))
        done += mentions
    return prompts


def common_prefix(prompts: Sequence[Prompt]) -> int:
    """P: leading tokens that all prompts share, regions included; at least one token of each is left over."""
    first = np.asarray(prompts[0].ids)
    shared = min(len(prompt.ids) for prompt in prompts) - 1
    for prompt in prompts[1:]:
        unlike = np.flatnonzero(first[:shared] != np.asarray(prompt.ids[:shared]))
        shared = int(unlike[0]) if len(unlike) else shared
        same = common(prompts[0].mentioned, prompt.mentioned)
        if same < len(prompts[0].slots):
            shared = min(shared, prompts[0].slots[same])
    return shared


def common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many leading items two sequences share."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count

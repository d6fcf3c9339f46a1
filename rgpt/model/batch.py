"""Conversations to one batch: the only place that pads.

Axes: N rows, L tokens a row, I pictures, R regions a picture (padded), M mentions, G the refined grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rgpt.model.conversation import IGNORED, Conversation


def make_batch(
    rows: Sequence[Sequence[Conversation]], pad_id: int, length: int | None = None, side: str = "right"
) -> dict[str, Tensor]:
    """Rows of one or several conversations -> what the model takes.

    Args:
        length: tokens a row; default: those of the longest.
        side: where a shorter row is padded, `left` or `right`.

    Returns:
        `input_ids`, `labels`, `attention_mask` and `position_ids` `[N, L]`, positions counted within each
        conversation and on in the padding; `pixel_values` `[I, 3, S, S]` or `vision_features` `[I, C, h, w]`
        where a conversation brings pictures; `region_masks` `[I, R, G, G]` and `region_index` `[M]` where one
        has regions, mentioned or not, in the order of their placeholders.
    """
    sizes = [sum(map(len, row)) for row in rows]
    length = length or max(sizes)
    ids, labels = (torch.full((len(rows), length), value) for value in (pad_id, IGNORED))
    mask, positions = (torch.zeros((len(rows), length), dtype=torch.long) for _ in range(2))
    for number, row in enumerate(rows):
        start = length - sizes[number] if side == "left" else 0
        for conversation in row:
            stop = start + len(conversation)
            ids[number, start:stop], labels[number, start:stop] = conversation.input_ids, conversation.labels
            mask[number, start:stop], positions[number, start:stop] = 1, torch.arange(len(conversation))
            start = stop
        positions[number, start:] = torch.arange(length - start)
    words = {"input_ids": ids, "labels": labels, "attention_mask": mask, "position_ids": positions}
    return {**words, **_pictures([conversation for row in rows for conversation in row])}


def _pictures(conversations: Sequence[Conversation]) -> dict[str, Tensor]:
    """Pictures and regions of conversations in reading order."""
    batch: dict[str, Tensor] = {}
    if given := [picture for item in conversations for picture in item.pictures if picture is not None]:
        cached = any(item.cached for item in conversations)
        batch["vision_features" if cached else "pixel_values"] = torch.stack(given)
    rows: list[list[Tensor]] = []  # weights, one list a picture of the batch
    index: list[tuple[int, int]] = []  # (picture, row) of every mention
    for item in conversations:
        first = len(rows)
        rows += [[] for _ in item.pictures]
        position = []
        for place, weights in zip(item.places, item.weights, strict=True):
            position.append((first + place, len(rows[first + place])))
            rows[first + place].append(weights)
        index += [position[region] for region in item.mentions]
    if most := max(map(len, rows), default=0):
        side = next(own[0].shape[-1] for own in rows if own)
        masks = torch.zeros(len(rows), most, side, side)
        for picture, own in enumerate(rows):
            if own:
                masks[picture, : len(own)] = torch.stack(own)
        flat = [picture * most + row for picture, row in index]
        batch["region_masks"], batch["region_index"] = masks, torch.tensor(flat, dtype=torch.long)
    return batch

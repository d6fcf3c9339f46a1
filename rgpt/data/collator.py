"""Rows to one batch: padded or packed, pictures and regions in the order of their placeholders.

Axes: B samples, N rows, L tokens a row, K positions with something to learn, I pictures, R regions a picture
(padded), M mentions, G the refined grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rgpt.data.dataset import BadSample, Example
from rgpt.data.packing import pack
from rgpt.model.processing_regiongpt import IGNORED

PACKINGS = ("none", "rows", "one-row")
"""`rows`: no row longer than the longest sample, so never more tokens than padding; `one-row`: everything in
one row, what FlashAttention's variable lengths need."""


@dataclass
class Collator:
    """A list of `Example` and `BadSample` -> a dict of tensors for the model.

    `input_ids`, `labels` `[N, L]`; `position_ids` `[N, L]` when packed; `pixel_values` `[I, 3, S, S]` or
    `vision_features` `[I, C, h, w]`; `region_masks` `[I, R, G, G]` and `region_index` `[M]`. The language
    model's head runs only where something is learned: `logits_to_keep` `[2, K]` are those rows and columns,
    `shift_labels` `[1, K]` what they predict. There is no attention mask: attention is causal, so the padding
    on the right is seen by nobody.

    Besides: `bad`, the bad samples, and `counts`: samples, tokens (without padding), pictures.

    A batch of bad samples only is one row without labels: the ranks of a run must take the same steps.
    """

    pad_id: int
    packing: str = "rows"

    def __call__(self, items: Sequence[Example | BadSample]) -> dict[str, Any]:
        examples = [item for item in items if isinstance(item, Example)]
        bad = [item for item in items if isinstance(item, BadSample)]
        counts = {
            "samples": len(examples),
            "tokens": sum(map(len, examples)),
            "pictures": sum(example.picture is not None for example in examples),
        }
        if not examples:
            blank = torch.full((2,), self.pad_id), torch.full((2,), IGNORED)
            examples = [Example("", *blank)]
        rows = self._rows([len(example) for example in examples])
        # Pictures and mentions follow the order of their placeholders, which is that of the rows.
        ordered = [examples[number] for row in rows for number in row]
        batch: dict[str, Any] = {**self._words(examples, rows), **_pictures(ordered)}
        return {**batch, "bad": bad, "counts": counts}

    def _rows(self, lengths: list[int]) -> list[list[int]]:
        if self.packing == "none":
            return [[number] for number in range(len(lengths))]
        return pack(lengths, None if self.packing == "one-row" else max(lengths))

    def _words(self, examples: Sequence[Example], rows: list[list[int]]) -> dict[str, Any]:
        length = max(sum(len(examples[number]) for number in row) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id)
        labels = torch.full((len(rows), length), IGNORED)
        positions = torch.zeros((len(rows), length), dtype=torch.long)
        for row, numbers in enumerate(rows):
            start = 0
            for number in numbers:
                example = examples[number]
                stop = start + len(example)
                ids[row, start:stop] = example.input_ids
                # The first token would be predicted by the last one of the sample before it.
                labels[row, start + 1 : stop] = example.labels[1:]
                positions[row, start:stop] = torch.arange(len(example))
                start = stop
            positions[row, start:] = torch.arange(length - start)
        shifted = torch.cat([labels[:, 1:], torch.full((len(rows), 1), IGNORED)], dim=1)  # [N, L]
        places = (shifted != IGNORED).nonzero().T  # [2, K]
        if not places.numel():
            places = torch.zeros(2, 1, dtype=torch.long)  # nothing to learn: one ignored position
        words: dict[str, Any] = {"input_ids": ids, "labels": labels}
        if any(len(row) > 1 for row in rows):
            # With a cache of keys attention would not look for boundaries in the positions.
            words["position_ids"], words["use_cache"] = positions, False
        return {**words, "logits_to_keep": places, "shift_labels": shifted[places[0], places[1]][None]}


def model_inputs(batch: dict[str, Any], device: torch.device | str = "cpu") -> dict[str, Any]:
    """What the model takes of a batch, on its device."""
    return {
        key: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
        for key, value in batch.items()
        if key not in ("bad", "counts")
    }


def _pictures(ordered: Sequence[Example]) -> dict[str, Tensor]:
    """Pictures and regions of examples in reading order; nothing for text only."""
    shown = [example for example in ordered if example.picture is not None]
    if not shown:
        return {}
    name = "vision_features" if shown[0].cached else "pixel_values"
    result = {name: torch.stack([example.picture for example in shown if example.picture is not None])}
    grids = [example.region_masks for example in shown]
    most = max((0 if grid is None else len(grid) for grid in grids), default=0)
    index = [
        example.mentions + number * most
        for number, example in enumerate(shown)
        if example.mentions is not None
    ]
    if most and sum(map(len, index)):
        side = next(grid for grid in grids if grid is not None).shape[-1]
        masks = torch.zeros(len(shown), most, side, side)
        for number, grid in enumerate(grids):
            if grid is not None:
                masks[number, : len(grid)] = grid
        result["region_masks"], result["region_index"] = masks, torch.cat(index)
    return result

"""A step's conversations to what the model trains on: padded or packed.

Axes: N rows, L tokens a row, K positions with something to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rgpt.data.dataset import BadSample
from rgpt.data.packing import pack
from rgpt.model.batch import make_batch
from rgpt.model.conversation import IGNORED, Conversation

PACKINGS = ("none", "rows", "one-row")
"""`rows`: no row longer than the longest sample, so never more tokens than padding; `one-row`: everything in
one row, what FlashAttention's variable lengths need."""


@dataclass
class Collator:
    """A list of `Conversation` and `BadSample` -> a dict of tensors for the model.

    As `rgpt.model.batch.make_batch`, with `position_ids` only when packed. The language model's head runs
    only where something is learned: `logits_to_keep` `[2, K]` are those rows and columns, `shift_labels`
    `[1, K]` what they predict. There is no attention mask: attention is causal, so the padding on the right
    is seen by nobody.

    Besides: `bad`, the bad samples, and `counts`: samples and how many of them were cut, tokens (without
    padding), pictures.

    A batch of bad samples only is one row without labels: the ranks of a run must take the same steps.
    """

    pad_id: int
    packing: str = "rows"

    def __call__(self, items: Sequence[Conversation | BadSample]) -> dict[str, Any]:
        good = [item for item in items if isinstance(item, Conversation)]
        bad = [item for item in items if isinstance(item, BadSample)]
        counts = {
            "samples": len(good),
            "cut": sum(item.cut for item in good),
            "tokens": sum(map(len, good)),
            "pictures": sum(len(item.pictures) for item in good),
        }
        if not good:
            good = [Conversation(torch.full((2,), self.pad_id), torch.full((2,), IGNORED))]
        rows = self._rows([len(item) for item in good])
        batch: dict[str, Any] = make_batch([[good[number] for number in row] for row in rows], self.pad_id)
        del batch["attention_mask"]
        # The first token would be predicted by the last one of the conversation before it.
        labels = batch["labels"].masked_fill_(batch["position_ids"] == 0, IGNORED)
        if any(len(row) > 1 for row in rows):
            # With a cache of keys attention would not look for boundaries in the positions.
            batch["use_cache"] = False
        else:
            del batch["position_ids"]
        shifted = torch.cat([labels[:, 1:], torch.full((len(rows), 1), IGNORED)], dim=1)  # [N, L]
        places = (shifted != IGNORED).nonzero().T  # [2, K]
        if not places.numel():
            places = torch.zeros(2, 1, dtype=torch.long)  # nothing to learn: one ignored position
        batch["logits_to_keep"], batch["shift_labels"] = places, shifted[places[0], places[1]][None]
        return {**batch, "bad": bad, "counts": counts}

    def _rows(self, lengths: list[int]) -> list[list[int]]:
        if self.packing == "none":
            return [[number] for number in range(len(lengths))]
        return pack(lengths, None if self.packing == "one-row" else max(lengths))


def model_inputs(batch: dict[str, Any], device: torch.device | str = "cpu") -> dict[str, Any]:
    """What the model takes of a batch, on its device."""
    return {
        key: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
        for key, value in batch.items()
        if key not in ("bad", "counts")
    }

"""Stage 1 without the language model: a region's vector is pulled towards the word embedding of its name.

The language model reads word embeddings, so a vector that lies nearest to the embedding of "dog" is read as a
dog from the first step of stage 2 on. No transformer runs: an epoch of 2,000 photographs takes a minute on
two cores [D].

Axes: M mentions in the batch, U different names among them, D the language model's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rgpt.errors import InputError
from rgpt.model.processing_regiongpt import IGNORED

TEMPERATURE = 0.1
"""Of the contrast, in units of the mean squared distance between two names."""
PULL = 0.1
"""Weight of the squared distance itself: without it vectors may drift where no name differs from another."""


def name_loss(model: Any, batch: dict[str, Any]) -> tuple[Tensor, int]:
    """(summed loss, mentions) of a batch whose every answer names the region that its question mentions.

    The contrast is over the names in the batch: cross-entropy of minus the squared distance between a
    region's vector and the mean word embedding of each name.

    Args:
        batch: as `Collator` makes it; rows hold one answer for each mention, in the same order.

    Raises:
        InputError: when mentions and answers of a row differ in number.
    """
    core = model.model
    ends = model.generation_config.eos_token_id
    rows = [
        _answers(row, set(ends if isinstance(ends, list) else [ends])) for row in batch["labels"].tolist()
    ]
    mentions = (batch["input_ids"] == model.config.region_token_id).sum(1).tolist()
    for row, count in zip(rows, mentions, strict=True):
        if len(row) != count:
            raise InputError(
                f"a row holds {count} mentions but {len(row)} answers: objective 'names' needs samples in "
                "which every question mentions one region and every answer is its name."
            )
    answers = [answer for row in rows for answer in row]
    if not answers:  # bad samples only
        return core.connector.linear_1.weight.sum() * 0.0, 0
    refined = core.encode(batch.get("pixel_values"), batch.get("vision_features"))
    vectors = core.pool_regions(refined, batch["region_masks"].to(refined.device))
    vectors = vectors.flatten(0, 1).index_select(0, batch["region_index"]).float()  # [M, D]
    names = list(dict.fromkeys(answers))  # in the order they come: the same on every run
    embeddings = name_embeddings(model, names)  # [U, D]
    targets = torch.tensor([names.index(answer) for answer in answers], device=vectors.device)
    spread = 2 * embeddings.var(0, unbiased=False).sum().clamp_min(1e-6)  # mean squared distance of two names
    distances = torch.cdist(vectors, embeddings).square() / spread  # [M, U]
    contrast = F.cross_entropy(-distances / TEMPERATURE, targets, reduction="sum")
    return contrast + PULL * distances.gather(1, targets[:, None]).sum(), len(answers)


def name_embeddings(model: Any, names: Sequence[Sequence[int]]) -> Tensor:
    """Mean word embedding of every name, given as token ids: `[U, D]` float32, without a graph."""
    table = model.get_input_embeddings().weight.detach().float()
    return torch.stack([table[list(name)].mean(0) for name in names])


def _answers(labels: list[int], ends: set[int]) -> list[tuple[int, ...]]:
    """Runs of learned tokens in a row, without what ends an answer."""
    found: list[tuple[int, ...]] = []
    run: list[int] = []
    for token in [*labels, IGNORED]:
        if token != IGNORED and token not in ends:
            run.append(token)
        elif run:
            found.append(tuple(run))
            run = []
    return found

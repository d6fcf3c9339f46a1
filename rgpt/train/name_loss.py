"""Stage 1 without the language model: a region's vector is pulled towards the word embedding of its name.

The language model reads word embeddings, so a vector that lies nearest to the embedding of "dog" is read as a
dog from the first step of stage 2 on. No transformer runs: an epoch of 2,000 photographs takes a minute on
two cores [D]. The word is the one of running text (" dog", not the "dog" that begins a line, where a
tokenizer tells them apart): questions say it so, and a language model that already tells whether two words
are the same then tells whether a region is what is asked for.

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
PULL = 1.0
"""Weight of the squared distance itself: where no name differs from another the contrast lets vectors drift,
and a vector that is mostly drift is not read as its word."""


def start_among_words(model: Any) -> None:
    """Let every vector start near the mean word embedding, before the first step.

    A fresh last layer writes vectors longer than words, mostly in directions in which no two names differ;
    training takes thousands of steps to take that noise out again, and the language model reads it all the
    while. A tenth of its weights, and the mean word as its bias, start without.
    """
    core, table = model.model, model.get_input_embeddings().weight.detach()
    projector = core.connector if core.region_projector is None else core.region_projector
    with torch.no_grad():
        projector.linear_2.weight.mul_(0.1)
        projector.linear_2.bias.copy_(table.float().mean(0).to(table.dtype))


def name_loss(model: Any, batch: dict[str, Any], tokenizer: Any) -> tuple[Tensor, int]:
    """(summed loss, mentions) of a batch whose every answer names the region that its question mentions.

    The contrast is over the names in the batch: cross-entropy of minus the squared distance between a
    region's vector and the mean word embedding of each name. Where a region is (`region_geometry`) is not
    part of its name: that is added to the vector elsewhere, and not trained here.

    Args:
        batch: as `Collator` makes it; rows hold one answer for each mention, in the same order.

    Raises:
        InputError: when mentions and answers of a row differ in number.
    """
    core = model.model
    # Whatever the template ends an answer with, and the end of the tokenizer: no part of a name.
    ends = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    rows = [_answers(row, ends) for row in batch["labels"].tolist()]
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
    vectors = core.name_regions(refined, batch["region_masks"].to(refined.device))
    vectors = vectors.flatten(0, 1).index_select(0, batch["region_index"]).float()  # [M, D]
    names = list(dict.fromkeys(answers))  # in the order they come: the same on every run
    embeddings = name_embeddings(model, tokenizer, [tokenizer.decode(name) for name in names])  # [U, D]
    targets = torch.tensor([names.index(answer) for answer in answers], device=vectors.device)
    spread = 2 * embeddings.var(0, unbiased=False).sum().clamp_min(1e-6)  # mean squared distance of two names
    distances = torch.cdist(vectors, embeddings).square() / spread  # [M, U]
    contrast = F.cross_entropy(-distances / TEMPERATURE, targets, reduction="sum")
    return contrast + PULL * distances.gather(1, targets[:, None]).sum(), len(answers)


def name_embeddings(model: Any, tokenizer: Any, names: Sequence[str]) -> Tensor:
    """Mean word embedding of every name, as it is written inside a sentence: `[U, D]` float32, no graph."""
    table = model.get_input_embeddings().weight.detach().float()
    start = len(tokenizer.encode("a", add_special_tokens=False))
    ids = [tokenizer.encode(f"a {name.strip()}", add_special_tokens=False)[start:] for name in names]
    return torch.stack([table[each].mean(0) for each in ids])


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

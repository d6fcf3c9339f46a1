"""Held-out loss and a few answers, during training.

Every rank runs the same few samples: the figure does not depend on the number of ranks, and under ZeRO-3,
where each layer is gathered by all of them, none can wait for another.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rgpt.chat import ChatSession
from rgpt.data.collator import Collator, model_inputs
from rgpt.data.dataset import BadSample, TrainingSet
from rgpt.data.mixture import Draw
from rgpt.data.schema import Sample
from rgpt.errors import InputError
from rgpt.model import chat_template


@torch.no_grad()
def held_out_loss(
    model: Any,
    rows: TrainingSet,
    collator: Collator,
    numbers: Sequence[int],
    size: int,
    summed: Callable[[Any, dict[str, Any]], tuple[Tensor, int]] | None = None,
) -> float:
    """Mean loss a learned token over the samples of these row numbers, `size` at a time.

    `summed` is another loss of (model, batch): its sum, and what to divide by.

    Raises InputError when none of them can be used.
    """
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    for start in range(0, len(numbers), size):
        items = [rows[Draw(0, row)] for row in numbers[start : start + size]]
        batch = collator([item for item in items if not isinstance(item, BadSample)])
        inputs = model_inputs(batch, device)
        loss, learned = (summed or _answer_loss)(model, inputs)
        total += float(loss)
        tokens += learned
    if not tokens:
        raise InputError("none of the held-out samples can be used: check their pictures and lengths.")
    return total / tokens


def _answer_loss(model: Any, inputs: dict[str, Any]) -> tuple[Tensor, int]:
    return model(**inputs, num_items_in_batch=1).loss, int((inputs["shift_labels"] != -100).sum())


def answers(
    model: Any, rows: TrainingSet, samples: Sequence[Sample], max_new_tokens: int = 48
) -> list[dict[str, str]]:
    """The first question of each sample: question, true answer, the model's greedy answer."""
    processor = copy.copy(rows.processor)
    if rows.chat_template is not None:
        processor.chat_template = chat_template(rows.chat_template)
    if hasattr(model, "get_base_model"):  # PEFT's: the same model with its adapters
        model = model.get_base_model()
    result = []
    for sample in samples:
        question, truth = sample.turns[0]
        session = ChatSession(model, processor)
        if sample.image is not None:
            session.set_image(sample.image)
            session.regions = dict(enumerate(sample.regions, start=1))
        answer = session.ask(question, max_new_tokens=max_new_tokens)
        result.append({"question": question, "truth": truth, "answer": answer})
    return result


def spread(count: int, wanted: int, seed: int) -> list[int]:
    """`wanted` of `count` row numbers, the same ones in every evaluation."""
    return sorted(random.Random(seed).sample(range(count), min(count, wanted)))

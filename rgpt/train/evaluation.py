"""Held-out loss and a few answers, during training.

Every rank runs the same few samples: the figure does not depend on the number of ranks, and under ZeRO-3,
where each layer is gathered by all of them, none can wait for another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rgpt.data.collator import Collator, model_inputs
from rgpt.data.dataset import BadSample, TrainingSet, messages_of
from rgpt.data.mixture import Draw
from rgpt.data.schema import Sample
from rgpt.errors import InputError
from rgpt.regions import open_image


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


@torch.no_grad()
def answers(
    model: Any, rows: TrainingSet, samples: Sequence[Sample], max_new_tokens: int = 48
) -> list[dict[str, str]]:
    """The first question of each sample: question, true answer, the model's greedy answer.

    Through `generate`, not `ChatSession`: weights that ZeRO-3 gathers in the session's inference mode cannot
    be trained on afterwards.
    """
    device = next(model.parameters()).device
    result = []
    for sample in samples:
        picture = None if sample.image is None else open_image(sample.image)
        batch = rows.processor.encode_chat(
            messages_of(sample)[:1],
            rows.chat_template,
            images=None if picture is None else [picture],
            regions=list(sample.regions) or None,
            add_generation_prompt=True,
        )
        inputs = {key: value.to(device) for key, value in batch.items()}
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        words = rows.processor.tokenizer.decode(
            ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        question, truth = sample.turns[0]
        result.append({"question": question, "truth": truth, "answer": words.strip()})
    return result


def spread(count: int, wanted: int, seed: int) -> list[int]:
    """`wanted` of `count` row numbers, the same ones in every evaluation."""
    return sorted(random.Random(seed).sample(range(count), min(count, wanted)))

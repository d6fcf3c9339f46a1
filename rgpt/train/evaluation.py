"""Held-out loss, answers, and how many of them are right, during training.

Every rank runs the same few samples: the figure does not depend on the number of ranks, and under ZeRO-3,
where each layer is gathered by all of them, none can wait for another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from rgpt.answers import KINDS, is_right, kind_of
from rgpt.data.collator import Collator, model_inputs
from rgpt.data.dataset import BadSample, TrainingSet, messages_of
from rgpt.data.mixture import Draw
from rgpt.errors import InputError
from rgpt.model.answer_form import AnswerForm
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


class Question(NamedTuple):
    """One turn of a held-out sample, asked after the true turns before it.

    Attributes:
        kind: how an answer is scored, one of `rgpt.answers.KINDS`; None: it is only shown.
    """

    row: int
    turn: int = 0
    kind: str | None = None


def scored_questions(rows: TrainingSet, numbers: Sequence[int]) -> tuple[list[Question], int]:
    """The turns of these samples that have a right answer, and how many have none."""
    turns = [
        Question(row, number, kind_of(turn.question, turn.answer))
        for row in numbers
        for number, turn in enumerate(rows.files[0][row].turns)
    ]
    scored = [question for question in turns if question.kind is not None]
    return scored, len(turns) - len(scored)


@torch.no_grad()
def answers(
    model: Any,
    rows: TrainingSet,
    questions: Sequence[Question],
    max_new_tokens: int = 48,
    stop: Callable[[], bool] = lambda: False,
    progress: bool = False,
) -> list[dict[str, Any]] | None:
    """The model's greedy answers: question, truth, answer, and kind and right of those that are scored; None
    when `stop`, which is asked before each, says so.

    Through `generate`, not `ChatSession`: weights that ZeRO-3 gathers in the session's inference mode cannot
    be trained on afterwards.
    """
    device = next(model.parameters()).device
    tokenizer, result = rows.processor.tokenizer, list[dict[str, Any]]()
    form = AnswerForm.of(tokenizer, rows.chat_template or rows.processor.chat_template)
    ends = sorted(form.stops_of(model))
    bar = tqdm(questions, "held-out answers", leave=False, mininterval=2, delay=2, disable=not progress)
    for row, turn, kind in bar:
        if stop():
            return None
        sample = rows.files[0][row]
        picture = None if sample.image is None else open_image(sample.image)
        batch = rows.processor.encode_chat(
            messages_of(sample)[: 2 * turn + 1],
            rows.chat_template,
            images=None if picture is None else [picture],
            regions=list(sample.regions) or None,
            add_generation_prompt=True,
        )
        question, truth = sample.turns[turn]
        inputs = {key: value.to(device) for key, value in batch.items()}
        # What is cut here is longer than the truth by several tokens, and so cannot pass for it.
        most = max_new_tokens if kind is None else len(tokenizer(truth)["input_ids"]) + 8
        ids = model.generate(**inputs, max_new_tokens=most, do_sample=False, eos_token_id=ends)
        answer = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        facts = {} if kind is None else {"kind": kind, "right": is_right(kind, truth, answer)}
        result.append({"question": question, "truth": truth, "answer": answer, **facts})
    return result


def accuracies(table: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of right answers, and that of each kind there is."""
    scored = [row for row in table if "kind" in row]
    groups = {"": scored, **{f"_{kind}": [r for r in scored if r["kind"] == kind] for kind in KINDS}}
    return {
        f"held_out_accuracy{name}": sum(row["right"] for row in own) / len(own)
        for name, own in groups.items()
        if own
    }


class Best(NamedTuple):
    """The best look at the held-out samples so far: `by` loss or accuracy, of equal accuracies that with the
    smaller loss."""

    by: str
    step: int
    loss: float
    accuracy: float | None = None

    def better_than(self, other: Best | None) -> bool:
        return other is None or self._rank() > other._rank()

    def _rank(self) -> tuple[float, float]:
        return (self.accuracy or 0.0 if self.by == "accuracy" else 0.0, -self.loss)

    def __str__(self) -> str:
        if self.by == "accuracy":
            return f"accuracy was the greatest, {self.accuracy:.3f}"
        return f"loss was the least, {self.loss:.4f}"


def spread(count: int, wanted: int, seed: int) -> list[int]:
    """`wanted` of `count` row numbers, the same ones in every evaluation."""
    return sorted(random.Random(seed).sample(range(count), min(count, wanted)))

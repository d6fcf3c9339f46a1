"""Accuracy, precision, recall, F1 and the yes-ratio of yes/no answers (POPE). Positive means yes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def yes_no_scores(labels: Sequence[bool], answers: Sequence[bool | None]) -> dict[str, Any]:
    """
    Args:
        labels: the truth, one a question.
        answers: what was answered; None for an item without an answer, which is wrong and neither yes nor no.

    `yes_ratio` is the share of *answers* that are yes (published code computes it from the labels).
    precision is None when nothing was answered yes, recall when nothing is yes, f1 when either is.
    """
    if len(labels) != len(answers):
        raise ValueError(f"{len(labels)} labels and {len(answers)} answers")
    pairs = list(zip(labels, answers, strict=True))
    tp = sum(label and answer is True for label, answer in pairs)
    fp = sum(not label and answer is True for label, answer in pairs)
    tn = sum(not label and answer is False for label, answer in pairs)
    fn = sum(label and answer is False for label, answer in pairs)
    n, positives = len(pairs), sum(labels)
    precision = tp / (tp + fp) if tp + fp else None
    recall = tp / positives if positives else None
    f1 = None
    if precision is not None and recall is not None:
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {
        "accuracy": (tp + tn) / n if n else None,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "yes_ratio": (tp + fp) / n if n else None,
        "tp": tp, "fp": fp, "tn": tn, "fn": fn,
    }  # fmt: skip


def pope_answer(text: str) -> bool:
    """POPE's own reading (its evaluate.py): "No", "no" or "not" in the first sentence is no, else yes."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"} & set(words)

"""Open-vocabulary names: semantic similarity and semantic IoU (the protocol of Osprey's evaluation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Embedder = Callable[[Sequence[str]], "np.ndarray[Any, Any]"]


def plain_answer(text: str) -> str:
    """The name in an answer: what follows a first colon, without `.:,`. "It is: a dog." -> "a dog"."""
    if ":" in text:
        text = text.split(":")[1]
    return " ".join(text.translate(str.maketrans(".:,", "   ")).split())


def plain_name(name: str) -> str:
    """A category name as words. "cap_(headwear)" -> "cap (headwear)"."""
    return " ".join(name.replace("_", " ").replace(":", " ").split())


def semantic_iou(answer: str, name: str) -> float:
    """Shared words over all words, lower case; 0 when both are empty."""
    said, true = set(answer.lower().split()), set(name.lower().split())
    return len(said & true) / len(said | true) if said | true else 0.0


def semantic_similarity(answers: Sequence[str], names: Sequence[str], embed: Embedder) -> list[float]:
    """Cosine of the embeddings of each pair; every distinct text is embedded once.

    `embed` turns n texts into rows `[n, D]` of any length. An empty answer has similarity 0.
    """
    texts = sorted({*answers, *names} - {""})
    rows = np.asarray(embed(texts), dtype=np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    row_of = dict(zip(texts, rows, strict=True))
    return [float(row_of[a] @ row_of[n]) if a and n else 0.0 for a, n in zip(answers, names, strict=True)]

"""Sentence embeddings by transformers: mean over tokens, as sentence-transformers does for MiniLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.metrics.semantic import Embedder
from rgpt.errors import InputError
from rgpt.hub import model_folder, open_pretrained

USUAL = "sentence-transformers/all-MiniLM-L6-v2"
MAX_TOKENS = 256


def load_embedder(name: str = USUAL, batch_size: int = 64) -> Embedder:
    """A function from n texts to unit rows `[n, D]`. Raises InputError when the model cannot be loaded."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        folder = model_folder(name)
        tokenizer = open_pretrained(AutoTokenizer, folder)
        model = open_pretrained(AutoModel, folder).eval()
    except (OSError, ValueError) as error:
        raise InputError.about(
            f"embedder {name!r}",
            "a folder or hub id of a sentence embedding model",
            str(error).partition("\n")[0][:120],
            "download it first, or give --embedder none for semantic IoU alone",
        ) from error

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> np.ndarray[Any, Any]:
        rows = []
        for begin in range(0, len(texts), batch_size):
            batch = tokenizer(
                list(texts[begin : begin + batch_size]),
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            states = model(**batch).last_hidden_state  # [B, T, D]
            weights = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1).clamp_min(1e-9)
            rows.append(torch.nn.functional.normalize(pooled, dim=-1).float().numpy())
        return np.concatenate(rows)

    return embed

"""Text encoders behind one call: texts -> un-normalised vectors.

`words` is not a language model: every word has one fixed pseudo-random vector and a text is their sum. It is
what the tiny, never-downloaded recognizers use (a drawn object's text is then colour vector + texture vector
+ shape vector, and unseen combinations have meaning). Real names need a CLIP text tower.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rgpt.files import sha256

WORDS_SEED = "rgpt words 1"


class TextEncoder(nn.Module):
    """`embed(texts)` -> `[T, dim]`, un-normalised; `encode` is the same without gradients."""

    dim: int

    def embed(self, texts: list[str]) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, texts: list[str]) -> Tensor:
        return self.embed(texts)


class WordEncoder(TextEncoder):
    """The sum of one fixed vector a word (see the module). Case and punctuation do not count."""

    anchor: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # says which device to answer on

    def embed(self, texts: list[str]) -> Tensor:
        rows = []
        for text in texts:
            words = re.findall(r"\w+", text.lower()) or [text]
            rows.append(sum((_word_vector(word, self.dim) for word in words), np.zeros(self.dim)))
        return torch.tensor(np.stack(rows), dtype=torch.float32, device=self.anchor.device)


@lru_cache(maxsize=100_000)
def _word_vector(word: str, dim: int) -> np.ndarray:
    seed = int(sha256(f"{WORDS_SEED} {word}")[:16], 16)
    vector = np.random.default_rng(seed).standard_normal(dim)
    return vector / np.linalg.norm(vector)


class TransformersText(TextEncoder):
    """A `CLIPTextModelWithProjection` and its tokenizer; the embedding is read at end-of-text."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.dim = int(model.config.projection_dim)  # type: ignore[union-attr, arg-type]

    def train(self, mode: bool = True) -> TransformersText:
        return super().train(False)

    def embed(self, texts: list[str]) -> Tensor:
        limit = self.model.config.max_position_embeddings  # type: ignore[union-attr]
        inputs = self.tokenizer(
            texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(next(self.model.parameters()).device)
        kept = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        return self.model(**kept).text_embeds


class OpenClipText(TextEncoder):
    """The text half of an open_clip model; `tokenizer` maps texts to ids `[T, L]`."""

    def __init__(self, model: nn.Module, tokenizer: Callable[[list[str]], Tensor]) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        projection: Any = model.text_projection
        self.dim = int(projection.shape[1] if isinstance(projection, Tensor) else projection.out_features)

    def train(self, mode: bool = True) -> OpenClipText:
        return super().train(False)

    def embed(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer(texts).to(next(self.model.parameters()).device)
        return self.model.encode_text(ids)  # type: ignore[operator]

"""Answers that are JSON of a schema, by llguidance (the extra `structured`): a mask of tokens at every step.

https://github.com/guidance-ai/llguidance, also what vLLM, SGLang and llama.cpp decode under a schema with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch

from rgpt.errors import InputError

MAX_SCHEMA = 20_000
"""Characters of a schema: a second of compiling at most, about."""


class Grammar:
    """A compiled schema; calling it gives the rule of one answer.

    Args:
        vocabulary: an `LLTokenizer`, see `read_vocabulary`.
        schema: JSON Schema. What llguidance cannot keep is refused, not passed over.

    Raises:
        InputError: the schema is wrong, not understood, or too large.
    """

    def __init__(self, vocabulary: Any, schema: Mapping[str, Any]) -> None:
        from llguidance import LLMatcher

        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA:
            raise InputError(f"The schema has {len(text)} characters: at most {MAX_SCHEMA} are taken.")
        try:
            # No white space between values: a model that is unsure would go on with it for ever. `lenient` is
            # said here because a schema may ask for it, and then be kept in part.
            options = {"whitespace_flexible": False, "lenient": False}
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=options)
        except (ValueError, OverflowError) as error:
            raise _cannot(str(error)) from error
        self.matcher = LLMatcher(vocabulary, grammar, log_level=0)
        self().allowed()  # some schemas show here only that they are too large

    def __call__(self) -> _Matching:
        return _Matching(self.matcher.deep_copy())


class _Matching:
    """The rule of one answer (`rgpt.chat.picking.Rule`)."""

    def __init__(self, matcher: Any) -> None:
        self.matcher = matcher

    def allowed(self) -> torch.Tensor:
        """Ids of what may come next; the end of the answer once it is whole."""
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        ids = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        if self.matcher.is_error() or not len(ids):
            raise _cannot(self.matcher.get_error())
        return torch.from_numpy(ids)

    def advance(self, token: int) -> None:
        self.matcher.consume_token(token)


def _cannot(reason: str) -> InputError:
    first = " ".join(reason.strip().partition("\n<state>")[0].split())[:300]
    return InputError(f"The schema cannot be followed ({first or 'nothing fits it'}): simplify it.")


def read_vocabulary(tokenizer: Any, size: int, ends: Set[int]) -> Any:
    """What llguidance needs of a tokenizer: the bytes of each of `size` tokens. Takes up to a second.

    Raises:
        InputError: llguidance is not installed, or does not know how this tokenizer spells.
    """
    try:
        from llguidance.hf import from_tokenizer
    except ModuleNotFoundError as error:
        raise InputError(
            "Answers under a schema need llguidance, which is not installed: "
            "pip install -e '.[structured]' in the repository."
        ) from error
    try:
        return from_tokenizer(tokenizer, n_vocab=size, eos_token=sorted(ends))
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(f"This model's tokenizer cannot spell under a schema ({reason}).") from error

"""The next token from logits: the likeliest, or drawn at a temperature; from all tokens or by a rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from rgpt.errors import InputError

Trie = dict[int, Any]
"""Nested dicts of token ids: what may come next, and what after that."""


class Rule(Protocol):
    """What an answer may be, token by token."""

    def allowed(self) -> Any:
        """What may come next, as an index into `[V]` logits: ids, or a mask of bools."""

    def advance(self, token: int) -> None:
        """`token` came."""


class ClosedSet:
    """The rule that an answer is one of those in a trie."""

    def __init__(self, trie: Trie) -> None:
        self.node = trie

    def allowed(self) -> list[int]:
        return list(self.node)

    def advance(self, token: int) -> None:
        self.node = self.node[token]


class Picker:
    """Chooses tokens for one answer.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: tokens outside this share of the probability are never drawn; 0 takes the likeliest token.
        seed: of the drawing; None: any.
        never: ids that cannot be chosen.
        no_repeat: no run of so many tokens comes twice in an answer (`no_repeat_ngram_size` of transformers,
            over the answer alone: repeating the question's words is no loop); 0 for no limit. Answers under a
            rule are left alone.
        rule: what may be said.
        top: after every choice `told` holds log-probabilities: the chosen token's and those of so many of the
            likeliest. They are the model's own, at temperature 1 and before any rule, as in `rank`.

    Raises:
        InputError: for a value out of range.
    """

    def __init__(
        self,
        temperature: float,
        top_p: float,
        seed: int | None,
        never: Sequence[int],
        no_repeat: int = 0,
        rule: Rule | None = None,
        top: int | None = None,
    ) -> None:
        if not (math.isfinite(temperature) and temperature >= 0) or not 0 <= top_p <= 1:
            raise InputError(
                f"temperature {temperature} and top_p {top_p} must be at least 0, and in [0, 1]."
            )
        if seed is not None and not -(2**63) <= seed < 2**63:
            raise InputError(f"seed is {seed}: expected a whole number from -2**63 to 2**63 - 1.")
        # Logits divided by almost nothing overflow; the likeliest token is what either limit means.
        drawn = temperature > 1e-4 and top_p > 0
        self.temperature, self.never = (temperature if drawn else 0.0), list(never)
        self.no_repeat, self.said = no_repeat, list[int]()
        self.rule, self.top = rule, top
        self.told: tuple[float, list[tuple[int, float]]] = (0.0, [])
        self.warpers = LogitsProcessorList()
        if self.temperature > 0:
            self.warpers.append(TemperatureLogitsWarper(float(temperature)))
            self.warpers.append(TopPLogitsWarper(float(top_p)))
        self.generator = torch.Generator()
        self.generator.seed() if seed is None else self.generator.manual_seed(seed)

    @property
    def plain(self) -> bool:
        """Whether the choice is the likeliest token and nothing else is asked."""
        return self.temperature == 0 and not self.no_repeat and self.rule is None and self.top is None

    def __call__(self, logits: Tensor) -> int:
        """The next token of `logits [V]`."""
        logits = logits.float().cpu().clone()
        given = logits.clone()
        logits[self.never] = -torch.inf
        if self.rule is not None:
            mask = torch.full_like(logits, -torch.inf)
            mask[self.rule.allowed()] = 0.0
            logits = logits + mask
        elif self.no_repeat:
            logits[self._repeating()] = -torch.inf
        token = self._pick(logits)
        self.said.append(token)
        if self.rule is not None:
            self.rule.advance(token)
        if self.top is not None:
            logs = given.log_softmax(-1)
            values, ids = logs.topk(self.top)
            self.told = float(logs[token]), list(zip(ids.tolist(), values.tolist(), strict=True))
        return token

    def _repeating(self) -> list[int]:
        """What would end a run of `no_repeat` tokens that was said before."""
        ahead = self.no_repeat - 1
        last = self.said[len(self.said) - ahead :]
        return [
            self.said[i + ahead] for i in range(len(self.said) - ahead) if self.said[i : i + ahead] == last
        ]

    def _pick(self, logits: Tensor) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        scores = self.warpers(torch.empty(1, 0, dtype=torch.long), logits[None])[0]
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))


def token_trie(sequences: Iterable[Sequence[int]], ends: Iterable[int]) -> Trie:
    """A trie of token sequences, each of which ends with any of `ends`."""
    ends = list(ends)
    root: Trie = {}
    for tokens in sequences:
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
        for end in ends:
            node[end] = {}
    return root

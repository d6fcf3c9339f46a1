"""Many continuations of one prefix, read in one pass.

The tokens of all branches stand behind the prefix in *one* row; a mask of our own lets each token see the
prefix and its own branch only, and explicit positions make every branch begin where the prefix ends. So the
prefix's keys are shared, not copied: N branches cost N short suffixes, no padding, and a branch that has
ended is simply not fed any more. Branches may fork again (a tree of names), since a token names its parent.

The alternative, expanding the keys to a batch of N rows, needs N copies of the prefix: 20 GB for 64 regions
of the 7B shape.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rgpt.chat.keys import Keys, common
from rgpt.chat.picking import Picker
from rgpt.model.conversation import Conversation

ROOT = -1
"""The parent of a token that follows the prefix directly."""


class Branches:
    """Tokens behind the prefix that `keys` holds. Use as a context: the keys are cut back at its end."""

    def __init__(self, keys: Keys) -> None:
        self.keys, self.prefix = keys, len(keys.ids)
        self._depth: list[int] = []
        self._sees: list[np.ndarray | None] = []

    def __enter__(self) -> Branches:
        return self

    def __exit__(self, *problem: object) -> None:
        if self._sees and len(self.keys.ids) == self.prefix:  # or a failure has cleared everything
            self.keys.cache.crop(-len(self._sees))

    def forward(
        self, ids: Sequence[int], parents: Sequence[int], wanted: Sequence[int], features: Any = None
    ) -> Tensor:
        """Read n more tokens.

        Args:
            ids: n token ids.
            parents: of each the column (0 = the first token behind the prefix) that it follows, or ROOT. A
                parent stands before its children.
            wanted: which of the n get logits.
            features: for the placeholders among them.

        Returns:
            Logits `[len(wanted), V]`.
        """
        first, total = len(self._sees), len(self._sees) + len(ids)
        mask = np.zeros((len(ids), self.prefix + total), bool)
        mask[:, : self.prefix] = True
        for i, parent in enumerate(parents):
            row = mask[i, self.prefix :]
            if parent != ROOT:
                seen = self._sees[parent]
                assert seen is not None, "a parent that was forgotten"
                row[: len(seen)] = seen
            row[first + i] = True
            self._sees.append(row[: first + i + 1].copy())
            self._depth.append(0 if parent == ROOT else self._depth[parent] + 1)
        device, dtype = self.keys.model.device, self.keys.model.dtype
        blind = torch.from_numpy(~mask).to(device)
        positions = [self.prefix + depth for depth in self._depth[first:]]
        return self.keys.run(
            features,
            input_ids=torch.tensor([list(ids)], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=torch.zeros(blind.shape, dtype=dtype, device=device).masked_fill(
                blind, torch.finfo(dtype).min
            )[None, None],
            logits_to_keep=torch.tensor(list(wanted), device=device),
        )

    def forget(self, columns: Sequence[int]) -> None:
        """These get no more children: what they see is kept for each token, as long as the row is long."""
        for column in columns:
            self._sees[column] = None


def common_prefix(prompts: Sequence[Conversation]) -> int:
    """P: leading tokens that all prompts share, regions included; at least one token of each is left over."""
    first = np.asarray(prompts[0].ids)
    shared = min(len(prompt.ids) for prompt in prompts) - 1
    for prompt in prompts[1:]:
        unlike = np.flatnonzero(first[:shared] != np.asarray(prompt.ids[:shared]))
        shared = int(unlike[0]) if len(unlike) else shared
        same = common(prompts[0].mentioned, prompt.mentioned)
        if same < len(prompts[0].slots):
            shared = min(shared, prompts[0].slots[same])
    return shared


@dataclass
class Growing:
    """An answer to be grown: what it follows, how its tokens are chosen, how many there may be."""

    prompt: Conversation
    pick: Picker
    limit: int
    cached: int = 0
    """Tokens of the prompt that did not have to be read for it."""
    stopped: bool = False
    """Set by whoever reads the answer: it needs no more tokens."""


def pick_each(pickers: Sequence[Picker], logits: Tensor) -> list[int]:
    """One token a row of `logits [n, V]`, as the row's own picker would choose it alone.

    Where the likeliest is all that is asked, rows are chosen in one operation on the device.
    """
    if pickers and all(pick.plain for pick in pickers):
        logits = logits.float().clone()
        logits[:, pickers[0].never] = -torch.inf
        return logits.argmax(-1).tolist()
    rows = logits.float().cpu()
    return [pick(row) for pick, row in zip(pickers, rows, strict=True)]


def decode(
    keys: Keys, answers: Sequence[Growing], ends: set[int], batch_size: int
) -> Generator[list[tuple[int, int]], None, None]:
    """Grow answers that do not know of each other, `batch_size` at once.

    Who decodes is behind this function and `log_likelihoods`: what comes before them says what is asked, what
    comes after turns tokens into words.

    Yields:
        After every pass what came of it: (which answer, its next token). An answer is over with a token of
        `ends`, at its limit, or when it is `stopped`.
    """
    if len(answers) == 1 or not keys.can_branch:
        for i, answer in enumerate(answers):
            yield from _decode_one(keys, i, answer, ends)
        return
    shared = common_prefix([answer.prompt for answer in answers])
    for start in range(0, len(answers), batch_size):
        live = list(range(start, min(start + batch_size, len(answers))))
        keys.read(answers[start].prompt, shared, logits=False)
        for i in live:
            answers[i].cached = shared
        answers[start].cached = keys.reused
        yield []
        lengths = dict.fromkeys(live, 0)
        with Branches(keys) as branches:
            logits, last = _read_suffixes(branches, [answers[i].prompt for i in live], shared)
            while live:
                tokens = pick_each([answers[i].pick for i in live], logits)
                yield list(zip(live, tokens, strict=True))
                going = []
                for k, (i, token) in enumerate(zip(live, tokens, strict=True)):
                    lengths[i] += 1
                    if token not in ends and lengths[i] < answers[i].limit and not answers[i].stopped:
                        going.append(k)
                if not going:
                    break
                live = [live[k] for k in going]
                first = len(branches._sees)
                parents = [last[k] for k in going]
                logits = branches.forward([tokens[k] for k in going], parents, range(len(going)))
                branches.forget(last)
                last = list(range(first, first + len(going)))


def _decode_one(keys: Keys, number: int, answer: Growing, ends: set[int]) -> Iterator[list[tuple[int, int]]]:
    logits = keys.prefill(answer.prompt)
    answer.cached = keys.reused
    for step in range(answer.limit):
        token = answer.pick(logits)
        yield [(number, token)]
        if token in ends or answer.stopped:
            return
        if step + 1 < answer.limit:
            logits = keys.step(token)


def _read_suffixes(
    branches: Branches, prompts: Sequence[Conversation], shared: int
) -> tuple[Tensor, list[int]]:
    """Read what stands behind the common prefix: logits `[N, V]` after each prompt, and its last column."""
    ids: list[int] = []
    parents: list[int] = []
    last: list[int] = []
    for prompt in prompts:
        for k, token in enumerate(prompt.ids[shared:]):
            parents.append(len(ids) - 1 if k else ROOT)
            ids.append(token)
        last.append(len(ids) - 1)
    features = branches.keys.features(prompts, shared)
    return branches.forward(ids, parents, last, features), last


def log_likelihoods(
    keys: Keys,
    prompts: Sequence[Conversation],
    tails: Sequence[Sequence[Sequence[int]]],
    most: int = 2048,
    within: float | None = None,
) -> Iterator[tuple[list[float], int]]:
    """log p(tail | prompt) of all tails of every prompt: the sum over a tail's tokens.

    Yields, prompt by prompt, the sums and how many tokens of the prompt did not have to be read for it.

    Args:
        tails: for each prompt its tails, as token ids, none of them empty. Tails that begin alike are
            computed once (a trie).
        most: tokens behind the common prefix in one pass; prompts are grouped accordingly.
        within: a tail that cannot come within so many nats of its prompt's likeliest is not read to its end;
            its value is the sum as far as it was read, which its own cannot exceed. A trained model gives
            few of many names a chance, so most are never read.
    """
    trees = [_Tree(prompt_tails) for prompt_tails in tails]
    if not keys.can_branch:
        for prompt, tree in zip(prompts, trees, strict=True):
            yield _one_by_one(keys, prompt, tree)
        return
    shared = common_prefix(prompts)
    group = _group_likelihoods if within is None else partial(_group_search, within=within)
    start = 0
    while start < len(prompts):
        size, stop = 0, start
        while stop < len(prompts) and (
            stop == start or size + len(prompts[stop].ids) - shared + len(trees[stop].ids) <= most
        ):
            size += len(prompts[stop].ids) - shared + len(trees[stop].ids)
            stop += 1
        rows = group(keys, prompts[start:stop], trees[start:stop], shared)
        yield from zip(rows, [keys.reused, *[shared] * (len(rows) - 1)], strict=True)
        start = stop


class _Tree:
    """Tails as a tree of tokens: the last token of a tail is only looked up, never read."""

    def __init__(self, tails: Sequence[Sequence[int]]) -> None:
        self.ids: list[int] = []
        self.parents: list[int] = []
        self.paths: list[list[tuple[int, int]]] = []  # of every tail: (the node before, the token looked up)
        nodes: dict[tuple[int, int], int] = {}
        for tail in tails:
            node, path = ROOT, []
            for k, token in enumerate(tail):
                path.append((node, token))
                if k + 1 < len(tail):
                    if (node, token) not in nodes:
                        nodes[node, token] = len(self.ids)
                        self.ids.append(token)
                        self.parents.append(node)
                    node = nodes[node, token]
            self.paths.append(path)

    def sums(self, logs: Tensor) -> list[float]:
        """Of every tail the sum of `logs [1 + nodes, V]`, whose first row follows the prompt itself."""
        rows = torch.tensor([node + 1 for path in self.paths for node, _ in path], device=logs.device)
        tokens = torch.tensor([token for path in self.paths for _, token in path], device=logs.device)
        steps = logs[rows, tokens].cpu().double().split([len(path) for path in self.paths])
        return [float(step.sum()) for step in steps]


def _group_likelihoods(
    keys: Keys, prompts: Sequence[Conversation], trees: Sequence[_Tree], shared: int
) -> list[list[float]]:
    keys.read(prompts[0], shared, logits=False)
    ids: list[int] = []
    parents: list[int] = []
    wanted: list[int] = []
    for prompt, tree in zip(prompts, trees, strict=True):
        for k, token in enumerate(prompt.ids[shared:]):
            parents.append(len(ids) - 1 if k else ROOT)
            ids.append(token)
        end = len(ids) - 1  # the prompt's last token, the parent of all that begins a tail
        parents += [end if parent == ROOT else end + 1 + parent for parent in tree.parents]
        ids += tree.ids
        wanted += range(end, len(ids))
    with Branches(keys) as branches:
        logits = branches.forward(ids, parents, wanted, keys.features(prompts, shared))
    split = logits.split([1 + len(tree.ids) for tree in trees])
    return [tree.sums(part.float().log_softmax(-1)) for tree, part in zip(trees, split, strict=True)]


def _group_search(
    keys: Keys, prompts: Sequence[Conversation], trees: Sequence[_Tree], shared: int, within: float
) -> list[list[float]]:
    """As above, level by level; of every tree only what may still matter."""
    keys.read(prompts[0], shared, logits=False)
    sums = [[0.0] * len(tree.paths) for tree in trees]
    read = [[0] * len(tree.paths) for tree in trees]  # tokens looked up of every tail
    with Branches(keys) as branches:
        logits, ends = _read_suffixes(branches, prompts, shared)
        columns = [{ROOT: end} for end in ends]  # of every node read
        fresh = [(i, ROOT) for i in range(len(prompts))]
        while fresh:
            row_of = {key: row for row, key in enumerate(fresh)}
            steps = [
                (i, t, row_of[i, path[k][0]], path[k][1])
                for i, tree in enumerate(trees)
                for t, (path, k) in enumerate(zip(tree.paths, read[i], strict=True))
                if k < len(path) and (i, path[k][0]) in row_of
            ]
            rows, tokens = (torch.tensor([s[part] for s in steps], device=logits.device) for part in (2, 3))
            values = logits.float().log_softmax(-1)[rows, tokens].cpu().double().tolist()
            for (i, t, _, _), value in zip(steps, values, strict=True):
                sums[i][t] += value
                read[i][t] += 1
            fresh = [
                (i, node)
                for i, tree in enumerate(trees)
                for node in _worth_reading(tree, sums[i], read[i], within)
            ]
            if fresh:
                first = len(branches._sees)
                logits = branches.forward(
                    [trees[i].ids[node] for i, node in fresh],
                    [columns[i][trees[i].parents[node]] for i, node in fresh],
                    range(len(fresh)),
                )
                for k, (i, node) in enumerate(fresh):
                    columns[i][node] = first + k
    return sums


def _worth_reading(tree: _Tree, sums: Sequence[float], read: Sequence[int], within: float) -> list[int]:
    """The next node of every unfinished tail that may come within `within` of the likeliest finished one."""
    tails = list(zip(tree.paths, sums, read, strict=True))
    best = max((s for path, s, k in tails if k == len(path)), default=max(sums))
    nodes = (path[k][0] for path, s, k in tails if k < len(path) and s >= best - within)
    return list(dict.fromkeys(nodes))


def _one_by_one(keys: Keys, prompt: Conversation, tree: _Tree) -> tuple[list[float], int]:
    """As above for models whose attention takes no mask of ours: every tail by itself, token by token."""
    sums: list[float] = []
    cached = 0
    for path in tree.paths:
        logs = keys.prefill(prompt).float().log_softmax(-1)
        cached = cached if sums else keys.reused
        total = 0.0
        for k, (_, token) in enumerate(path):
            total += float(logs[token])
            if k + 1 < len(path):
                logs = keys.step(token).float().log_softmax(-1)
        sums.append(total)
    return sums, cached

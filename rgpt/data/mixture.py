"""Which sample comes when: weighted, seeded, grouped by length, the same on any number of ranks and workers.

The order is a pure function of (seed, epoch, sizes, weights, lengths, batch size). Ranks, micro-batches and
workers only cut it up, so a run can move to other hardware, or continue in the middle of an epoch, and see
the same samples in the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rgpt.errors import InputError

MEGABATCH = 50
"""Batches that are sorted by length together: enough for like lengths, few enough to stay shuffled [D]."""


class Draw(NamedTuple):
    """One visit to a sample: file, row, and what tells this visit from others to the same row."""

    source: int
    row: int
    epoch: int = 0
    copy: int = 0


class Mixture:
    """Batches of samples from several files.

    Args:
        sizes: samples of each file.
        weights: how often each file is seen in an epoch: 1 once, 0.5 another random half each epoch, 2.5
            twice and another half.
        batch_size: samples a step, over all ranks and accumulated micro-batches.
        seed: of the shuffling.
        lengths: for each file `[n]` lengths of its samples; batches then hold samples of like length. `None`:
            batches of any lengths.

    The samples that do not fill a last batch are left out of that epoch; which ones differs by epoch.

    Raises:
        InputError: for a weight that is not positive, or when an epoch does not fill one batch.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        lengths: Sequence[np.ndarray] | None = None,
    ) -> None:
        for number, weight in enumerate(weights):
            if not 0 < weight < float("inf"):
                raise InputError.about(
                    f"weight of data file {number + 1}",
                    "a number above 0",
                    str(weight),
                    "leave the file out instead",
                )
        for number, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
            if not round(size * weight):
                raise InputError.about(
                    f"weight of data file {number + 1}",
                    f"one that gives at least one of its {size} samples an epoch",
                    str(weight),
                    "make it larger, or leave the file out",
                )
        self.sizes, self.weights = list(sizes), list(weights)
        self.batch_size, self.seed, self.lengths = batch_size, seed, lengths
        self.samples_per_epoch = sum(
            round(size * weight) for size, weight in zip(self.sizes, self.weights, strict=True)
        )
        self.batches_per_epoch = self.samples_per_epoch // batch_size
        if not self.batches_per_epoch:
            raise InputError.about(
                "data",
                f"at least one batch of {batch_size} samples an epoch",
                f"{self.samples_per_epoch} samples",
                "give more data, larger weights or a smaller batch_size",
            )
        self._epoch = -1
        self._plan: list[np.ndarray] = []

    def batch(self, step: int) -> list[Draw]:
        """The samples of a step, counted from 0; within a step they are sorted by length, longest first."""
        epoch, number = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self._make_plan(epoch)
        return [Draw(source, row, epoch, copy) for source, row, copy in self._plan[number].tolist()]

    def _make_plan(self, epoch: int) -> list[np.ndarray]:
        """Batches `[batch_size, 3]` of (file, row, which copy), in the order of the epoch's steps."""
        generator = np.random.default_rng([self.seed, epoch])
        rows, lengths = [], []
        for source, (size, weight) in enumerate(zip(self.sizes, self.weights, strict=True)):
            count = round(size * weight)
            for copy in range(-(-count // size)):
                chosen = generator.permutation(size)[: count - copy * size]
                labels = np.full_like(chosen, source), chosen, np.full_like(chosen, copy)
                rows.append(np.stack(labels, axis=1))
                if self.lengths is not None:
                    lengths.append(self.lengths[source][chosen])
        order = generator.permutation(self.samples_per_epoch)
        table = np.concatenate(rows)[order]
        whole = self.batches_per_epoch * self.batch_size
        if self.lengths is not None:
            length = np.concatenate(lengths)[order]
            window = MEGABATCH * self.batch_size
            for start in range(0, whole, window):
                stop = min(start + window, whole)
                table[start:stop] = table[start:stop][np.argsort(-length[start:stop], kind="stable")]
        batches = list(table[:whole].reshape(self.batches_per_epoch, self.batch_size, 3))
        return [batches[number] for number in generator.permutation(self.batches_per_epoch)]


class MicroBatches:
    """A batch sampler: what one rank reads, micro-batch by micro-batch, from step 0 to `steps`.

    Micro-batch m of rank r takes samples number (m * ranks + r) * size and following of the step's batch:
    with length grouping, what the ranks do at the same time is then of like length.
    """

    def __init__(
        self, mixture: Mixture, steps: int, micro_batch_size: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.mixture, self.steps, self.size, self.rank, self.ranks = (
            mixture, steps, micro_batch_size, rank, ranks,
        )  # fmt: skip
        self.accumulation, rest = divmod(mixture.batch_size, micro_batch_size * ranks)
        if rest or not self.accumulation:
            raise InputError.about(
                "batch_size",
                f"a multiple of micro_batch_size x processes = {micro_batch_size} x {ranks}",
                str(mixture.batch_size),
                "change one of them",
            )

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.steps):
            batch = self.mixture.batch(step)
            for number in range(self.accumulation):
                yield self.of_step(batch, number)

    def of_step(self, batch: list[Draw], number: int) -> list[Draw]:
        """Micro-batch `number` of a step's batch, as this rank reads it."""
        first = (number * self.ranks + self.rank) * self.size
        return batch[first : first + self.size]

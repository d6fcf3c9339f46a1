"""The order of samples: a law of (seed, epoch), whoever reads it and in whatever pieces."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from rgpt.data.mixture import MicroBatches, Mixture
from rgpt.errors import InputError

LENGTHS = [np.random.default_rng(n).integers(1, 1000, size) for n, size in enumerate((103, 40))]


def mixture(
    batch_size: int = 8, seed: int = 0, weights: tuple[float, float] = (1.0, 1.0), group: bool = True
) -> Mixture:
    return Mixture([103, 40], weights, batch_size, seed, LENGTHS if group else None)


def epoch_of(plan: Mixture, epoch: int) -> list[tuple[int, int]]:
    steps = range(epoch * plan.batches_per_epoch, (epoch + 1) * plan.batches_per_epoch)
    return [(draw.source, draw.row) for step in steps for draw in plan.batch(step)]


@pytest.mark.parametrize("group", [True, False])
def test_an_epoch_sees_every_sample_at_most_once(group: bool) -> None:
    seen = epoch_of(mixture(group=group), 0)
    assert len(seen) == len(set(seen)) == 143 // 8 * 8


@pytest.mark.parametrize(("ranks", "micro"), [(1, 8), (1, 2), (2, 4), (2, 1), (4, 2), (8, 1)])
def test_ranks_and_micro_batches_only_cut_it_up(ranks: int, micro: int) -> None:
    plan = mixture()
    readers = [iter(MicroBatches(mixture(), 20, micro, rank, ranks)) for rank in range(ranks)]
    accumulation = 8 // (ranks * micro)
    for step in range(20):
        got = [draw for _ in range(accumulation) for reader in readers for draw in next(reader)]
        assert got == plan.batch(step)


def test_a_run_continues_in_the_middle_of_an_epoch() -> None:
    whole = list(MicroBatches(mixture(), 40, 4))
    assert list(islice(iter(MicroBatches(mixture(), 40, 4)), 25, None)) == whole[25:]
    late = mixture()
    assert late.batch(33) == mixture().batch(33)  # without having made the steps before
    assert late.batch(2) == mixture().batch(2)


def test_seeds_and_epochs_differ() -> None:
    assert epoch_of(mixture(seed=0), 0) != epoch_of(mixture(seed=1), 0)
    assert epoch_of(mixture(), 0) != epoch_of(mixture(), 1)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.5), (3.0, 0.1)])
def test_weights_count_visits(weights: tuple[float, float]) -> None:
    plan = mixture(batch_size=1, weights=weights)
    visits = Counter(epoch_of(plan, 0))
    for source, (size, weight) in enumerate(zip((103, 40), weights, strict=True)):
        counts = [visits[source, row] for row in range(size)]
        assert sum(counts) == round(size * weight)
        assert max(counts) - min(counts) <= 1
    if weights[0] == 0.5:  # another half in another epoch
        rows = [{row for source, row in epoch_of(plan, epoch) if source == 0} for epoch in (0, 1)]
        assert rows[0] != rows[1]


def test_visits_to_a_sample_can_be_told_apart() -> None:
    plan = mixture(batch_size=1, weights=(3.0, 1.0))
    draws = [plan.batch(step)[0] for step in range(2 * plan.batches_per_epoch)]
    assert len(set(draws)) == len(draws)


def test_batches_hold_like_lengths() -> None:
    def waste(plan: Mixture) -> float:
        """Padding as a share of all tokens."""
        used = padded = 0
        for step in range(plan.batches_per_epoch):
            lengths = [LENGTHS[d.source][d.row] for d in plan.batch(step)]
            used, padded = used + sum(lengths), padded + max(lengths) * len(lengths)
        return 1 - used / padded

    assert waste(mixture()) < 0.1 < 0.3 < waste(mixture(group=False))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"weights": (0.0, 1.0)}, "weight of data file 1: expected a number above 0"),
        ({"weights": (1.0, float("nan"))}, "weight of data file 2"),
        ({"batch_size": 200}, "at least one batch of 200 samples an epoch, got 143 samples"),
    ],
)
def test_what_cannot_be_mixed(arguments: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        mixture(**arguments)


@pytest.mark.parametrize(("micro", "ranks"), [(3, 1), (4, 4), (8, 2)])
def test_a_batch_that_cannot_be_cut_evenly(micro: int, ranks: int) -> None:
    with pytest.raises(InputError, match=r"expected a multiple of micro_batch_size"):
        MicroBatches(mixture(), 1, micro, 0, ranks)

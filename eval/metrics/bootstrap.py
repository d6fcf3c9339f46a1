"""Confidence intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

RESAMPLES = 1000


def interval(values: Sequence[float], groups: Sequence[Hashable], seed: int = 0) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the mean of `values`, whole groups drawn with replacement.

    What belongs together (regions of one picture) stays together: alone they would look more certain.
    """
    place = {group: k for k, group in enumerate(sorted(set(groups), key=str))}
    index = np.array([place[group] for group in groups])
    sums = np.bincount(index, np.asarray(values, float))
    sizes = np.bincount(index)
    drawn = np.random.default_rng(seed).integers(len(place), size=(RESAMPLES, len(place)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)

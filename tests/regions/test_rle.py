"""Run-length masks: both spellings, pycocotools as the second opinion, and lies refused before allocation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from rgpt.errors import InputError
from rgpt.regions import RLE
from rgpt.regions.rle import compress, decompress

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)).filter(np.any)


@given(masks, st.booleans())
def test_mask_to_rle_to_mask_is_the_identity(mask, compressed):
    assert np.array_equal(RLE.from_mask(mask, compressed).to_mask(*mask.shape), mask)


@given(masks)
def test_both_directions_agree_with_pycocotools(mask):
    theirs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert RLE.from_mask(mask).counts == theirs["counts"].decode()
    assert np.array_equal(RLE(theirs["size"], theirs["counts"]).to_mask(*mask.shape), mask)
    ours = RLE.from_mask(mask, compressed=False)
    again = coco_mask.frPyObjects({"size": list(ours.size), "counts": list(ours.counts)}, *mask.shape)
    assert again["counts"] == theirs["counts"]


@given(st.lists(st.integers(0, 100_000_000), min_size=1, max_size=40))
def test_any_runs_survive_the_compressed_spelling(runs):
    assert decompress(compress(np.array(runs))).tolist() == runs


@pytest.mark.parametrize(
    "size, counts, words",
    [
        ((3, 4), [2, 9], "sum to 3 x 4 = 12, got 11"),
        ((3, 4), [2, 11], "got 13"),
        ((3, 4), "23", "sum to 3 x 4 = 12, got 5"),
        ((4, 4), RLE.from_mask(np.eye(3, dtype=bool)).counts, "sum to 4 x 4 = 16, got 9"),
        ((3, 4), [12], "at least one true pixel, got an empty mask"),
        ((3, 4), [-2, 14], "whole numbers from 0 to 12, got -2"),
        ((3, 4), [2.5, 9.5], "whole numbers"),
        ((3, 4), [1e400, 1], "whole numbers"),
        ((3, 4), [2**70, 12], "whole numbers"),
        ((3, 4), "", "an empty string"),
        ((3, 4), "2é", "non-ASCII"),
        ((3, 4), b"2\xff", "non-ASCII"),
        ((3, 4), "2 9", "the character ' '"),
        ((3, 4), "2P", "cut off inside a number"),
        ((3, 4), "o" * 8 + "0", "a number of 9 characters"),
        ((3, 4), "N", "runs of at least 0"),
        ((3, 4), "0" * 1000, "at most 98 counts"),
        ((3, 4), 7, "a string or a list, got int"),
        ((3, 4), None, "got NoneType"),
        ((3,), [3], r"size as \[height, width\]"),
        ("34", [12], r"size as \[height, width\]"),
        ((3.0, 4), [0, 12], "whole numbers"),
        ((-3, -4), [0, 12], "at least 1"),
        ((100_000, 100_000), [0, 10**10], "at most 100000000 pixels"),
        ((10_001, 10_000), [0, 100_010_000], "at most 100000000 pixels, got 10000 x 10001"),
    ],
)
def test_wrong_run_lengths_are_refused(size, counts, words):
    with pytest.raises(InputError, match=words) as caught:
        RLE(size, counts)
    assert len(str(caught.value)) < 250


def test_a_lying_size_costs_no_memory():
    tracemalloc.start()
    try:
        for size in ((9_999, 9_999), (100_000, 100_000)):
            with pytest.raises(InputError):
                RLE(size, "23")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@given(st.text(max_size=30) | st.binary(max_size=30) | st.lists(st.integers(), max_size=8))
def test_garbage_is_refused_or_a_mask_but_never_another_error(counts):
    try:
        rle = RLE((5, 4), counts)
    except InputError:
        return
    assert rle.to_mask(5, 4).sum() == rle.area

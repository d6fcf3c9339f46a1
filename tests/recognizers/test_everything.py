"""Which of many overlapping regions stay: by score, name and overlap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from rgpt.recognizers.everything import _chosen, _overlaps
from rgpt.recognizers.region_set import RegionSet
from rgpt.regions import Box, Mask


def mask(*boxes: tuple[int, int, int, int], side: int = 96) -> Mask:
    pixels = np.zeros((side, side), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = True
    return Mask(pixels)


@pytest.mark.parametrize("seed", range(5))
def test_boxes_are_chosen_as_torchvision_does(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(60, 4, generator=generator) * 40
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:] + 1], 1)
    scores = torch.rand(60, generator=generator)
    labels = torch.randint(0, 3, (60,), generator=generator)
    kept = torch.nonzero(scores > 0.2).flatten()
    expected = kept[batched_nms(boxes[kept], scores[kept], labels[kept], 0.4)].tolist()
    assert _chosen(RegionSet.of_boxes(boxes, 96, 96), scores, labels, 0.2, 0.4) == expected


def test_masks_are_compared_by_their_pixels() -> None:
    """A second mask of the same thing goes although stray pixels make its box large; what lies inside of a
    ring's box, but not on the ring, stays."""
    ring = mask((10, 10, 60, 15), (10, 55, 60, 60), (10, 10, 15, 60), (55, 10, 60, 60))
    regions = (mask((20, 20, 50, 50)), mask((21, 20, 50, 50), (90, 90, 92, 92)), ring)
    found = RegionSet(regions, 96, 96)
    scores, one_name = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3)
    assert _chosen(found, scores, one_name, 0.0, 0.3) == [0, 2]
    assert _chosen(found, scores, torch.tensor([0, 1, 0]), 0.0, 0.3) == [0, 1, 2]  # two names, two things
    assert _chosen(found, scores, one_name, 0.0, None) == [0, 1, 2]


def test_overlaps_on_the_grid_are_those_of_the_pixels() -> None:
    """On a picture of the grid's own size shares are 0 or 1, and IoU is the usual one."""
    regions = (mask((0, 0, 40, 40)), mask((20, 0, 60, 40)), mask((50, 50, 51, 51)))
    masks = torch.from_numpy(RegionSet(regions, 96, 96).as_masks()).flatten(1).float()
    both = masks @ masks.T
    expected = both / (masks.sum(1)[:, None] + masks.sum(1)[None] - both)
    torch.testing.assert_close(_overlaps(RegionSet(regions, 96, 96), torch.arange(3)), expected)


def test_boxes_among_masks_are_areas_like_them() -> None:
    found = RegionSet((Box(10, 10, 50, 50), mask((10, 10, 50, 50))), 96, 96)
    assert _chosen(found, torch.tensor([0.4, 0.6]), torch.zeros(2), 0.0, 0.5) == [1]


def test_undefined_scores_are_above_no_floor() -> None:
    found = RegionSet((Box(0, 0, 5, 5), Box(10, 10, 20, 20)), 96, 96)
    assert _chosen(found, torch.tensor([float("nan"), 0.1]), torch.zeros(2), 0.0, 0.5) == [1]
    assert _chosen(found, torch.tensor([0.0, 0.0]), torch.zeros(2), 0.0, 0.5) == []

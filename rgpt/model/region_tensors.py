"""Regions as the model reads them: area shares of the refined grid, and which mention means which of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rgpt.errors import InputError
from rgpt.model.samples import Key, Sample, number_of
from rgpt.regions import Region, area_weights, square_padding


def region_weights(region: Region, height: int, width: int, grid: int) -> np.ndarray:
    """A region of a height x width picture -> float32 `[G, G]`: the share of every refined cell that it
    covers.

    The picture is taken as padded to a square, as in `rgpt.model.pictures.to_pixels`; padding has weight 0.
    Raises InputError when the region lies outside the picture.
    """
    region.check_inside(height, width)
    side, offset = square_padding(height, width)
    return area_weights(region.to_mask(height, width), side, offset, grid)


def region_tensors(
    samples: Sequence[Sample], grid: int
) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
    """(`region_masks` `[I, R, G, G]`, `region_index` `[M]`), or nothing when no sample has a region.

    Every region has a row, mentioned or not, in the order of its picture's regions; a region mentioned
    twice has one.
    """
    rows: list[list[np.ndarray]] = []  # weights, one list a picture of the batch
    index: list[tuple[int, int]] = []  # (picture, row) of every mention
    for sample in samples:
        first = len(rows)
        rows += [[] for _ in sample.pictures]
        position: dict[Key, tuple[int, int]] = {}
        for key, (picture_index, region) in sample.regions.items():
            picture, own = sample.pictures[picture_index], rows[first + picture_index]
            try:
                weights = region_weights(region, picture.height, picture.width, grid)
            except InputError as error:
                raise InputError(f"<region{number_of(key)}>: {error}") from error
            position[key] = (first + picture_index, len(own))
            own.append(weights)
        index += [position[key] for key in sample.mentions]
    most = max(map(len, rows), default=0)
    if most == 0:
        return None, None
    masks = np.zeros((len(rows), most, grid, grid), np.float32)
    for picture_index, own in enumerate(rows):
        if own:
            masks[picture_index, : len(own)] = own
    flat = [picture_index * most + row for picture_index, row in index]
    return torch.from_numpy(masks), torch.tensor(flat, dtype=torch.long)

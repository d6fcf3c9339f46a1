"""The share of every cell of a grid that a region covers: the weights that pool a region's features.

A grid is given by its edges in pixels of the picture, `rows` `[g + 1]` and `columns` `[h + 1]`, increasing;
it may reach beyond the picture, where nothing is covered.

Shares come from four whole numbers an edge crossing: the region's pixels above and left of it, those of the
pixel's own row and column on the way there, and the pixel itself. They are the same however the pixels were
given, so the same pixels have the same bits as box, polygon or mask; and no mask is made to count them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rgpt.regions.masks import Mask
from rgpt.regions.values import Region

_FEW = 64  # rectangles for which products are quicker than sums over corners


def square_padding(height: int, width: int) -> tuple[int, tuple[int, int]]:
    """(side, (x, y) offset) of the square a picture is padded to, the picture centred (LLaVA's `pad`)."""
    side = max(height, width)
    return side, ((side - width) // 2, (side - height) // 2)


def region_weights(region: Region, height: int, width: int, grid: int) -> np.ndarray:
    """A region of a height x width picture -> float32 `[grid, grid]`: what the model sees of it.

    The cells are those of the picture padded to a square, as `rgpt.regions.square.to_pixels` pads it.
    Raises InputError when the region lies outside the picture.
    """
    side, (left, top) = square_padding(height, width)
    edges = np.arange(grid + 1) * (side / grid)
    return region_shares(region, height, width, edges - top, edges - left)


def region_shares(
    region: Region, height: int, width: int, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """`mask_shares` of a region of a height x width picture, without its mask.

    Raises InputError when the region lies outside the picture.
    """
    if isinstance(region, Mask):
        region.check_inside(height, width)
        return mask_shares(region.array, rows, columns)
    down, across = _Edges.of(rows, height), _Edges.of(columns, width)
    return _shares(_count_rectangles(region.rectangles(height, width), down, across), down, across)


def area_weights(mask: np.ndarray, side: int, offset_xy: tuple[float, float], grid: int) -> np.ndarray:
    """`mask_shares` of a square grid, float32 `[grid, grid]`.

    The picture of `mask` (bool [H, W], as regions give it) lies at `offset_xy` = (x, y) in a square of `side`
    px, cut into grid x grid equal cells. Sum of weights * (side / grid)² = number of true pixels; padding has
    weight 0.
    """
    left, top = offset_xy
    edges = np.arange(grid + 1) * (side / grid)
    return mask_shares(mask, edges - top, edges - left)


def mask_shares(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The fraction of each cell that a mask (bool [H, W]) covers, exact, float32 `[g, h]` in 0..1.

    A mask of any size keeps a positive weight. Area weighting is our decision [D], the soft resampling is
    [A].
    """
    down, across = _Edges.of(rows, mask.shape[0]), _Edges.of(columns, mask.shape[1])
    return _shares(_count_mask(mask, down.pixel, across.pixel), down, across)


def box_shares(boxes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The fraction of each cell that each box covers, corners not rounded to pixels.

    xyxy `[..., 4]` -> float32 `[..., g, h]`.
    """
    x1, y1, x2, y2 = (boxes[..., i, None] for i in range(4))
    across = np.diff(np.clip(columns, x1, x2)) / np.diff(columns)
    down = np.diff(np.clip(rows, y1, y2)) / np.diff(rows)
    return (down[..., :, None] * across[..., None, :]).astype(np.float32)


class _Edges(NamedTuple):
    """Edges along one axis, cut to the picture: the pixel that each lies in, and how far in, 0 to 1."""

    pixel: np.ndarray
    rest: np.ndarray
    sizes: np.ndarray
    """Of the cells between them, not cut."""

    @classmethod
    def of(cls, edges: np.ndarray, count: int) -> _Edges:
        at = np.clip(edges, 0, count)
        pixel = np.minimum(at.astype(np.int64), count - 1)  # the last edge is the far end of the last pixel
        return cls(pixel, at - pixel, np.diff(edges))


class _Counts(NamedTuple):
    """Whole numbers `[g + 1, h + 1]`, at pixel (i, j) of each pair of edges."""

    before: np.ndarray  # pixels of the region in [0, i) x [0, j)
    left: np.ndarray  # of row i, in [0, j)
    above: np.ndarray  # of column j, in [0, i)
    here: np.ndarray  # pixel (i, j) itself


def _shares(counts: _Counts, down: _Edges, across: _Edges) -> np.ndarray:
    before, left, above, here = counts
    a, b = down.rest[:, None], across.rest[None, :]
    # The integral of the mask from the picture's corner to each pair of edges, px².
    area = before + a * left + b * (above + a * here)
    cells = np.diff(np.diff(area, axis=0), axis=1)
    # Rounding must not give weight to a cell that holds nothing: counted over its pixels, whole ones.
    a, b = (a > 0) * 1, (b > 0) * 1
    far = before + a * left + b * (above + a * here)
    corner, right, below = before, before + b * above, before + a * left
    held = far[1:, 1:] - right[:-1, 1:] - below[1:, :-1] + corner[:-1, :-1]
    cells[held == 0] = 0
    return np.clip(cells / np.outer(down.sizes, across.sizes), 0.0, 1.0).astype(np.float32)


def _count_rectangles(rectangles: np.ndarray, down: _Edges, across: _Edges) -> _Counts:
    """Of disjoint rectangles, int64 `[N, 4]` (x1, y1, x2, y2)."""
    i, j = down.pixel, across.pixel
    if len(rectangles) <= _FEW:
        x1, y1, x2, y2 = rectangles.T.astype(np.float64)[:, None]  # whole numbers, and exact
        tall, wide = np.clip(i[:, None] - y1, 0, y2 - y1), np.clip(j[:, None] - x1, 0, x2 - x1)
        row = ((i[:, None] >= y1) & (i[:, None] < y2)).astype(np.float64)
        column = ((j[:, None] >= x1) & (j[:, None] < x2)).astype(np.float64)
        return _Counts(tall @ wide.T, row @ wide.T, tall @ column.T, row @ column.T)
    # A sum over the corners above and left of each pair of edges, with the sign that a corner has.
    shape = len(i) + 1, len(j) + 1  # the last row and column: corners beyond all edges
    sums = np.zeros((4, shape[0] * shape[1]))  # of 1, y, x, xy; exact, as they stay below 2^53
    for x, y, sign in ((0, 1, 1), (2, 3, 1), (0, 3, -1), (2, 1, -1)):
        xs, ys = rectangles[:, x], rectangles[:, y]
        place = np.searchsorted(i, ys) * shape[1] + np.searchsorted(j, xs)
        for row, values in enumerate((None, ys, xs, ys * xs)):
            sums[row] += sign * np.bincount(place, values, shape[0] * shape[1])
    totals = sums.reshape(4, *shape)[:, :-1, :-1].cumsum(axis=1).cumsum(axis=2)
    one, y, x, xy = np.rint(totals).astype(np.int64)
    i, j = i[:, None], j[None, :]
    return _Counts(i * j * one - j * y - i * x + xy, j * one - x, i * one - y, one)


def _count_mask(mask: np.ndarray, i: np.ndarray, j: np.ndarray) -> _Counts:
    height = len(mask)

    def up_to(values: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Sums of `values` [n, m] over [0, place) of axis 0, [len(places), m]."""
        summed = np.concatenate([np.zeros((1, values.shape[1]), np.int64), values.cumsum(axis=0)])
        return summed[places]

    starts, of = np.unique(np.append(0, i), return_inverse=True)
    bands = np.stack(
        [np.count_nonzero(mask[a:b], axis=0) for a, b in zip(starts, [*starts[1:], height], strict=True)]
    )
    over = up_to(bands, np.arange(len(starts)))[of.reshape(-1)[1:]]  # [g + 1, W]: pixels above row i
    return _Counts(up_to(over.T, j).T, up_to(mask[i].T, j).T, over[:, j], mask[np.ix_(i, j)].astype(np.int64))

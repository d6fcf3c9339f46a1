"""The share of every cell of a grid that a region covers: the weights that pool a region's features.

A grid is given by its edges in pixels of the picture, `rows` `[g + 1]` and `columns` `[h + 1]`, increasing;
it may reach beyond the picture, where nothing is covered.
"""

from __future__ import annotations

import numpy as np

from rgpt.regions.values import Region

_BLOCK = 8_000_000  # pixels integrated at once, so that a 100 MP mask needs tens of megabytes, not hundreds


def square_padding(height: int, width: int) -> tuple[int, tuple[int, int]]:
    """(side, (x, y) offset) of the square a picture is padded to, the picture centred (LLaVA's `pad`)."""
    side = max(height, width)
    return side, ((side - width) // 2, (side - height) // 2)


def region_weights(region: Region, height: int, width: int, grid: int) -> np.ndarray:
    """A region of a height x width picture -> float32 `[grid, grid]`: what the model sees of it.

    The cells are those of the picture padded to a square, as `rgpt.model.pictures.to_pixels` pads it.
    Raises InputError when the region lies outside the picture.
    """
    side, offset = square_padding(height, width)
    return area_weights(region.to_mask(height, width), side, offset, grid)


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
    filled = np.flatnonzero(mask.any(axis=1))
    if not len(filled):
        return np.zeros((len(rows) - 1, len(columns) - 1), dtype=np.float32)
    top, bottom = filled[0], filled[-1] + 1
    filled = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = filled[0], filled[-1] + 1
    window = mask[top:bottom, left:right]
    block = max(1, _BLOCK // window.shape[0])
    by_row = np.concatenate(
        [
            _integrate(window[:, start : start + block], rows - top)
            for start in range(0, window.shape[1], block)
        ],
        axis=1,
    )  # [g, w]: true pixels of each column in each row of cells
    cells = _integrate(by_row.T, columns - left).T  # [g, h], px²
    return np.clip(cells / np.outer(np.diff(rows), np.diff(columns)), 0.0, 1.0).astype(np.float32)


def box_shares(boxes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The fraction of each cell that each box covers, corners not rounded to pixels.

    xyxy `[..., 4]` -> float32 `[..., g, h]`.
    """
    x1, y1, x2, y2 = (boxes[..., i, None] for i in range(4))
    across = np.diff(np.clip(columns, x1, x2)) / np.diff(columns)
    down = np.diff(np.clip(rows, y1, y2)) / np.diff(rows)
    return (down[..., :, None] * across[..., None, :]).astype(np.float32)


def _integrate(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Integral of `values` [n, m], constant over each unit step of axis 0, from edge to edge: [g, m]."""
    count = len(values)
    at = np.clip(edges, 0, count)
    whole = np.minimum(at.astype(np.int64), count - 1)
    total = np.cumsum(values, axis=0, dtype=np.int32 if values.dtype == bool else np.float64)
    before = np.where(whole[:, None] > 0, total[whole - 1], 0)
    upto = before + (at - whole)[:, None] * values[whole]
    return np.diff(upto, axis=0)

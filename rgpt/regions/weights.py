"""How much of each cell of a feature grid a mask covers: the weights that pool a region's features."""

from __future__ import annotations

import numpy as np

from rgpt.errors import InputError

_BLOCK = 8_000_000  # pixels integrated at once, so that a 100 MP mask needs tens of megabytes, not hundreds


def square_padding(height: int, width: int) -> tuple[int, tuple[int, int]]:
    """(side, (x, y) offset) of the square a picture is padded to, the picture centred (LLaVA's `pad`)."""
    side = max(height, width)
    return side, ((side - width) // 2, (side - height) // 2)


def area_weights(mask: np.ndarray, side: int, offset_xy: tuple[float, float], grid: int) -> np.ndarray:
    """The fraction of each grid cell that the mask covers, exact, float32 [grid, grid] in 0..1.

    The picture of `mask` (bool [H, W]) lies at `offset_xy` = (x, y) in a square of `side` px, cut into
    grid x grid equal cells. Sum of weights * (side / grid)² = number of true pixels; a mask of any size keeps
    a positive weight; padding has weight 0. Area weighting is our decision [D], the soft resampling is [A].

    Raises InputError when the mask is not bool [H, W] or does not fit into the square.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise InputError.about(
            "mask", "a bool array [height, width]", f"{mask.dtype} {list(mask.shape)}", "convert it"
        )
    height, width = mask.shape
    left, top = offset_xy
    if grid < 1 or left < 0 or top < 0 or left + width > side or top + height > side:
        raise InputError.about(
            "area weights",
            f"a {width} x {height} picture at {offset_xy} in a square, grid of at least 1",
            f"side {side} and grid {grid}",
            "use square_padding(height, width)",
        )
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.zeros((grid, grid), dtype=np.float32)
    columns = np.flatnonzero(mask.any(axis=0))
    window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    edges = np.arange(grid + 1) * (side / grid)
    block = max(1, _BLOCK // window.shape[0])
    by_row = np.concatenate(
        [
            _integrate(window[:, start : start + block], edges - top - rows[0])
            for start in range(0, window.shape[1], block)
        ],
        axis=1,
    )  # [grid, w]: true pixels of each column in each row of cells
    cells = _integrate(by_row.T, edges - left - columns[0]).T  # [grid, grid], px²
    return np.clip(cells * (grid / side) ** 2, 0.0, 1.0).astype(np.float32)


def _integrate(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Integral of `values` [n, m], constant over each unit step of axis 0, from edge to edge: [g, m]."""
    count = len(values)
    at = np.clip(edges, 0, count)
    whole = np.minimum(at.astype(np.int64), count - 1)
    total = np.cumsum(values, axis=0, dtype=np.int32 if values.dtype == bool else np.float64)
    before = np.where(whole[:, None] > 0, total[whole - 1], 0)
    upto = before + (at - whole)[:, None] * values[whole]
    return np.diff(upto, axis=0)

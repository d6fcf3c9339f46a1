"""Several short samples in one row, each seeing only itself.

Axes: B samples, N rows, L tokens a row. A sample's positions start at 0; from a position that does not follow
its predecessor attention takes it that another sample begins (transformers builds the block-diagonal mask, or
FlashAttention's lengths, from `position_ids` when there is no `attention_mask`).
"""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], limit: int | None) -> list[list[int]]:
    """Rows of sample numbers, first-fit decreasing: no row is longer than `limit` tokens.

    `limit` None is one single row. Every sample is in exactly one row; the same lengths give the same rows.
    A sample longer than the limit has a row of its own.
    """
    if limit is None:
        return [list(range(len(lengths)))]
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        for row, left in enumerate(room):
            if lengths[number] <= left:
                rows[row].append(number)
                room[row] -= lengths[number]
                break
        else:
            rows.append([number])
            room.append(limit - lengths[number])
    return rows

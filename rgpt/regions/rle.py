"""Run-length encoding as COCO writes it: column-major runs, the first counts zeros.

Two spellings hold the same runs: a list of integers ("uncompressed") and an ASCII string in which every
run is a little-endian base-32 number with a sign bit, from the fourth on as the difference to the run two
before. Reading the runs never allocates the mask, so a lying header costs nothing.
"""

from __future__ import annotations

import numpy as np

from rgpt.errors import InputError

_FIRST_CHAR = 48  # '0'
_MORE, _SIGN, _LOW = 0x20, 0x10, 0x1F
_MAX_CHARS_PER_RUN = 7  # 35 bits; runs are at most 10^8 and differences one bit more


def mask_to_runs(mask: np.ndarray) -> np.ndarray:
    """Runs (int64, [N]) of a bool mask [H, W], column-major, the first of zeros (perhaps of length 0)."""
    flat = np.asarray(mask, dtype=bool).T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], changes, [flat.size])))
    return np.concatenate(([0], runs)) if flat.size and flat[0] else runs


def runs_to_mask(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bool mask [height, width] of runs that are known to sum to height * width."""
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def compress(runs: np.ndarray) -> str:
    """The ASCII spelling of `runs`, the same characters pycocotools writes."""
    rest = np.array(runs, dtype=np.int64)
    rest[3:] -= np.asarray(runs, dtype=np.int64)[1:-2]
    chars = np.zeros((len(rest), _MAX_CHARS_PER_RUN), dtype=np.uint8)
    written = np.zeros(chars.shape, dtype=bool)
    open_ = np.ones(len(rest), dtype=bool)
    for place in range(_MAX_CHARS_PER_RUN):
        low = rest & _LOW
        rest = rest >> 5
        more = np.where(low & _SIGN, rest != -1, rest != 0)
        chars[:, place] = low + np.where(more, _MORE, 0) + _FIRST_CHAR
        written[:, place] = open_
        open_ = open_ & more
    return chars[written].tobytes().decode("ascii")


def decompress(text: str, thing: str = "RLE") -> np.ndarray:
    """Runs (int64, [N]) of the ASCII spelling; InputError when the string is not one."""

    def refuse(actual: str) -> InputError:
        return InputError.about(
            thing, "counts in COCO's compressed spelling", actual, "encode the mask again"
        )

    if not text:
        raise refuse("an empty string")
    if not text.isascii():
        raise refuse("a string with non-ASCII characters")
    codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - _FIRST_CHAR
    if ((codes < 0) | (codes > 63)).any():
        raise refuse(f"the character {text[int(np.argmax((codes < 0) | (codes > 63)))]!r}")
    last = (codes & _MORE) == 0
    if not last[-1]:
        raise refuse("a string cut off inside a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARS_PER_RUN:
        raise refuse(f"a number of {int(lengths.max())} characters")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & _LOW) << (5 * place), starts)
    values = values - np.where(codes[ends] & _SIGN, np.int64(1) << (5 * lengths), 0)
    # From the fourth on a run is stored as the difference to the run two before; the third is not.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def check_runs(runs: np.ndarray, height: int, width: int, thing: str = "RLE") -> None:
    """InputError unless the runs are >= 0, sum to height * width and contain at least one true pixel."""
    if len(runs) and int(runs.min()) < 0:
        raise InputError.about(thing, "runs of at least 0", str(int(runs.min())), "encode the mask again")
    # float first: a list of enormous numbers must not wrap around to the right sum
    total = float(runs.astype(np.float64).sum())
    if total != height * width:
        raise InputError.about(
            thing,
            f"counts that sum to {height} x {width} = {height * width}",
            f"{total:.0f}",
            "check that size is [height, width] and that counts belong to it",
        )
    if not runs[1::2].any():
        raise InputError.about(thing, "at least one true pixel", "an empty mask", "mark something")

"""Small made pictures whose every region has a known name, for learning checks that end within minutes."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rgpt.regions import Box

COLOURS = {"red": (0.9, 0.15, 0.15), "green": (0.15, 0.8, 0.2), "blue": (0.2, 0.25, 0.9)}
PATTERNS = ("plain", "rows", "columns", "checks")
NAMES = [f"{colour} {pattern}" for colour in COLOURS for pattern in PATTERNS]
HELD_OUT = ["red columns", "green checks", "blue rows"]
TRAINED = [name for name in NAMES if name not in HELD_OUT]


def patch(name: str, height: int, width: int, phase: int = 0) -> np.ndarray:
    """`[height, width, 3]` of a colour in a pattern of four pixels."""
    colour, pattern = name.split()
    y, x = np.mgrid[0:height, 0:width] + phase
    dark = {
        "plain": np.zeros((height, width), bool),
        "rows": y // 4 % 2 == 0,
        "columns": x // 4 % 2 == 0,
        "checks": (y // 4 + x // 4) % 2 == 0,
    }[pattern]
    return np.where(dark[..., None], 0.25, 1.0) * np.array(COLOURS[colour])


def to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def scene(
    rng: np.random.Generator, names: list[str], side: int = 64, grid: int = 2
) -> tuple[Image.Image, list[Box], list[str]]:
    """A noisy picture with one patch in each of the cells of a grid, but for the last cell of a 2 x 2."""
    pixels = rng.normal(0.5, 0.06, (side, side, 3))
    cell, boxes, said = side // grid, [], []
    cells = list(itertools.product(range(grid), range(grid)))
    rng.shuffle(cells)
    for row, column in cells[: max(1, len(cells) - 1)] if grid == 2 else cells:
        height, width = rng.integers(cell // 2 + 2, cell - 1, 2)
        top = row * cell + int(rng.integers(0, cell - height))
        left = column * cell + int(rng.integers(0, cell - width))
        name = str(rng.choice(names))
        pixels[top : top + height, left : left + width] = patch(name, height, width, int(rng.integers(0, 8)))
        boxes.append(Box(left, top, left + int(width), top + int(height)))
        said.append(name)
    return to_image(pixels + rng.normal(0, 0.02, pixels.shape)), boxes, said


PAIR_COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.9], [0.9, 0.85, 0.1]])
PAIRS = list(itertools.permutations(range(4), 2))
PAIR_CLASSES = 2 * len(PAIRS)  # ordered colour pair, side by side or one above the other: 24


def pair_tiles(labels: Tensor, generator: torch.Generator, side: int = 24) -> Tensor:
    """`[N]` labels -> `[N, 3, side, side]`: two colours whose arrangement decides the class, at a random
    place."""
    tiles = 0.5 + 0.05 * torch.randn(len(labels), 3, side, side, generator=generator)
    for i, label in enumerate(labels.tolist()):
        pair, upright = PAIRS[label // 2], label % 2
        size = int(torch.randint(16, 21, (1,), generator=generator))
        top, left = torch.randint(0, side - size + 1, (2,), generator=generator).tolist()
        half = size // 2
        first, second = (PAIR_COLOURS[c][:, None, None] for c in pair)
        if upright:
            tiles[i, :, top : top + half, left : left + size] = first
            tiles[i, :, top + half : top + size, left : left + size] = second
        else:
            tiles[i, :, top : top + size, left : left + half] = first
            tiles[i, :, top : top + size, left + half : left + size] = second
    return tiles + 0.03 * torch.randn(tiles.shape, generator=generator)

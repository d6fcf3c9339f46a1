"""Drawn scenes as arrays on disk, so that an epoch costs no drawing.

A store is a folder of shards. Shard k holds the scenes of seeds `first + k * SHARD …`: the same seeds give
the same store on any machine, and readers may start while the writer is still drawing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from rgpt.data.scenes import COLOURS, SHAPES, SIZES, TEXTURES, DrawnScene, Scene, SceneObject, draw_scene
from rgpt.files import whole_file
from rgpt.regions import area_weights, box_shares, square_padding
from rgpt.regions.square import to_pixels

IMAGE_SIZE = 96
GRID = 48
"""Cells along a side of the refined grid: the tower's 12 × 4."""
MAX_OBJECTS = 6
SHARD = 1024
IMAGE_MEAN = (0.5, 0.5, 0.5)
IMAGE_STD = (0.25, 0.25, 0.25)
SCALES = (2.0, 2.0, 2.0, 1.5, 3.0)
"""Pixels a logical unit when drawing: pictures of several sizes, so that several resizings lead to 96 px."""


@dataclass
class Shard:
    """Arrays of n scenes; row i of each belongs to seed `seeds[i]`.

    images: uint8 `[n, 96, 96, 3]`, padded to a square.
    masks: uint8 `[n, 6, 48, 48]`, area fraction × 255 of each cell.
    boxes: float32 `[n, 6, 4]`, x1 y1 x2 y2 in cells of that grid.
    attributes: int8 `[n, 6, 4]`, indices of shape, colour, texture, size.
    places: float32 `[n, 6, 4]`: x, y, radius, angle in logical units.
    counts: int8 `[n]`. sizes: int16 `[n, 2]`, width and height in logical units.
    """

    seeds: np.ndarray
    images: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    attributes: np.ndarray
    places: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray

    def scene(self, i: int) -> Scene:
        """The truth of row i, without drawing it again."""
        objects = tuple(
            SceneObject(SHAPES[a[0]], COLOURS[a[1]], TEXTURES[a[2]], SIZES[a[3]], *map(float, p))
            for a, p in zip(self.attributes[i, : self.counts[i]], self.places[i], strict=False)
        )
        return Scene(int(self.seeds[i]), int(self.sizes[i, 0]), int(self.sizes[i, 1]), objects)


def picture_array(image: Image.Image) -> np.ndarray:
    """RGB picture -> uint8 `[96, 96, 3]`: the processor's own padding and resizing, not yet normalised."""
    values = to_pixels(image, IMAGE_SIZE, mean=(0.0,) * 3, std=(1.0,) * 3, fill=IMAGE_MEAN)
    return np.round(255 * values).astype(np.uint8).transpose(1, 2, 0)


def _row(drawn: DrawnScene) -> dict[str, Any]:
    """One row of every array of a `Shard`."""
    side, offset = square_padding(drawn.image.height, drawn.image.width)
    masks = np.zeros((MAX_OBJECTS, GRID, GRID), np.uint8)
    boxes = np.zeros((MAX_OBJECTS, 4), np.float32)
    attributes = np.zeros((MAX_OBJECTS, 4), np.int8)
    places = np.zeros((MAX_OBJECTS, 4), np.float32)
    for i, o in enumerate(drawn.objects):
        masks[i] = np.round(255 * area_weights(o.mask, side, offset, GRID))
        corners = np.array([o.box.x1, o.box.y1, o.box.x2, o.box.y2]) + np.array([*offset, *offset])
        boxes[i] = corners * GRID / side
        s = o.scene_object
        attributes[i] = (
            SHAPES.index(s.shape),
            COLOURS.index(s.colour),
            TEXTURES.index(s.texture),
            SIZES.index(s.size),
        )
        places[i] = s.x, s.y, s.radius, s.angle
    return {
        "seeds": np.int64(drawn.scene.seed),
        "images": picture_array(drawn.image),
        "masks": masks,
        "boxes": boxes,
        "attributes": attributes,
        "places": places,
        "counts": np.int8(len(drawn.objects)),
        "sizes": np.array([drawn.scene.width, drawn.scene.height], np.int16),
    }


def write_store(folder: Path, first_seed: int, count: int) -> None:
    """Draw `count` scenes into `folder`; shards that are already there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = tqdm(total=count, desc="drawing scenes", unit="scene", mininterval=2)
    for start in range(0, count, SHARD):
        target = folder / f"{start // SHARD:05d}.npz"
        seeds = range(first_seed + start, first_seed + min(start + SHARD, count))
        if not target.exists():
            rows = [_row(draw_scene(seed, scale=random.Random(seed).choice(SCALES))) for seed in seeds]
            arrays: dict[str, Any] = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
            with whole_file(target) as partial:
                np.savez(partial, **arrays)
        progress.update(len(seeds))
    progress.close()


def read_shards(folder: Path) -> Iterator[Shard]:
    """Every finished shard of a store, in order."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            yield Shard(**{key: arrays[key] for key in arrays.files})


def pixel_values(images: np.ndarray) -> np.ndarray:
    """uint8 `[n, 96, 96, 3]` -> normalised float32 `[n, 3, 96, 96]`."""
    values = (images.astype(np.float32) / 255.0 - np.array(IMAGE_MEAN, np.float32)) / np.array(
        IMAGE_STD, np.float32
    )
    return values.transpose(0, 3, 1, 2)


def region_weights(
    shard: Shard, rows: np.ndarray, rng: np.random.Generator, loose: bool = False
) -> np.ndarray:
    """float32 `[n, 6, 48, 48]`: each region as its mask or, half of the time, as its box [A].

    `loose` adds what a hand draws [D]: of the boxes most have every side off by up to a fifth of the object,
    and of the masks a quarter is a stripe through the object, as a brush would paint it.
    """
    masks, boxes = shard.masks[rows].astype(np.float32) / 255.0, shard.boxes[rows]
    as_box = rng.random(masks.shape[:2]) < 0.5
    if loose:
        off = rng.uniform(-0.1, 0.2, boxes.shape) * (rng.random(masks.shape[:2]) < 0.7)[..., None]
        extent = np.concatenate([boxes[..., 2:] - boxes[..., :2]] * 2, -1)
        boxes = boxes + off.astype(np.float32) * extent * np.array([-1, -1, 1, 1], np.float32)
        striped = rng.random(masks.shape[:2]) < 0.25
        masks = np.where(striped[..., None, None], _stripes(masks, shard.boxes[rows], rng), masks)
    edges = np.arange(GRID + 1, dtype=np.float32)
    return np.where(as_box[..., None, None], box_shares(boxes, edges, edges), masks)


def _stripes(masks: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of each mask `[n, 6, 48, 48]` the part in a stripe through the middle of its box, at a random angle."""
    cells = np.arange(GRID, dtype=np.float32) + 0.5
    angle = rng.uniform(0, np.pi, masks.shape[:2]).astype(np.float32)[..., None, None]
    x = cells[None, None, None, :] - ((boxes[..., 0] + boxes[..., 2]) / 2)[..., None, None]
    y = cells[None, None, :, None] - ((boxes[..., 1] + boxes[..., 3]) / 2)[..., None, None]
    half = np.maximum(0.2 * (boxes[..., 2:] - boxes[..., :2]).max(-1), 1.0)[..., None, None]
    inside = np.abs(x * np.sin(angle) - y * np.cos(angle)) < half
    part = masks * inside
    return np.where(part.sum((-1, -2), keepdims=True) > 0, part, masks)

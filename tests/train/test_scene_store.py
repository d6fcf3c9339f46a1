"""Scenes on disk are the drawn scenes: pictures, masks, boxes, truth."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from rgpt.data.scenes import draw_scene
from rgpt.regions import box_shares
from rgpt.train.tiny import scene_store
from rgpt.train.tiny.scene_store import GRID, SCALES, Shard, read_shards, write_store

FIRST, COUNT = 5_000_000, 21


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_store, "SHARD", 8)
        write_store(folder, FIRST, COUNT)
    return folder


@pytest.fixture(scope="module")
def shards(store: Path) -> list[Shard]:
    return list(read_shards(store))


def rows_of(shards: list[Shard]):
    return ((shard, i) for shard in shards for i in range(len(shard.seeds)))


def drawn_of(shard: Shard, i: int):
    seed = int(shard.seeds[i])
    return draw_scene(seed, random.Random(seed).choice(SCALES))


def test_every_seed_is_there_once_in_order(store: Path, shards: list[Shard]) -> None:
    assert [len(shard.seeds) for shard in shards] == [8, 8, 5]
    assert np.concatenate([s.seeds for s in shards]).tolist() == list(range(FIRST, FIRST + COUNT))
    assert sorted(path.name for path in store.iterdir()) == ["00000.npz", "00001.npz", "00002.npz"]


def test_shapes_and_types_are_as_documented(shards: list[Shard]) -> None:
    n = len(shards[0].seeds)
    assert {key: (str(a.dtype), a.shape) for key, a in vars(shards[0]).items()} == {
        "seeds": ("int64", (n,)),
        "images": ("uint8", (n, 96, 96, 3)),
        "masks": ("uint8", (n, 6, 48, 48)),
        "boxes": ("float32", (n, 6, 4)),
        "attributes": ("int8", (n, 6, 4)),
        "places": ("float32", (n, 6, 4)),
        "counts": ("int8", (n,)),
        "sizes": ("int16", (n, 2)),
    }


def test_scene_is_the_drawn_truth(shards: list[Shard]) -> None:
    for shard, i in rows_of(shards):
        truth, read = drawn_of(shard, i).scene, shard.scene(i)
        assert (read.seed, read.width, read.height) == (truth.seed, truth.width, truth.height)
        assert [o.phrase for o in read.objects] == [o.phrase for o in truth.objects]
        for a, b in zip(read.objects, truth.objects, strict=True):
            assert np.allclose((a.x, a.y, a.radius, a.angle), (b.x, b.y, b.radius, b.angle), atol=1e-4)


def test_masks_are_the_drawn_masks(shards: list[Shard]) -> None:
    for shard, i in rows_of(shards):
        drawn = drawn_of(shard, i)
        side = max(drawn.image.size)
        for j, o in enumerate(drawn.objects):
            area = shard.masks[i, j].sum() / 255 * (side / GRID) ** 2
            assert abs(area - o.mask.sum()) < 0.01 * o.mask.sum()
        assert not shard.masks[i, len(drawn.objects) :].any()
        assert shard.counts[i] == len(drawn.objects)


def test_masks_lie_in_their_boxes_and_boxes_are_tight(shards: list[Shard]) -> None:
    for shard, i in rows_of(shards):
        for j in range(shard.counts[i]):
            rows, columns = np.nonzero(shard.masks[i, j].any(1))[0], np.nonzero(shard.masks[i, j].any(0))[0]
            found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert np.abs(np.array(found) - shard.boxes[i, j]).max() < 1


def test_pictures_show_the_scene_where_the_masks_are(shards: list[Shard]) -> None:
    """Halved to the grid, an object's cells have the colour the drawn picture has there."""
    for shard, i in rows_of(shards):
        drawn = drawn_of(shard, i)
        cells = shard.images[i].reshape(GRID, 2, GRID, 2, 3).mean((1, 3))
        for j, o in enumerate(drawn.objects):
            full = shard.masks[i, j] == 255
            if full.sum() >= 12 and o.texture == "plain":
                assert np.abs(cells[full].mean(0) - np.asarray(drawn.image)[o.mask].mean(0)).max() < 6


def test_written_twice_it_is_the_same(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_store, "SHARD", 8)
    write_store(tmp_path, FIRST, COUNT)
    for again, first in zip(read_shards(tmp_path), read_shards(store), strict=True):
        for key, array in vars(first).items():
            assert np.array_equal(getattr(again, key), array), key


def test_finished_shards_are_kept_and_missing_ones_drawn(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_store, "SHARD", 8)
    (tmp_path / "00000.npz").write_bytes((store / "00000.npz").read_bytes())
    (tmp_path / "00002.npz").write_bytes((store / "00002.npz").read_bytes())
    (tmp_path / "00001.partial").write_bytes(b"half a shard")
    write_store(tmp_path, FIRST, COUNT)
    seeds = np.concatenate([shard.seeds for shard in read_shards(tmp_path)])
    assert seeds.tolist() == list(range(FIRST, FIRST + COUNT))


def test_regions_are_masks_or_boxes_about_half_and_half(shards: list[Shard]) -> None:
    shard, rng = shards[0], np.random.default_rng(0)
    rows, edges = np.arange(len(shard.seeds)), np.arange(GRID + 1, dtype=np.float32)
    as_mask = as_box = 0
    for _ in range(20):
        weights = scene_store.region_weights(shard, rows, rng)
        assert weights.dtype == np.float32 and weights.min() >= 0 and weights.max() <= 1
        for i in rows:
            for j in range(shard.counts[i]):
                mask = shard.masks[i, j].astype(np.float32) / 255
                box = box_shares(shard.boxes[i, j], edges, edges)
                assert np.array_equal(weights[i, j], mask) or np.array_equal(weights[i, j], box)
                as_mask += np.array_equal(weights[i, j], mask)
                as_box += np.array_equal(weights[i, j], box)
    assert 0.4 < as_box / (as_mask + as_box) < 0.6


def test_pixel_values_are_normalised_channels_first() -> None:
    images = np.zeros((1, 96, 96, 3), np.uint8)
    images[0, 10, 20] = (255, 0, 51)
    values = scene_store.pixel_values(images)
    assert values.shape == (1, 3, 96, 96) and values.dtype == np.float32
    assert np.allclose(values[0, :, 10, 20], (2.0, -2.0, -1.2), atol=1e-6) and values[0, 0, 0, 0] == -2.0

"""Drawn scenes: a seed decides everything, masks are exact, colours are what the truth says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from rgpt.data import scenes
from rgpt.data.scenes import (
    COLOURS,
    RADIUS,
    RGB,
    SHAPES,
    SIDE,
    SIZES,
    TEXTURES,
    DrawnScene,
    draw_scene,
    sample_scene,
)
from rgpt.regions import Mask

SEEDS = range(7_000_000, 7_000_080)
SCALE = 2.0


@cache
def drawn_scenes() -> list[DrawnScene]:
    return [draw_scene(seed, SCALE) for seed in SEEDS]


def whole_masks(scene: DrawnScene) -> list[np.ndarray]:
    """Each object drawn alone, as if nothing were in front of it."""
    return [scenes._object_mask(o, scene.image.size, SCALE) for o in scene.scene.objects]


def objects() -> Iterator[tuple[np.ndarray, scenes.DrawnObject]]:
    """(picture [H, W, 3], object) of every object."""
    for scene in drawn_scenes():
        pixels = np.asarray(scene.image).astype(np.float64)
        for drawn in scene.objects:
            yield pixels, drawn


def test_same_seed_same_picture_bit_for_bit() -> None:
    for first in drawn_scenes()[:10]:
        again = draw_scene(first.scene.seed, SCALE)
        assert again.image.tobytes() == first.image.tobytes() and again.scene == first.scene
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(again.objects, first.objects, strict=True))


def test_other_seeds_other_pictures() -> None:
    assert len({scene.image.tobytes() for scene in drawn_scenes()}) == len(SEEDS)
    assert len({sample_scene(seed).objects for seed in range(500)}) == 500


def test_global_random_state_plays_no_part() -> None:
    np.random.seed(1)
    first = draw_scene(3, SCALE).image.tobytes()
    np.random.seed(2)
    assert draw_scene(3, SCALE).image.tobytes() == first


def test_masks_are_disjoint_and_of_the_pictures_size() -> None:
    for scene in drawn_scenes():
        stacked = np.stack([o.mask for o in scene.objects])
        assert stacked.dtype == bool and stacked.shape[1:] == (scene.image.height, scene.image.width)
        assert stacked.sum(axis=0).max() == 1


def test_a_mask_is_the_visible_part_and_most_of_the_object() -> None:
    for scene in drawn_scenes():
        whole = whole_masks(scene)
        for i, drawn in enumerate(scene.objects):
            in_front = np.any(whole[i + 1 :], axis=0) if whole[i + 1 :] else np.zeros_like(whole[i])
            assert np.array_equal(drawn.mask, whole[i] & ~in_front)
            assert drawn.mask.sum() >= 0.65 * whole[i].sum()


def test_boxes_are_tight() -> None:
    for _, drawn in objects():
        assert drawn.box == Mask(drawn.mask).bounds(*drawn.mask.shape)


def test_plain_objects_have_their_colour() -> None:
    """Mean colour of the mask's pixels: within the jitter of 12 a channel, and nearest to the right name."""
    seen = Counter()
    for pixels, drawn in objects():
        if drawn.texture == "plain":
            mean = pixels[drawn.mask].mean(axis=0)
            assert np.abs(mean - RGB[drawn.colour]).max() < 15, (drawn.colour, mean)
            distances = {name: float(np.linalg.norm(mean - rgb)) for name, rgb in RGB.items()}
            assert min(distances, key=distances.__getitem__) == drawn.colour
            seen[drawn.colour] += 1
    assert set(seen) == set(COLOURS)


def test_textures_darken_a_part_and_leave_the_colour() -> None:
    shares = {"striped": [], "dotted": []}
    for pixels, drawn in objects():
        if drawn.texture in shares:
            inside = pixels[drawn.mask]
            reference = np.array(RGB[drawn.colour])
            bright = inside[inside.sum(axis=1) > 0.7 * reference.sum()]
            assert np.abs(np.median(bright, axis=0) - reference).max() < 15
            shares[drawn.texture].append(1 - len(bright) / len(inside))
    assert 0.3 < np.mean(shares["striped"]) < 0.7 and min(shares["striped"]) > 0.1
    assert 0.1 < np.mean(shares["dotted"]) < 0.4 and min(shares["dotted"]) > 0.02


def test_nothing_outside_the_masks_looks_like_an_object() -> None:
    """The background is muted: no pixel of it is as saturated as the least saturated object's colour."""
    for scene in drawn_scenes():
        covered = np.any([o.mask for o in scene.objects], axis=0)
        rest = np.asarray(scene.image).astype(np.int64)[~covered]
        assert np.percentile(rest.max(axis=1) - rest.min(axis=1), 99.9) < 110


def test_everything_occurs() -> None:
    drawn = [o for seed in range(300) for o in sample_scene(seed).objects]
    for name, known in (("shape", SHAPES), ("colour", COLOURS), ("texture", TEXTURES), ("size", SIZES)):
        counts = Counter(getattr(o, name) for o in drawn)
        assert set(counts) == set(known)
        if name != "size":  # large objects fit in less often
            assert min(counts.values()) > 0.6 * len(drawn) / len(known)
    assert {len(sample_scene(seed).objects) for seed in range(300)} == {2, 3, 4, 5, 6}
    assert {sample_scene(seed).width > sample_scene(seed).height for seed in range(50)} == {True, False}


def test_sizes_do_not_meet_and_objects_stay_inside() -> None:
    for seed in range(200):
        scene = sample_scene(seed)
        assert max(scene.width, scene.height) == SIDE
        for o in scene.objects:
            low, high = RADIUS[o.size]
            assert low <= o.radius <= high
            assert o.radius < o.x < scene.width - o.radius and o.radius < o.y < scene.height - o.radius
    spans = [RADIUS[size] for size in SIZES]
    assert all(a[1] < b[0] for a, b in pairwise(spans))


def test_crowded_scenes_exist_and_overlap() -> None:
    overlapping = 0
    for scene in drawn_scenes():
        if len(scene.objects) > 1:
            overlapping += bool(np.sum(whole_masks(scene), axis=0).max() > 1)
    assert 0.05 * len(SEEDS) < overlapping < 0.6 * len(SEEDS)
    crowded = [
        seed
        for seed in range(200)
        for a in sample_scene(seed).objects
        for b in sample_scene(seed).objects
        if a is not b and a.radius + b.radius > math.hypot(a.x - b.x, a.y - b.y) > 0
    ]
    assert 0.1 * 200 < len(set(crowded)) < 0.5 * 200


@pytest.mark.parametrize("scale", [1.5, 3.0, 4.0])
def test_scale_changes_the_size_only(scale: float) -> None:
    for other in drawn_scenes()[:12]:
        scaled = draw_scene(other.scene.seed, scale)
        assert scaled.scene == other.scene
        assert scaled.image.size == (round(other.scene.width * scale), round(other.scene.height * scale))
        for a, b in zip(scaled.objects, other.objects, strict=True):
            moved = Image.fromarray(b.mask).resize(scaled.image.size, Image.Resampling.NEAREST)
            both = np.asarray(moved)
            assert (a.mask & both).sum() / (a.mask | both).sum() > 0.65
            assert np.allclose(a.box.xyxy, np.array(b.box.xyxy) * scale / SCALE, atol=1.5 * scale)


def test_the_number_of_objects_can_be_asked_for() -> None:
    for seed in range(30):
        assert 5 <= len(sample_scene(seed, min_objects=5, max_objects=5).objects) <= 5
    assert len(draw_scene(1, SCALE, min_objects=1, max_objects=1).objects) == 1


def test_every_shape_has_an_outline_in_the_unit_frame() -> None:
    for shape in SHAPES:
        points = np.array(scenes.outline(shape))
        assert points.ndim == 2 and points.shape[1] == 2 and len(points) >= 4 - (shape == "triangle")
        assert 0.8 < np.abs(points).max() < 1.25
    with pytest.raises(ValueError, match="unknown shape 'moon'"):
        scenes.outline("moon")


def test_a_ring_has_a_hole_and_a_circle_has_none() -> None:
    for _, drawn in objects():
        o = drawn.scene_object
        if (
            o.shape in ("ring", "circle")
            and drawn.mask.sum() > 0.95 * math.pi * (o.radius * SCALE) ** 2 * 0.7
        ):
            assert drawn.mask[int(o.y * SCALE), int(o.x * SCALE)] == (o.shape == "circle")

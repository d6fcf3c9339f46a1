"""Drawn scenes: simple shapes on cluttered backgrounds, with exact masks and known truth.

The embedded model `tiny` is trained and measured on these pictures, the app shows them as examples, and tests
use them as pictures whose right answers are known. A scene is decided by its seed alone.

Two steps, so that text-only work never pays for drawing:

* `sample_scene(seed)` decides what is where (`Scene`: objects in logical units);
* `draw_scene(seed)` also draws it (`DrawnScene`: an RGB picture and one exact visible mask an object).

Logical units: the longer side of a picture is `SIDE` = 96 units, x right, y down. Pixels = units × `scale`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

from rgpt.regions import Box

SIDE = 96
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "bar")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "cyan", "white")
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "medium", "large")
RADIUS = {"small": (5.5, 7.0), "medium": (9.0, 11.0), "large": (14.0, 17.0)}

RGB = {
    "red": (214, 34, 38),
    "green": (40, 160, 52),
    "blue": (36, 70, 208),
    "yellow": (244, 220, 40),
    "orange": (244, 136, 24),
    "purple": (134, 44, 172),
    "cyan": (54, 206, 218),
    "white": (244, 244, 244),
}
ASPECTS = ((96, 96), (96, 96), (96, 72), (72, 96), (96, 60), (84, 96))
MIN_VISIBLE = 0.65
"""An object keeps at least this share of its own mask visible; below it even a person would have to guess."""


@dataclass(frozen=True)
class SceneObject:
    """One object. `x, y` is the centre and `radius` the half extent, in logical units; `angle` in radians."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    radius: float
    angle: float

    @property
    def phrase(self) -> str:
        """All four attributes: "small red striped circle" (plain is said too, so that it can be wrong)."""
        return f"{self.size} {self.colour} {self.texture} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What is where, back to front. `width, height` in logical units."""

    seed: int
    width: int
    height: int
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class DrawnObject:
    """An object of a drawn scene; `mask [H, W]` is its visible part in pixels of the picture."""

    scene_object: SceneObject
    mask: np.ndarray = field(repr=False)

    @property
    def shape(self) -> str:
        return self.scene_object.shape

    @property
    def colour(self) -> str:
        return self.scene_object.colour

    @property
    def texture(self) -> str:
        return self.scene_object.texture

    @property
    def size(self) -> str:
        return self.scene_object.size

    @cached_property
    def box(self) -> Box:
        """Tight box of the visible part, half-open pixels of the picture."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


@dataclass(frozen=True)
class DrawnScene:
    """A scene, its RGB picture and its objects with masks, in the order of `scene.objects`."""

    scene: Scene
    image: Image.Image = field(repr=False)
    objects: tuple[DrawnObject, ...]


def sample_scene(seed: int, min_objects: int = 2, max_objects: int = 6) -> Scene:
    """Decide a scene: `min_objects`..`max_objects` objects, spread out or crowded (overlapping, touching)."""
    rng = random.Random(seed)
    width, height = rng.choice(ASPECTS)
    crowded = rng.random() < 0.35
    wanted = rng.randint(min_objects, max_objects)
    objects: list[SceneObject] = []
    for _ in range(wanted * 25):
        if len(objects) == wanted:
            break
        size = rng.choice(SIZES)
        radius = rng.uniform(*RADIUS[size])
        candidate = SceneObject(
            shape=rng.choice(SHAPES),
            colour=rng.choice(COLOURS),
            texture=rng.choice(TEXTURES),
            size=size,
            x=rng.uniform(radius + 1, width - radius - 1),
            y=rng.uniform(radius + 1, height - radius - 1),
            radius=radius,
            angle=rng.uniform(-0.35, 0.35) if rng.random() < 0.8 else rng.uniform(-math.pi, math.pi),
        )
        if all(_apart(candidate, other, crowded) for other in objects):
            objects.append(candidate)
    return Scene(seed, width, height, tuple(objects))


def _apart(a: SceneObject, b: SceneObject, crowded: bool) -> bool:
    """Whether two objects may stand together. Crowded discs overlap by up to 60% of the smaller radius."""
    distance = math.hypot(a.x - b.x, a.y - b.y)
    if crowded:
        return distance >= max(a.radius, b.radius) + 0.4 * min(a.radius, b.radius)
    return distance >= a.radius + b.radius + 1.5


def outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape in a unit frame (radius 1, y down); a ring is a circle whose hole is cut later."""
    if shape in ("circle", "ring"):
        return [(math.cos(t), math.sin(t)) for t in np.linspace(0, 2 * math.pi, 48, endpoint=False)]
    if shape == "square":
        return [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]
    if shape == "triangle":
        return [(0.0, -1.0), (0.95, 0.8), (-0.95, 0.8)]
    if shape == "star":
        return [
            (
                (1.05 if i % 2 == 0 else 0.44) * math.sin(i * math.pi / 5),
                -(1.05 if i % 2 == 0 else 0.44) * math.cos(i * math.pi / 5),
            )
            for i in range(10)
        ]
    if shape == "cross":
        a, b = 0.32, 1.0
        return [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    if shape == "heart":
        t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        return list(zip((x / 16.5).tolist(), ((y + 2) / 15.5).tolist(), strict=True))
    if shape == "bar":
        return [(-1.0, -0.24), (1.0, -0.24), (1.0, 0.24), (-1.0, 0.24)]
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


def draw_scene(seed: int, scale: float = 4.0, min_objects: int = 2, max_objects: int = 6) -> DrawnScene:
    """Draw the scene of `seed`.

    Args:
        scale: pixels a logical unit; 4 gives a picture of at most 384 px a side.

    An object whose visible share falls under `MIN_VISIBLE` is left out of the drawing and of the truth.
    """
    scene = sample_scene(seed, min_objects, max_objects)
    size = (round(scene.width * scale), round(scene.height * scale))
    kept = list(scene.objects)
    while True:
        full = [_object_mask(o, size, scale) for o in kept]
        visible = _visible_masks(full)
        shares = [v.sum() / max(1, f.sum()) for v, f in zip(visible, full, strict=True)]
        worst = min(range(len(kept)), key=shares.__getitem__)
        if shares[worst] >= MIN_VISIBLE:
            break
        kept.pop(worst)
    rng = np.random.default_rng(seed)
    canvas = _background(size, scale, rng)
    for scene_object, mask in zip(kept, full, strict=True):
        _paint(canvas, scene_object, mask, scale, rng)
    canvas += rng.normal(0, 3.0, canvas.shape[:2])[..., None]
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8), "RGB")
    drawn = tuple(DrawnObject(o, m) for o, m in zip(kept, visible, strict=True))
    return DrawnScene(Scene(seed, scene.width, scene.height, tuple(kept)), image, drawn)


def _object_mask(o: SceneObject, size: tuple[int, int], scale: float) -> np.ndarray:
    """Boolean mask `[H, W]` of the whole object, hidden parts included."""
    stretch = 1.35 if o.shape == "bar" else 1.0  # a bar is thin: longer, so that its area is not a speck
    cos, sin = math.cos(o.angle) * o.radius * stretch, math.sin(o.angle) * o.radius * stretch
    points = [
        ((o.x + px * cos - py * sin) * scale, (o.y + px * sin + py * cos) * scale)
        for px, py in outline(o.shape)
    ]
    mask = Image.new("L", size, 0)
    draw = ImageDraw.Draw(mask)
    draw.polygon(points, fill=1)
    if o.shape == "ring":
        r = o.radius * 0.52 * scale
        draw.ellipse((o.x * scale - r, o.y * scale - r, o.x * scale + r, o.y * scale + r), fill=0)
    return np.asarray(mask, dtype=bool)


def _visible_masks(full: list[np.ndarray]) -> list[np.ndarray]:
    """Each mask less everything drawn after it (objects are painted back to front)."""
    covered = np.zeros_like(full[0])
    visible: list[np.ndarray] = []
    for mask in reversed(full):
        visible.append(mask & ~covered)
        covered |= mask
    return visible[::-1]


def _background(size: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Muted ground `[H, W, 3]` float32: gradient, soft blotches and clutter (thin lines and specks)."""
    width, height = size
    grey = rng.uniform(60, 170)
    base = grey + rng.uniform(-22, 22, 3)
    tilt = rng.uniform(-28, 28, 2)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    ground = base + (x[..., None] / width - 0.5) * tilt[0] + (y[..., None] / height - 0.5) * tilt[1]
    blotches = Image.fromarray(rng.uniform(-16, 16, (7, 7)).astype(np.float32)).resize(
        size, Image.Resampling.BICUBIC
    )
    ground = ground + np.asarray(blotches)[..., None]
    clutter = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8), "RGB")
    draw = ImageDraw.Draw(clutter)
    for _ in range(int(rng.integers(0, 22))):
        tone = tuple(int(v) for v in np.clip(base + rng.uniform(-45, 45) + rng.uniform(-12, 12, 3), 0, 255))
        x0, y0 = rng.uniform(0, width), rng.uniform(0, height)
        if rng.random() < 0.5:
            dx, dy = rng.uniform(-14, 14, 2) * scale
            draw.line((x0, y0, x0 + dx, y0 + dy), fill=tone, width=max(1, round(0.7 * scale)))
        else:
            r = rng.uniform(0.5, 1.6) * scale
            draw.ellipse((x0 - r, y0 - r, x0 + r, y0 + r), fill=tone)
    return np.array(clutter, dtype=np.float32)


def _paint(
    canvas: np.ndarray, o: SceneObject, mask: np.ndarray, scale: float, rng: np.random.Generator
) -> None:
    """Paint one object's texture into `canvas [H, W, 3]` where `mask [H, W]` is true."""
    rows, columns = np.nonzero(mask)
    colour = np.clip(np.array(RGB[o.colour], np.float32) + rng.uniform(-12, 12, 3), 0, 255)
    pixels = np.repeat(colour[None], len(rows), 0)
    phase, turn = rng.uniform(0, 2 * math.pi), rng.uniform(0, math.pi)
    u = (columns / scale) * math.cos(turn) + (rows / scale) * math.sin(turn)
    v = -(columns / scale) * math.sin(turn) + (rows / scale) * math.cos(turn)
    period = rng.uniform(4.2, 5.2)
    if o.texture == "striped":
        pixels[np.sin(u * 2 * math.pi / period + phase) > 0] *= 0.42
    elif o.texture == "dotted":
        dots = (np.sin(u * 2 * math.pi / period + phase) + np.sin(v * 2 * math.pi / period + phase)) > 0.85
        pixels[dots] *= 0.30
    canvas[rows, columns] = pixels

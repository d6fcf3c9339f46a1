"""Drawn scenes as a source of examples: whole scenes with named regions, or captioned cuts of one object."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image

from rgpt.data.scenes import COLOURS, SHAPES, TEXTURES, DrawnObject, draw_scene
from rgpt.errors import InputError
from rgpt.recognizers.region_set import RegionSet
from rgpt.regions import Box, Mask
from rgpt.train.recognizers.example import Example

FIRST_TRAINING_SEED = 1_000_000  # evaluation's scenes begin at 3,000,000,000
SCENES = 1_000_000
CROPS_A_SCENE = 4  # drawing a scene costs more than cutting an object out of it


def phrases() -> list[str]:
    """The names that drawn scenes train with: shapes, colour and shape, colour, texture and shape."""
    pairs = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    return [*SHAPES, *pairs, *(f"{c} {t} {s}" for c in COLOURS for t in TEXTURES for s in SHAPES)]


def names_of(o: DrawnObject) -> tuple[str, ...]:
    """A drawn object's names, one of each kind in `phrases`."""
    return o.shape, f"{o.colour} {o.shape}", f"{o.colour} {o.texture} {o.shape}"


class Scenes:
    """Drawn scenes.

    Args:
        scale: pixels a logical unit, or the least and the most, drawn for each scene; a scene is at most 96
            units a side.
        regions: `box`, `mask` or `mixed`. count: of scenes, from `first` up.
        crop: pictures of a single object, cut with some of its surroundings, captioned; for pretraining.
        view: of a crop: the least and the most of a square's side, in longer sides of the object, which then
            lies anywhere in it; None cuts the box with up to a quarter more at each side.
        caption: of a crop: `full` ("red dotted ring"), or `mixed`, any of the object's names.
    """

    independent = True  # no scene says anything about the next: see `Batches`

    def __init__(
        self,
        name: str = "scenes",
        scale: float | Sequence[float] = 1.0,
        min_objects: int = 2,
        max_objects: int = 6,
        regions: str = "box",
        count: int = SCENES,
        first: int = FIRST_TRAINING_SEED,
        crop: bool = False,
        view: Sequence[float] | None = None,
        caption: str = "full",
    ) -> None:
        if caption not in ("full", "mixed"):
            raise InputError.about("caption of scenes", "full or mixed", repr(caption))
        if view is not None and not (len(view) == 2 and 1 <= view[0] <= view[1]):
            raise InputError.about(
                "view of scenes", "least and most, at least 1 (the object is seen whole)", repr(view)
            )
        if regions not in ("box", "mask", "mixed"):
            raise InputError.about("regions of scenes", "box, mask or mixed", repr(regions))
        scales = (scale, scale) if isinstance(scale, int | float) else tuple(scale)
        if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
            raise InputError.about("scale of scenes", "a number, or least and most", repr(scale))
        self.name, self.scales, self.kind, self.count, self.first = name, scales, regions, count, first
        self.objects, self.crop = (min_objects, max_objects), crop
        self.view, self.caption = view, caption
        self.names = phrases()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        if self.crop:
            number, place = divmod(index, CROPS_A_SCENE)
            scene = _drawn(self.first + number, self.scale(self.first + number), *self.objects)
            chosen = scene.objects[place % len(scene.objects)]
            return self._crop(scene.image, chosen, random.Random(f"crop {self.first} {index}"))
        seed = self.first + index
        scene = draw_scene(seed, self.scale(seed), *self.objects)
        rng = random.Random(f"regions {seed}")
        regions = []
        for o in scene.objects:
            kind = rng.choice(("box", "mask")) if self.kind == "mixed" else self.kind
            regions.append(Mask(o.mask) if kind == "mask" else o.box)
        own = RegionSet(tuple(regions), scene.image.height, scene.image.width, source="scenes")
        caption = " and ".join(names_of(o)[2] for o in scene.objects)
        return Example(scene.image, own, tuple(names_of(o) for o in scene.objects), caption)

    def scale(self, seed: int) -> float:
        """Pixels a unit of a scene."""
        return random.Random(f"scale {seed}").uniform(*self.scales)

    def _crop(self, image: Image.Image, o: DrawnObject, rng: random.Random) -> Example:
        width, height = o.box.x2 - o.box.x1, o.box.y2 - o.box.y1
        if self.view is None:
            grow = [rng.uniform(0.0, 0.25) * side for side in (width, height) * 2]
            left, top, right, bottom = (
                o.box.x1 - grow[0], o.box.y1 - grow[1], o.box.x2 + grow[2], o.box.y2 + grow[3]
            )  # fmt: skip
        else:
            side = max(width, height) * rng.uniform(*self.view)
            left, top = rng.uniform(o.box.x2 - side, o.box.x1), rng.uniform(o.box.y2 - side, o.box.y1)
            right, bottom = left + side, top + side
        x1, y1 = max(0, int(left)), max(0, int(top))
        x2, y2 = min(image.width, int(right + 1)), min(image.height, int(bottom + 1))
        cut = image.crop((x1, y1, x2, y2))
        inner = Box(o.box.x1 - x1, o.box.y1 - y1, o.box.x2 - x1, o.box.y2 - y1)
        own = RegionSet((inner,), cut.height, cut.width, source="scenes")
        names = names_of(o)
        return Example(cut, own, (names,), names[2] if self.caption == "full" else rng.choice(names))


_drawn = lru_cache(maxsize=2)(draw_scene)

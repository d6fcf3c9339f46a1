"""What recognizers learn from: pictures with named regions, or pictures with captions.

Every source is a sequence of `Example`s. `Batches` draws from several evenly; a batch is decided by its step
alone, so a run that resumes sees what it would have seen.
"""

from __future__ import annotations

import json
import random
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from rgpt.data.scenes import COLOURS, SHAPES, TEXTURES, DrawnObject, draw_scene
from rgpt.errors import InputError
from rgpt.recognizers.region_set import RegionSet
from rgpt.regions import Box, Frame, Mask, Region, open_image, region_from_json

FIRST_TRAINING_SEED = 1_000_000  # evaluation's scenes begin at 3,000,000,000
SCENES = 1_000_000
CROPS_A_SCENE = 4  # drawing a scene costs more than cutting an object out of it


@dataclass(frozen=True)
class Example:
    """A picture, its regions, each region's names (synonyms count together) and a caption (may be empty)."""

    image: Image.Image
    regions: RegionSet
    names: tuple[tuple[str, ...], ...] = ()
    caption: str = ""

    def flipped(self) -> Example:
        """Picture and regions mirrored together; a caption that says left or right is dropped."""
        frame = Frame(self.image, list(self.regions.regions)).flip_horizontal()
        moved = tuple(frame.regions[i] for i in sorted(frame.regions))
        caption = "" if re.search(r"\b(left|right)", self.caption, re.IGNORECASE) else self.caption
        own = replace_regions(self.regions, moved)
        return replace(self, image=frame.image, regions=own, caption=caption)


def replace_regions(old: RegionSet, regions: tuple[Region, ...]) -> RegionSet:
    """The same picture's set with other regions."""
    return RegionSet(regions, old.height, old.width, source=old.source)


class Source(Protocol):
    """A data set: examples by number, and all names that occur."""

    name: str
    names: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


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
            raise InputError.about(
                "caption of scenes", expected="full or mixed", actual=repr(caption), fix="choose one"
            )
        if view is not None and not (len(view) == 2 and 1 <= view[0] <= view[1]):
            raise InputError.about(
                "view of scenes",
                expected="least and most, at least 1 (the object is seen whole)",
                actual=repr(view),
                fix="correct it",
            )
        if regions not in ("box", "mask", "mixed"):
            raise InputError.about(
                "regions of scenes", expected="box, mask or mixed", actual=repr(regions), fix="choose one"
            )
        scales = (scale, scale) if isinstance(scale, int | float) else tuple(scale)
        if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
            raise InputError.about(
                "scale of scenes",
                expected="a number, or least and most",
                actual=repr(scale),
                fix="correct it",
            )
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


class Lines:
    """Byte offsets of a JSONL file's lines: random access without holding the file."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError.about(
                f"data {str(path)!r}", expected="a JSONL file", actual="none here", fix="check the spelling"
            )
        self.path, self.starts, offset = path, array("Q"), 0
        with open(path, "rb") as stream:
            for line in stream:
                if line.strip():
                    self.starts.append(offset)
                offset += len(line)
        if not self.starts:
            raise InputError.about(f"data {str(path)!r}", expected="lines", actual="none", fix="fill it")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with open(self.path, "rb") as stream:
            stream.seek(self.starts[index])
            try:
                value = json.loads(stream.readline())
            except ValueError as error:
                raise self.wrong(index, f"no JSON: {error}") from error
        if not isinstance(value, dict):
            raise self.wrong(index, "no object")
        return value

    def wrong(self, index: int, problem: str) -> InputError:
        return InputError(f"{self.path}, record {index + 1}: {problem}; repair or remove it.")


class Detections:
    """Detection records of the data recipes: `{"id", "image", "width", "height", "regions", "names"}` a line.

    Args:
        path: the JSONL file; pictures are relative to its folder.
        names: the data set's vocabulary as a list or a file of one name a line; absent: all names that occur,
            which reads the file once. Names with one text are merged (V3Det has 59 such).
        flip: mirror half of the pictures, with their regions; the same half every time, so that SAM tokens
            cached for the mirrored pixels are found again.
    """

    def __init__(self, path: str, name: str = "", names: Any = None, flip: bool = False) -> None:
        self.lines, self.flip = Lines(Path(path)), flip
        self.name = name or Path(path).stem
        self._names = names

    @cached_property
    def names(self) -> Sequence[str]:
        if isinstance(self._names, list):
            return self._names
        if self._names:
            from rgpt.recognizers.vocabulary import read_vocabulary

            return read_vocabulary(str(self._names)).given
        seen: dict[str, None] = {}
        for index in range(len(self.lines)):
            seen |= dict.fromkeys(self.lines[index].get("names", ()))
        return list(seen)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Example:
        row = self.lines[index]
        try:
            image = open_image(self.lines.path.parent / row["image"])
            regions = tuple(region_from_json(region) for region in row["regions"])
            if (image.width, image.height) != (row["width"], row["height"]) or len(regions) != len(
                row["names"]
            ):
                raise InputError(
                    f"{image.width} x {image.height} pixels and {len(regions)} regions do not fit the record"
                )
            own = RegionSet(regions, image.height, image.width, source=self.name)
        except (InputError, KeyError, TypeError) as error:
            raise self.lines.wrong(index, f"{type(error).__name__}: {error}") from error
        names = tuple((name,) if isinstance(name, str) else tuple(name) for name in row["names"])
        example = Example(image, own, names)
        return example.flipped() if self.flip and random.Random(f"flip {index}").random() < 0.5 else example


class Captions:
    """Pictures with captions, `{"image", "captions": [...]}` a line; one caption is drawn at random, another
    one in each epoch."""

    def __init__(self, path: str, name: str = "") -> None:
        self.lines = Lines(Path(path))
        self.name = name or Path(path).stem
        self.names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Example:
        return self.drawn(index, 0)

    def drawn(self, index: int, epoch: int) -> Example:
        """Picture `index` with the caption that this epoch draws."""
        row = self.lines[index]
        try:
            image = open_image(self.lines.path.parent / row["image"])
            caption = random.Random(f"caption {index} {epoch}").choice(row["captions"])
        except (InputError, KeyError, TypeError, IndexError) as error:
            raise self.lines.wrong(index, f"{type(error).__name__}: {error}") from error
        return Example(image, RegionSet((), image.height, image.width, source=self.name), caption=caption)


KINDS: dict[str, Any] = {"scenes": Scenes, "detections": Detections, "captions": Captions}


def open_data(settings: dict[str, Any]) -> Source:
    """The source of one entry of a config's `data`: `kind` and that class's arguments. Raises InputError."""
    if not isinstance(settings, dict):
        raise InputError.about(
            "data", expected="entries of keys and values", actual=repr(settings)[:60], fix="write kind: …"
        )
    rest = dict(settings)
    kind = rest.pop("kind", None)
    if kind not in KINDS:
        raise InputError.about(
            "data", expected=f"kind {', '.join(KINDS)}", actual=repr(kind), fix="choose one"
        )
    try:
        return KINDS[kind](**rest)
    except TypeError as error:
        raise InputError.about(
            f"data of kind {kind}", expected="its own settings", actual=str(error), fix="correct them"
        ) from error


@dataclass(frozen=True)
class Batch:
    """Examples of one source, whose vocabulary is `names`."""

    examples: tuple[Example, ...]
    source: str
    names: Sequence[str]
    step: int


class Batches:
    """Batch number `step` for process `rank` of `world`; each source has the same chance."""

    def __init__(self, sources: Sequence[Source], size: int, seed: int) -> None:
        self.sources, self.size, self.seed = tuple(sources), size, seed
        names = [source.name for source in sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError.about(
                "data",
                expected="another name for each data set (its vocabulary is kept by it)",
                actual=f"{', '.join(twice)} more than once",
                fix="give each entry its own name",
            )

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        rng = random.Random(f"source {self.seed} {step}")
        source = rng.choice(self.sources)
        first = (step * world + rank) * self.size
        examples = tuple(self._example(source, first + i) for i in range(self.size))
        return Batch(examples, source.name, source.names, step)

    def _example(self, source: Source, position: int) -> Example:
        epoch, index = divmod(position, len(source))
        if len(source) < SCENES or not getattr(source, "independent", False):
            # Files may lie in the order of their classes; a million drawn scenes need no shuffling.
            index = _permutation(len(source), f"{self.seed} {source.name} {epoch}")[index]
        return source.drawn(index, epoch) if isinstance(source, Captions) else source[index]


@lru_cache(maxsize=8)
def _permutation(count: int, key: str) -> array[int]:
    order = array("Q", range(count))
    random.Random(key).shuffle(order)
    return order

"""Drawn scenes in the layouts of the public data sets, so that every task can be run end to end anywhere.

Scenes are those of `eval/tasks/shapes.py`: their seeds are used by no training run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from eval.tasks.base import Item, Picture
from eval.tasks.pope import drawn_questions
from eval.tasks.referring import Referring
from eval.tasks.region_captioning import RegionCaptioning
from eval.tasks.region_forms import as_form
from eval.tasks.shapes import CANDIDATES, scene_for
from rgpt.data import scene_questions as questions
from rgpt.data.scenes import SHAPES, DrawnScene
from rgpt.regions import RLE, Mask


def scenes(seed: int, count: int) -> Iterator[tuple[int, DrawnScene]]:
    """`count` scenes of block `seed`, with ids from 1."""
    for index in range(count):
        yield index + 1, scene_for(seed, index)


class DrawnPictures(Mapping[Any, Callable[[], Any]]):
    """The picture of each id, drawn again when it is asked for: thousands need no memory."""

    def __init__(self, seed: int, count: int, name: str = "{}") -> None:
        self._index = {name.format(i + 1) if name != "{}" else i + 1: i for i in range(count)}
        self._seed = seed

    def __getitem__(self, key: Any) -> Callable[[], Any]:
        return partial(_draw, self._seed, self._index[key])

    def __iter__(self) -> Iterator[Any]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def _draw(seed: int, index: int) -> Any:
    return scene_for(seed, index).image


def instances(seed: int, count: int) -> dict[str, Any]:
    """A COCO instances file of the scenes: the eight shapes are the categories, masks are RLE."""
    images, annotations = [], []
    for id_, scene in scenes(seed, count):
        width, height = scene.image.size
        images.append({"id": id_, "width": width, "height": height, "file_name": f"{id_}.png"})
        for o in scene.objects:
            rle = RLE.from_mask(o.mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": id_,
                    "category_id": SHAPES.index(o.shape) + 1,
                    "bbox": list(o.box.to_coco()),
                    "area": int(o.mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": list(rle.size), "counts": rle.counts},
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(SHAPES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def caption_pictures(task: RegionCaptioning, seed: int, count: int) -> list[Picture]:
    """Every object of every scene; its reference is the caption with all four attributes."""
    pictures = []
    for id_, scene in scenes(seed, count):
        width, height = scene.image.size
        made: list[Item] = []
        for k, o in enumerate(scene.objects, start=1):
            caption = questions.sentence(questions.article(o.scene_object.phrase))
            region = as_form(Mask(o.mask), task.form, height, width)
            made.append(task.item(f"{id_}/{k}", region, [caption]))
        items = tuple(made)
        source = partial(_draw, seed, id_ - 1)
        pictures.append(Picture(id_, source, tuple(i.id for i in items), lambda items=items: items))
    return pictures


def referring_rows(seed: int, count: int, no_match: float = 0.2) -> list[dict[str, Any]]:
    """Expressions among `CANDIDATES` objects a scene; a share of them fits none."""
    rows = []
    for id_, scene in scenes(seed, count):
        rng = random.Random(f"referring {scene.scene.seed}")
        n = questions.number_objects(scene.scene, rng, min(CANDIDATES, len(scene.objects)))
        if len(n.order) < 2:
            continue
        exchange = questions.referring(n, rng, no_match=no_match)
        if exchange is None:
            continue
        candidates = [list(scene.objects[index].box.xyxy) for index in n.order]
        box = None if exchange.truth == 0 else candidates[int(str(exchange.truth)) - 1]
        text = exchange.details["text"]
        rows.append({"id": id_, "image": id_, "expression": text, "box": box, "candidates": candidates})
    return rows


def referring(task: Referring, seed: int, count: int) -> Referring:
    """Point a referring task at drawn scenes."""
    task.data, task.images = referring_rows(seed, count), DrawnPictures(seed, count)
    return task


def pope_rows(setting: str, seed: int, count: int) -> list[dict[str, Any]]:
    """POPE questions about the scenes; their pictures are named "1.png" and so on."""
    return drawn_questions([(f"{id_}.png", scene) for id_, scene in scenes(seed, count)], setting, seed)

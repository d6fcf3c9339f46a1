"""The task `shapes`: every skill of `tiny`, on drawn scenes (questions and truth: `eval/tasks/shapes.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.tasks import shapes
from eval.tasks.base import Item, Picture, Task
from rgpt.chat import ChatSession


@dataclass
class Shapes(Task):
    """
    Args:
        scene_seed, count: `count` scenes of this block of a million seeds.
        form: `mask`, `box` or `mixed`.
        only: kinds of questions; None: all.
    """

    scene_seed: int = 0
    count: int = 500
    form: str = "mixed"
    only: frozenset[str] | None = None
    protocol: str = "generated greedily, one question a conversation"
    name: str = field(default="shapes", init=False)

    def pictures(self) -> Sequence[Picture]:
        pictures = []
        for index in range(self.count):
            seed = shapes.FIRST_SEED + self.scene_seed * shapes.BLOCK + index

            def make(index: int = index) -> list[Item]:
                scene = shapes.scene_for(self.scene_seed, index)
                return [
                    Item(f"{i.scene_seed}/{k}", i.exchange.question, i.regions, i.exchange.answer)
                    for k, i in enumerate(shapes.items(scene, self.form))
                    if not self.only or i.kind in self.only
                ]

            def image(index: int = index) -> Any:
                return shapes.scene_for(self.scene_seed, index).image

            pictures.append(Picture(seed, image, None, make))
        return pictures

    def rows(self, session: ChatSession, picture: Picture) -> list[dict[str, Any]]:
        index = int(picture.id) - shapes.FIRST_SEED - self.scene_seed * shapes.BLOCK
        only = None if self.only is None else set(self.only)
        return shapes.scene_rows(session, shapes.scene_for(self.scene_seed, index), self.form, only)

    def ground_truth(self) -> Any:
        return None

    def score(self, gt: Any, rows: Sequence[Mapping[str, Any]], whole: bool) -> dict[str, Any]:
        scores = shapes.score([dict(row) for row in rows])
        return scores | {"protocol": self.protocol, "regions": self.form, "scenes": self.count}

    def is_right(self, row: Mapping[str, Any], item: Item) -> bool:
        return shapes.is_right(dict(row))

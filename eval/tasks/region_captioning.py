"""Describing a given region in words: RefCOCOg, Visual Genome, samples of ours, drawn scenes.

The ids of the items are those by which the references are found again: `ref_id` (RefCOCO+/g), `region_id`
(Visual Genome), or the sample's id and the number of its turn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.layouts.files import read_json, show
from eval.score import score_task
from eval.tasks.base import Answer, Item, Picture, Task, check_pictures, picture_path
from eval.tasks.instances import Instances
from rgpt import prompts
from rgpt.chat import ChatSession
from rgpt.data.schema import read_jsonl
from rgpt.errors import InputError
from rgpt.formats.plain_pickle import read_plain_pickle
from rgpt.regions import Box, Region


@dataclass
class RegionCaptioning(Task):
    """
    Args:
        data: `refs(….).p` with `instances`, Visual Genome's `region_descriptions.json`, or samples (JSONL)
            whose turns mention one region each and whose answers are the references; or drawn items.
        images: folder of the pictures (samples name their own).
        form: of regions, where the data has masks.
        detailed: ask for a detailed description.
    """

    data: Any
    images: Path | None = None
    instances: Path | None = None
    split: str | None = None
    form: str = "mask"
    detailed: bool = False
    seed: int = 0
    limit: int | None = None
    batch_size: int = 32
    max_new_tokens: int = 128
    protocol: str = "pycocoevalcap"
    name: str = field(default="region_captioning", init=False)

    def __post_init__(self) -> None:
        self._references: dict[str, list[str]] = {}

    def pictures(self) -> Sequence[Picture]:
        if not isinstance(self.data, str | Path):
            found = list(self.data)
        elif str(self.data).endswith(".jsonl"):
            found = list(self._samples())
        elif Path(self.data).suffix in (".p", ".pkl", ".pickle"):
            found = list(self._refs())
        else:
            found = list(self._visual_genome())
        found = [picture for picture in found if picture.ids][: self.limit]
        asked = {id_ for picture in found for id_ in picture.ids}
        self._references = {i: texts for i, texts in self._references.items() if i in asked}
        check_pictures(found, "region captioning")
        return found

    def prompt(self, id_: str) -> str:
        task = "detailed_caption" if self.detailed else "brief_caption"
        rng = random.Random(f"{self.seed} {id_}")
        return prompts.choose_wording(task, rng).format(region=prompts.mention(1))

    def item(self, id_: str, region: Region, references: list[str]) -> Item:
        self._references[id_] = references
        return Item(id_, self.prompt(id_), {1: region}, references[0])

    def _folder(self) -> Path:
        if self.images is None:
            raise InputError.about("--images", "the folder of the pictures", "none", "name it")
        return self.images

    def _refs(self) -> Iterator[Picture]:
        refs = read_plain_pickle(self.data)
        if self.instances is None:
            raise InputError.about("--instances", "the COCO instances file of the refs", "none", "name it")
        known = Instances(self.instances, self._folder())
        by_image: dict[int, list[Mapping[str, Any]]] = {}
        for ref in refs:
            if self.split in (None, ref["split"]):
                known.check(ref["ann_id"])
                by_image.setdefault(ref["image_id"], []).append(ref)
                self._references[str(ref["ref_id"])] = [s["raw"] for s in ref["sentences"]]
        for image_id in sorted(by_image):
            own = by_image[image_id]

            def make(own: list[Mapping[str, Any]] = own) -> list[Item]:
                return [
                    known.item(ref["ann_id"], self.form, str(ref["ref_id"]), self.prompt(str(ref["ref_id"])))
                    for ref in own
                ]

            ids = tuple(str(ref["ref_id"]) for ref in own)
            yield Picture(image_id, known.picture(image_id), ids, make)

    def _visual_genome(self) -> Iterator[Picture]:
        value = read_json(self.data)
        if not isinstance(value, list) or not all(isinstance(v, Mapping) and "regions" in v for v in value):
            raise InputError.about(
                str(self.data),
                "refs(….).p, region_descriptions.json or samples (.jsonl)",
                show(value),
                "eval/README.md shows the layouts",
            )
        for picture in value:
            own = [r for r in picture["regions"] if r["phrase"].strip()]
            image_id = picture.get("id", own[0]["image_id"] if own else None)
            name = f"{image_id}.jpg"
            path = picture_path(self._folder(), name, f"VG_100K/{name}", f"VG_100K_2/{name}")
            for region in own:
                self._references[str(region["region_id"])] = [region["phrase"]]

            def make(own: list[Mapping[str, Any]] = own) -> list[Item]:
                return [self._boxed(r) for r in own]

            yield Picture(image_id, path, tuple(str(r["region_id"]) for r in own), make)

    def _boxed(self, region: Mapping[str, Any]) -> Item:
        id_ = str(region["region_id"])
        try:
            box = Box.from_coco([region[k] for k in ("x", "y", "width", "height")])
        except InputError as problem:
            return Item(id_, self.prompt(id_), truth=region["phrase"], problem=str(problem))
        return Item(id_, self.prompt(id_), {1: box}, region["phrase"])

    def _samples(self) -> Iterator[Picture]:
        for sample in read_jsonl(self.data):
            if sample.image is None:
                continue
            items = []
            for number, turn in enumerate(sample.turns, start=1):
                mentioned = [n for n in range(1, len(sample.regions) + 1) if f"<region{n}>" in turn.question]
                if len(mentioned) == 1:
                    region = sample.regions[mentioned[0] - 1]
                    items.append(self.item(f"{sample.id}/{number}", region, [turn.answer]))
            made = tuple(items)
            yield Picture(sample.id, sample.image, tuple(i.id for i in made), lambda made=made: made)

    def answers(self, session: ChatSession, items: Sequence[Item]) -> list[Answer]:
        texts = session.ask_each(
            [item.prompt for item in items],
            [item.regions for item in items],
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        return [Answer(text) for text in texts]

    def ground_truth(self) -> Any:
        return self._references

    def score(self, gt: Any, rows: Sequence[Mapping[str, Any]], whole: bool) -> dict[str, Any]:
        return score_task(self.name, gt, [dict(row) for row in rows], self.protocol, subset=not whole)

"""Referring expressions: which of the candidate regions fits a description, if any?

Candidates are the picture's ground truth instances, or the boxes of a proposals file (COCO results, or
`{image id: [[x, y, w, h], …]}`); they are numbered in a seeded order, so that "Region [1]." is worth what
chance is worth. A hit is IoU >= 0.5 of the chosen candidate's box with the true one [D].
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.layouts.coco import check_box
from eval.layouts.files import read_json
from eval.layouts.referring import read_expressions
from eval.score import score_task
from eval.tasks.base import Answer, Item, Picture, Task, check_pictures, picture_path
from eval.tasks.instances import Instances
from eval.tasks.region_classification import region_of, size_in_pixels
from rgpt import prompts
from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.formats.plain_pickle import read_plain_pickle
from rgpt.regions import Box, Region


@dataclass
class Referring(Task):
    """
    Args:
        data: `refs(….).p` with `instances`, or rows `{"id", "image", "expression", "box": [x1, y1, x2, y2] |
            null, "candidates": [boxes]}` (JSON or JSON lines; null: nothing fits).
        images: folder of the pictures; or pictures by name (drawn scenes).
        proposals: a file of candidate boxes instead.
        form: of candidates that are instances.
        by_likelihood: compute the answer with `ChatSession.choose` instead of generating it; nothing fits
            where no is likelier than yes for every candidate.
    """

    data: Any
    images: Path | Mapping[str, Any]
    instances: Path | None = None
    proposals: Path | None = None
    split: str | None = None
    form: str = "mask"
    guided: bool = True
    by_likelihood: bool = False
    seed: int = 0
    limit: int | None = None
    batch_size: int = 16
    max_new_tokens: int = 24
    protocol: str = "continuous"
    name: str = field(default="referring", init=False)

    @cached_property
    def _known(self) -> Instances:
        if self.instances is None:
            raise InputError.about("--instances", "the COCO instances file of the refs", "none", "name it")
        return Instances(self.instances, Path(str(self.images)))

    @cached_property
    def _proposed(self) -> dict[str, list[list[float]]]:
        value = read_json(self.proposals)  # type: ignore[arg-type]
        found: dict[str, list[list[float]]] = {}
        if isinstance(value, Mapping):
            pairs = [(image, box) for image, boxes in value.items() for box in boxes]
        else:
            pairs = [(row["image_id"], row["bbox"]) for row in value]
        for image, box in pairs:
            found.setdefault(str(image), []).append(check_box(box, f"{self.proposals}, image {image}"))
        return found

    def pictures(self) -> Sequence[Picture]:
        is_refs = isinstance(self.data, str | Path) and Path(self.data).suffix in (".p", ".pkl", ".pickle")
        found = list(self._refs() if is_refs else self._rows())[: self.limit]
        check_pictures(found, "referring")
        return found

    def _refs(self) -> Iterator[Picture]:
        by_image: dict[Any, list[tuple[str, str]]] = {}
        expressions = read_expressions(self.data, self.split, self.instances)  # checks split and boxes
        for ref in read_plain_pickle(self.data):
            for sentence in ref["sentences"]:
                if str(sentence["sent_id"]) in expressions:
                    pair = (str(sentence["sent_id"]), sentence["raw"])
                    by_image.setdefault(ref["image_id"], []).append(pair)
        for image_id in sorted(by_image):
            own = by_image[image_id]
            path = self._known.picture(image_id)

            def make(image_id: Any = image_id, own: list[tuple[str, str]] = own) -> list[Item]:
                return self._items(str(image_id), own, self._candidates(image_id))

            yield Picture(image_id, path, tuple(id_ for id_, _ in own), make)

    def _rows(self) -> Iterator[Picture]:
        read_expressions(
            self.data, self.split, self.instances
        )  # checks ids and boxes; takes neither of the two
        value = read_json(self.data)
        by_image: dict[str, list[Mapping[str, Any]]] = {}
        for row in [value] if isinstance(value, Mapping) else value:
            if "image" not in row or not (row.get("candidates") or self.proposals):
                raise InputError.about(
                    f"row {row.get('id')}",
                    "the keys image and candidates",
                    ", ".join(row),
                    "add them, or give --proposals",
                )
            by_image.setdefault(row["image"], []).append(row)
        for image, own in by_image.items():
            source: Any = (
                picture_path(self.images, image) if isinstance(self.images, Path) else self.images[image]
            )

            def make(image: str = image, own: list[Mapping[str, Any]] = own) -> list[Item]:
                return [
                    item
                    for row in own
                    for item in self._items(
                        f"{image} {row['id']}",
                        [(str(row["id"]), row["expression"])],
                        self._boxes(image)
                        if self.proposals
                        else [(Box(*c), Box(*c)) for c in row["candidates"]],
                    )
                ]

            yield Picture(image, source, tuple(str(row["id"]) for row in own), make)

    def _boxes(self, image_id: Any) -> list[tuple[Region, Box]]:
        boxes = [Box.from_coco(box) for box in self._proposed.get(str(image_id), ()) if box[2] > 0 < box[3]]
        return [(box, box) for box in boxes]

    def _candidates(self, image_id: Any) -> list[tuple[Region, Box]]:
        """What is shown to the model, and the box that stands for it in the score."""
        if self.proposals is not None:
            return self._boxes(image_id)
        image, found = self._known.image(image_id), []
        for annotation in self._known.by_image[image_id]:
            try:
                region = region_of(annotation, self.form, *size_in_pixels(image))
                found.append((region, Box.from_coco(annotation["bbox"])))
            except InputError:
                continue  # an instance without extent cannot be pointed at, hence cannot be chosen
        return found

    def _items(
        self, seed: str, expressions: Sequence[tuple[str, str]], candidates: list[tuple[Region, Box]]
    ) -> list[Item]:
        order = list(candidates)
        random.Random(f"{self.seed} {seed}").shuffle(order)
        regions = {n: region for n, (region, _) in enumerate(order, start=1)}
        boxes = [{"box": list(box.xyxy)} for _, box in order]
        problem = None if order else "the picture has no candidate regions"
        items = []
        for id_, text in expressions:
            wording = prompts.choose_wording("referring", random.Random(f"{self.seed} {id_}"))
            said = text.strip().rstrip(".")
            prompt = wording.format(regions=prompts.list_mentions(list(regions)), text=said)
            if self.guided:
                prompt = f"{prompt} {prompts.REFERRING_GUIDE}"
            details = {"boxes": boxes, "text": said}
            items.append(Item(id_, prompt, regions, text, details, problem))
        return items

    def answers(self, session: ChatSession, items: Sequence[Item]) -> list[Answer]:
        # `regions` of a row are the candidates' boxes: what the answer's number points at when it is scored.
        boxes = [{"regions": item.details["boxes"]} for item in items]
        if self.by_likelihood:
            found = []
            for item, extra in zip(items, boxes, strict=True):
                session.regions = dict(item.regions)
                number, scores = session.choose(item.details["text"])
                if scores[number] <= 0:  # the model would say no to every candidate
                    number = 0
                said = f"Region [{number}]." if number else prompts.NO_MATCH
                found.append(Answer(said, number, extra=extra))
            return found
        texts = session.ask_each(
            [item.prompt for item in items],
            [item.regions for item in items],
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        return [
            Answer(text, prompts.parse_region_answer(text), extra=extra)
            for text, extra in zip(texts, boxes, strict=True)
        ]

    def ground_truth(self) -> Any:
        return self.data

    def score(self, gt: Any, rows: Sequence[Mapping[str, Any]], whole: bool) -> dict[str, Any]:
        options = {"split": self.split, "instances": self.instances, "subset": not whole}
        options = {k: v for k, v in options.items() if v is not None}
        return score_task(self.name, gt, [dict(row) for row in rows], self.protocol, **options)

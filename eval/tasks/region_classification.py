"""Naming the object in a given region, on any COCO-format set or on drawn scenes.

How the regions of a picture are asked about:

- `single`: each in a conversation of its own, as `<region1>`; all of a picture in one batch;
- `all`: one prompt that lists all regions; the answer is read as a list of names;
- `multi-turn`: one conversation, the guide sentence in its first turn only, and the model's *own* earlier
  answers in it (never the true ones).

Protocols: `author-script` takes the generated answer; `scored` ranks every name by its likelihood, so that
only names can come out and each has a confidence.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.layouts.coco import CocoTruth, clean_name, read_truth
from eval.layouts.files import name_of, read_json
from eval.recognizers import RecognizerSession
from eval.score import score_task
from eval.tasks.base import RECORDED, Answer, Item, Picture, Task, check_pictures, softmax
from eval.tasks.region_forms import FORMS, as_form
from rgpt import prompts
from rgpt.chat import ChatSession
from rgpt.errors import ContextLengthError, InputError
from rgpt.formats.coco import find_picture, on_pictures, picture_names, size_of
from rgpt.formats.paths import PictureFolder
from rgpt.regions import RLE, Box, Polygon, Region

ASKED = ("single", "all", "multi-turn")
PROTOCOLS = ("author-script", "scored")
KEPT_SCORES = 300
"""Names kept of each ranking: as many as LVIS reads detections of an image."""


@dataclass
class AnnotatedPictures:
    """An instances file and, where they are files, its pictures: the file's regions as they lie on them.

    Args:
        data: the file, or its content. images: folder of its pictures; or pictures by id.
    """

    data: Any
    images: Path | Mapping[int, Any]

    @cached_property
    def folder(self) -> PictureFolder | None:
        return PictureFolder(self.images) if isinstance(self.images, Path) else None

    @cached_property
    def content(self) -> Any:
        """`data`, or what it says with the sizes of the pictures. Raises InputError for other pictures."""
        if self.folder is None:
            return self.data
        given = read_json(self.data)
        content = on_pictures(given, self.folder, name_of(self.data))
        return self.data if content is given else content

    def source(self, image: Mapping[str, Any]) -> Any:
        """A picture's path, or the picture."""
        return picture_of(self.folder, image) if self.folder else self.images[image["id"]]  # type: ignore[index]


class AnnotatedTask(Task):
    """A task on a COCO-format set; subclasses have `data` and `images` of `AnnotatedPictures`."""

    data: Any
    images: Path | Mapping[int, Any]

    @cached_property
    def files(self) -> AnnotatedPictures:
        return AnnotatedPictures(self.data, self.images)

    @cached_property
    def truth(self) -> CocoTruth:
        return read_truth(self.files.content)

    @cached_property
    def names(self) -> list[str]:
        return names_of(self.truth)

    def ground_truth(self) -> Any:
        return self.files.content


@dataclass
class RegionClassification(AnnotatedTask):
    """
    Args:
        data: a COCO-format file, or its content.
        images: folder of its pictures; or pictures by id (drawn scenes).
        form: one of `FORMS`. Annotations without a mask are given as boxes.
        vocabulary: how the guide sentence names the set ("COCO-80"); None: by the set itself.
        guided: whether the guide sentence is said.
        closed: under `author-script`, let only names of the set come out (a token trie).
        limit: pictures, the first by id.
    """

    data: Any
    images: Path | Mapping[int, Any]
    protocol: str = "author-script"
    asked: str = "single"
    form: str = "mask"
    vocabulary: str | None = None
    guided: bool = True
    closed: bool = False
    seed: int = 0
    limit: int | None = None
    batch_size: int = 32
    max_new_tokens: int = 24
    most_regions: int = 40
    name: str = field(default="region_classification", init=False)

    def __post_init__(self) -> None:
        for what, value, known in (
            ("protocol", self.protocol, PROTOCOLS),
            ("asked", self.asked, ASKED),
            ("regions", self.form, FORMS),
        ):
            if value not in known:
                raise InputError.about(what, ", ".join(known), repr(value))
        if self.asked == "all" and self.protocol == "scored":
            raise InputError.about(
                "--ask all",
                "the protocol author-script",
                "scored",
                "one list of names has no likelihood for each region: choose another of the two",
            )

    @cached_property
    def guide(self) -> str:
        return guide_for(self.truth, self.vocabulary)

    def pictures(self) -> Sequence[Picture]:
        by_image: dict[int, list[Mapping[str, Any]]] = {i: [] for i in sorted(self.truth.images)}
        for _, annotation in sorted(self.truth.annotations.items()):
            if not annotation["iscrowd"]:
                by_image[annotation["image_id"]].append(annotation)
        chosen = [i for i in by_image if by_image[i]][: self.limit]
        pictures = [self._picture(self.truth.images[i], by_image[i]) for i in chosen]
        check_pictures(pictures, "region classification")
        return pictures

    def _picture(self, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> Picture:
        source = self.files.source(image)
        ids = tuple(str(a["id"]) for a in annotations)
        return Picture(image["id"], source, ids, lambda: self._items(image, annotations))

    def _items(self, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> list[Item]:
        items = []
        for place, a in enumerate(annotations):
            number = 1 if self.asked == "single" else place % self.most_regions + 1
            first = self.asked == "single" or number == 1
            rng = random.Random(f"{self.seed} {a['id']}")
            wording = prompts.choose_wording("classification" if first else "classification_followup", rng)
            prompt = wording.format(region=prompts.mention(number))
            if self.guided and first:
                prompt = f"{prompt} {self.guide}"
            regions, problem = {}, None
            try:
                regions[number] = region_of(a, self.form, *size_in_pixels(image))
            except InputError as error:
                problem = str(error)
            name = self.truth.name(a["category_id"])
            items.append(Item(str(a["id"]), prompt, regions, name, {"area": a["area"]}, problem))
        if self.asked != "all":
            return items
        listed = []
        for start in range(0, len(items), self.most_regions):
            listed += self._listed(items[start : start + self.most_regions])
        return listed

    def _listed(self, group: Sequence[Item]) -> list[Item]:
        """The same prompt for all items of a group: it lists their regions."""
        regions = {n: region for item in group for n, region in item.regions.items()}
        question = f"What are {prompts.list_mentions(list(regions))}?"
        prompt = f"{question} {self.guide}" if self.guided else question
        return [
            replace(
                item,
                prompt=prompt,
                regions=regions,
                details={**item.details, "number": next(iter(item.regions))},
            )
            if item.problem is None
            else item
            for item in group
        ]

    # ------------------------------------------------------------------------------------------------ asking

    def answers(self, session: ChatSession, items: Sequence[Item]) -> list[Answer]:
        if isinstance(session, RecognizerSession):
            return self._recognized(session, items)
        if self.asked == "single":
            return self._single(session, items)
        if self.asked == "all":
            return self._all(session, items)
        return self._turns(session, items)

    def _recognized(self, session: RecognizerSession, items: Sequence[Item]) -> list[Answer]:
        """All of a picture's regions in one call: to some recognizers it matters which are asked together."""
        regions = [region for item in items for region in item.regions.values()]
        found = session.recognize(regions, self.names).topk(KEPT_SCORES)
        if self.protocol == "scored":
            return [Answer(row[0][0], row[0][0], row[0][1], dict(row)) for row in found]
        return [generated(row[0][0]) for row in found]

    def _single(self, session: ChatSession, items: Sequence[Item]) -> list[Answer]:
        questions, regions = [item.prompt for item in items], [item.regions for item in items]
        if self.protocol == "scored":
            return [ranked(scores) for scores in session.rank_each(questions, self.names, regions)]
        texts = session.ask_each(
            questions,
            regions,
            choices=self.names if self.closed else None,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        return [generated(text) for text in texts]

    def _all(self, session: ChatSession, items: Sequence[Item]) -> list[Answer]:
        found: dict[str, Answer] = {}
        for group in {
            id(item.regions): [i for i in items if i.regions is item.regions] for item in items
        }.values():
            session.reset()
            session.regions = dict(group[0].regions)
            text = session.ask(group[0].prompt, max_new_tokens=self.max_new_tokens * len(group))
            listed = listed_names(text, list(group[0].regions))
            for item in group:
                name = listed.get(item.details["number"])
                found[item.id] = (
                    Answer(failed=f"the answer names {len(listed)} of {len(group)} regions: {text[:200]}")
                    if name is None
                    else generated(name, {"whole_answer": text})
                )
        return [found[item.id] for item in items]

    def _turns(self, session: ChatSession, items: Sequence[Item]) -> list[Answer]:
        answers = []
        for item in items:
            if 1 in item.regions:
                session.reset()
            try:
                answers.append(self._turn(session, item))
            except RECORDED as problem:  # the conversation goes on without this turn
                answers.append(Answer(failed=str(problem)))
        return answers

    def _turn(self, session: ChatSession, item: Item) -> Answer:
        prompt = item.prompt
        session.regions = {**session.regions, **item.regions} if session.turns else dict(item.regions)
        try:
            session.check(prompt)
        except ContextLengthError:
            if not session.turns:
                raise
            session.reset()  # the conversation is full: a new one begins
            session.regions = dict(item.regions)
        if self.guided and not session.turns and self.guide not in prompt:
            prompt = f"{prompt} {self.guide}"
        scores = session.rank(prompt, self.names) if self.protocol == "scored" else None
        choices = self.names if self.closed else None
        text = session.ask(prompt, choices=choices, max_new_tokens=self.max_new_tokens)
        extra = {"turn": len(session.turns), "asked": prompt}
        return generated(text, extra) if scores is None else ranked(scores, extra)

    # ------------------------------------------------------------------------------------------------ scoring

    def score(self, gt: Any, rows: Sequence[Mapping[str, Any]], whole: bool) -> dict[str, Any]:
        ids = None if whole else {str(row["image_id"]) for row in rows}
        return score_task(self.name, gt, [dict(row) for row in rows], self.protocol, ids=ids)

    def is_right(self, row: Mapping[str, Any], item: Item) -> bool:
        return "failed" not in row and clean_name(prompts.normalise_answer(str(row["answer"]))) == item.truth


def names_of(truth: CocoTruth) -> list[str]:
    """The names to choose among, by category id."""
    return [truth.name(i) for i in sorted(truth.categories)]


def guide_for(truth: CocoTruth, vocabulary: str | None = None) -> str:
    """The guide sentence; `vocabulary` is what it calls the names, None: by the set itself."""
    names = names_of(truth)
    coco = len(names) == 80 and "toothbrush" in names
    known = "LVIS" if truth.is_lvis else "COCO-80" if coco else "the given"
    return prompts.classification_guide(vocabulary or known)


def generated(text: str, extra: Mapping[str, Any] | None = None) -> Answer:
    """A generated name. Its score is constant, as in the authors' script."""
    return Answer(text, prompts.normalise_answer(text), 1.0, extra=extra or {})


def ranked(values: Mapping[str, float], extra: Mapping[str, Any] | None = None) -> Answer:
    """The likeliest name, with the confidences of the best `KEPT_SCORES`."""
    shares = softmax(values)
    best = next(iter(shares))
    kept = dict(list(shares.items())[:KEPT_SCORES])
    return Answer(best, best, shares[best], kept, extra=extra or {})


def listed_names(text: str, numbers: Sequence[int]) -> dict[int, str]:
    """Names of an answer about the regions `numbers`, by number.

    Either labelled, "Region [1]: dog. [2] cat", or in order, "dog, cat and bird." (taken only when there are
    as many as regions: otherwise nobody knows which one is missing).
    """
    labelled = re.findall(r"\[\s*(\d+)\s*\]\s*(?:is|:|=|-)?\s*(?:an?\s+|the\s+)?([^\[\],;.\n]+)", text)
    if labelled:
        found: dict[int, str] = {}
        for label, words in labelled:
            name = re.sub(r"(?:\band\b|\bregion\b|\s)+$", "", words, flags=re.IGNORECASE).strip()
            if name and int(label) in numbers:
                found.setdefault(int(label), name)
        return found
    pieces = [piece.strip(" .") for piece in re.split(r"[,;\n]|\band\b", text)]
    pieces = [re.sub(r"^(?:an?|the)\s+", "", piece, flags=re.IGNORECASE) for piece in pieces if piece]
    return dict(zip(numbers, pieces, strict=True)) if len(pieces) == len(numbers) else {}


def size_in_pixels(image: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of an image of the file. Raises InputError where neither file nor picture says it."""
    if (size := size_of(image)) is None:
        raise InputError.about(f"image {image['id']}", "height and width", "neither, and no picture of it")
    return size


def region_of(annotation: Mapping[str, Any], form: str, height: int, width: int) -> Region:
    """A COCO annotation as a region of a form; without a mask every form is its box. Raises InputError."""
    segmentation = annotation.get("segmentation")
    region: Region
    if form == "box" or not segmentation:
        region = Box.from_coco(annotation["bbox"])
    elif isinstance(segmentation, Mapping):
        region = as_form(RLE(segmentation["size"], segmentation["counts"]), form, height, width)
    else:
        rings = [ring for ring in segmentation if len(ring) >= 6]
        region = as_form(Polygon.from_coco(rings), form, height, width)
    region.check_inside(height, width)
    return region


def picture_of(folder: PictureFolder, image: Mapping[str, Any]) -> Path:
    """The file of a COCO or LVIS image, or where it would lie (its absence fails the picture's items)."""
    return find_picture(folder, image) or folder.expected(next(iter(picture_names(image)), str(image["id"])))

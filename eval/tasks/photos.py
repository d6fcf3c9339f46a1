"""The task `photographs`: all that a conversation about a photograph needs, on those that training never saw.

- names: `names` by likelihood (the likeliest of the folder's category names, by whole log-likelihood, the end
  included), `names_generated` with the guide sentence (equal to the class after `normalise_answer`);
- captions of whole pictures, generated;
- yes/no: `yes_no` by likelihood ("Yes." against "No."), `yes_no_generated`, and `yes_no_without_picture`: the
  same question about the same box on a blank grey picture;
- which of five regions: `which` by the likelihood of the class as the regions' name, `which_by_yes` by
  `ChatSession.choose`'s "Is <regionN> a …?", `which_generated` by the answer "Region [x].";
- relations, generated.

Every question is asked in a conversation of its own. Intervals are 95% bootstraps over photographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from eval.metrics.bootstrap import interval
from eval.metrics.captions import caption_scores, require_java
from eval.score import score_task
from eval.tasks.base import Answer, Item, Picture, Task, check_pictures, softmax
from eval.tasks.photo_items import (
    FORMS,
    KINDS,
    Draw,
    category_names,
    draw_items,
    name_item,
    read_set,
    share_of,
)
from rgpt import answers, prompts
from rgpt.chat import ChatSession
from rgpt.chat.chat_session import SHARES_WITHIN
from rgpt.data.class_words import with_article
from rgpt.data.photographs import Photograph
from rgpt.data.scene_questions import DIRECTION_WORDS
from rgpt.errors import InputError
from rgpt.regions import Box, square_padding

YES_NO = ("Yes.", "No.")
BLANK = 336
"""Pixels along the sides of the blank picture."""
SMALL, MEDIUM = 32**2 / (640 * 480), 96**2 / (640 * 480)
"""COCO's 32² and 96² pixels, as shares of its usual 640 x 480: photographs may be shrunk."""
TOKENS = 40


@dataclass
class Photographs(Task):
    """
    Args:
        data: a folder with `instances*.json`, `captions*.json` and `images/`.
        split: of `rgpt.data.photographs`; `ids`, a JSON list of photographs, instead.
        draw: what is asked.
        limit: photographs, the first by number.
    """

    data: Path
    split: str = "held_out"
    ids: Path | None = None
    draw: Draw = field(default_factory=Draw)
    limit: int | None = None
    batch_size: int = 32
    protocol: str = "names by whole log-likelihood, the rest as named; one question a conversation"
    name: str = field(default="photographs", init=False)

    def __post_init__(self) -> None:
        if self.draw.form not in FORMS or self.draw.regions_a_picture < 1:
            raise InputError(
                f"--regions {self.draw.form} and --regions-per-picture {self.draw.regions_a_picture}: "
                f"expected {' or '.join(FORMS)}, and at least 1."
            )
        if unknown := sorted(set(self.draw.kinds) - set(KINDS)):
            raise InputError(f"--only names {', '.join(unknown)}: expected some of {', '.join(KINDS)}.")

    @cached_property
    def photographs(self) -> list[Photograph]:
        return read_set(self.data, self.split, self.ids, self.limit)

    @cached_property
    def items(self) -> dict[int, list[Item]]:
        return draw_items(self.photographs, self.draw)

    @cached_property
    def names(self) -> list[str]:
        return category_names(self.data)

    def pictures(self) -> Sequence[Picture]:
        if "caption" in self.draw.kinds:
            require_java()
        pictures = [
            Picture(p.id, p.path, tuple(i.id for i in own), lambda own=own: own)
            for p in self.photographs
            if (own := self.items[p.id])
        ]
        check_pictures(pictures, "photographs")
        return pictures

    # ------------------------------------------------------------------------------------------------ asking

    def answers(self, session: ChatSession, items: Sequence[Item]) -> list[Answer]:
        said = session.ask_each(
            [item.prompt for item in items],
            [item.regions for item in items],
            max_new_tokens=TOKENS,
            batch_size=self.batch_size,
        )
        asked = _Asked()
        readers = [self._likelihoods(item, asked) for item in items]
        asked.ask(session)
        answers = [reader(text) for reader, text in zip(readers, said, strict=True)]
        blank = [k for k, item in enumerate(items) if item.details["kind"] == "yes_no"]
        for k, value in zip(blank, self._without_picture([items[k] for k in blank]), strict=True):
            answers[k].extra["without_picture"] = value  # type: ignore[index]
        return answers

    def _likelihoods(self, item: Item, asked: _Asked) -> Callable[[str], Answer]:
        """Notes what has to be computed about an item; returns what reads the answer off when it was."""
        kind = item.details["kind"]
        if kind == "name":
            key = asked.add(item.prompt, item.regions, self.names)
            return lambda text: _named(text, asked.rows[key])
        if kind == "yes_no":
            key = asked.add(item.prompt, item.regions, YES_NO)
            return lambda text: _yes_no(text, asked.rows[key])
        if kind == "which":
            name = item.details["name"]
            photograph, objects = (
                self._objects[item.details["annotations"][0]][0],
                item.details["annotations"],
            )
            named = [name_item(photograph, self._objects[a][1], self.draw) for a in objects]
            by_name = [asked.add(own.prompt, own.regions, self.names) for own in named]
            bare = [f"Is {prompts.mention(n)} {with_article(name)}?" for n in item.regions]
            by_yes = [asked.add(question, item.regions, YES_NO) for question in bare]
            return lambda text: _which(
                text, name, [asked.rows[k] for k in by_name], [asked.rows[k] for k in by_yes]
            )
        return Answer

    @cached_property
    def _objects(self) -> dict[int, tuple[Photograph, Any]]:
        return {o.id: (photograph, o) for photograph in self.photographs for o in photograph.objects}

    def _without_picture(self, items: Sequence[Item]) -> list[float]:
        """log p("Yes.") - log p("No.") of the same questions about the same boxes on a blank picture."""
        if not items:
            return []
        regions = []
        for item in items:
            photograph, known = self._objects[item.details["annotation"]]
            side, (x, y) = square_padding(photograph.height, photograph.width)
            scale, b = BLANK / side, known.box
            regions.append(
                {1: Box((b.x1 + x) * scale, (b.y1 + y) * scale, (b.x2 + x) * scale, (b.y2 + y) * scale)}
            )
        questions = [item.prompt for item in items]
        rows = self._blank.likelihoods(questions, [YES_NO] * len(items), regions)
        return [row["Yes."] - row["No."] for row in rows]

    def rows(self, session: ChatSession, picture: Picture) -> list[dict[str, Any]]:
        if not hasattr(self, "_blank") and "yes_no" in self.draw.kinds:
            self._blank = session.another()
            self._blank.set_image(Image.new("RGB", (BLANK, BLANK), (128, 128, 128)))
        return super().rows(session, picture)

    def _row(self, picture: Picture, item: Item, answer: Answer, seconds: float) -> dict[str, Any]:
        details = {k: v for k, v in item.details.items() if k != "captions"}
        return super()._row(picture, item, answer, seconds) | details | {"truth": item.truth}

    # ------------------------------------------------------------------------------------------------ scoring

    def ground_truth(self) -> Any:
        """The named objects in COCO's format; areas as if every picture had 640 x 480 pixels."""
        number = {name: k for k, name in enumerate(self.names, start=1)}
        annotations = []
        for photograph in self.photographs:
            for item in photograph.singles:
                box = item.box
                size = [box.x2 - box.x1, box.y2 - box.y1]
                annotations.append(
                    {
                        "id": item.id,
                        "image_id": photograph.id,
                        "category_id": number[item.name],
                        "bbox": [box.x1, box.y1, *size],
                        "area": share_of(item, photograph) * 640 * 480,
                        "iscrowd": 0,
                    }
                )
        pictures = [{"id": p.id, "width": p.width, "height": p.height} for p in self.photographs]
        categories = [{"id": k, "name": name} for name, k in number.items()]
        return {"images": pictures, "annotations": annotations, "categories": categories}

    def score(self, gt: Any, rows: Sequence[Mapping[str, Any]], whole: bool) -> dict[str, Any]:
        of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
        figures = Figures()
        scores: dict[str, Any] = {}
        if named := of_kind["name"]:
            add_names(figures, named)
            scores |= name_tables(gt, named)
        if asked := of_kind["yes_no"]:
            add_yes_no(figures, asked)
        if asked := of_kind["which"]:
            for figure, key in (("which", "by_name"), ("which_by_yes", "by_yes")):
                figures.add(figure, asked, lambda row, key=key: row.get(key) == row["number"])
            figures.add(
                "which_generated",
                asked,
                lambda row: prompts.parse_region_answer(row.get("answer", "")) == row["number"],
            )
        if asked := of_kind["relation"]:
            figures.add(
                "relation", asked, lambda row: said_direction(row.get("answer", "")) == row["direction"]
            )
        if said := of_kind["caption"]:
            add_captions(figures, said, self.items)
        return (
            figures.scores
            | scores
            | {
                "intervals": figures.intervals,
                "photographs": len({row["image_id"] for row in rows}),
                "n": len(rows),
                "failed": sum("failed" in row for row in rows),
                "protocol": self.protocol,
            }
        )

    def is_right(self, row: Mapping[str, Any], item: Item) -> bool | None:
        return None if row["kind"] != "name" else named_right(row, "likeliest")


class _Asked:
    """Questions whose answers are weighed together, each once."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.regions: list[Mapping[int, Any]] = []
        self.answers: list[Sequence[str]] = []
        self.rows: list[dict[str, float]] = []
        self._known: dict[str, int] = {}

    def add(self, question: str, regions: Mapping[int, Any], answers: Sequence[str]) -> int:
        """The place of its row, when all were asked."""
        key = f"{question} {sorted(regions.items())!r}"
        if key not in self._known:
            self._known[key] = len(self.questions)
            self.questions.append(question)
            self.regions.append(regions)
            self.answers.append(answers)
        return self._known[key]

    def ask(self, session: ChatSession) -> None:
        self.rows = session.likelihoods(self.questions, self.answers, self.regions, within=SHARES_WITHIN)


def _named(text: str, row: Mapping[str, float]) -> Answer:
    shares = softmax(row)
    best = next(iter(shares))
    return Answer(text, prompts.normalise_answer(text), shares[best], shares, extra={"likeliest": best})


def _yes_no(text: str, row: Mapping[str, float]) -> Answer:
    shares = softmax(row)
    return Answer(text, text, shares["Yes."], extra={"margin": row["Yes."] - row["No."]})


def _which(
    text: str, name: str, named: Sequence[Mapping[str, float]], asked: Sequence[Mapping[str, float]]
) -> Answer:
    """The region in which the name has the largest share, and the one of which yes is the likeliest."""
    shares = [row[name] - _log_sum(row.values()) for row in named]
    margins = [row["Yes."] - row["No."] for row in asked]
    best = {key: 1 + v.index(max(v)) for key, v in (("by_name", shares), ("by_yes", margins))}
    return Answer(text, text, extra=best)


def _log_sum(values: Any) -> float:
    listed = list(values)
    top = max(listed)
    return top + math.log(math.fsum(math.exp(value - top) for value in listed))


class Figures:
    """Shares of right rows, each with `n_…` and its interval."""

    def __init__(self) -> None:
        self.scores: dict[str, Any] = {}
        self.intervals: dict[str, tuple[float, float]] = {}

    def add(
        self,
        figure: str,
        rows: Sequence[Mapping[str, Any]],
        right: Callable[[Mapping[str, Any]], bool],
    ) -> None:
        """The share of `rows` that are right; a failed row is wrong. Without rows there is no figure."""
        if rows:
            self.add_values(figure, rows, [float("failed" not in row and right(row)) for row in rows])

    def add_values(
        self,
        figure: str,
        rows: Sequence[Mapping[str, Any]],
        values: Sequence[float],
        mean: float | None = None,
    ) -> None:
        self.scores[figure] = sum(values) / len(values) if mean is None else mean
        self.scores[f"n_{figure}"] = len(values)
        self.intervals[figure] = interval(values, [row["image_id"] for row in rows])


def size_of(share: float) -> str:
    """`small`, `medium` or `large` of a box that covers a share of its picture."""
    return "small" if share < SMALL else "medium" if share < MEDIUM else "large"


def groups_of_names(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """All rows, those without persons, and those of each size, by what their figures' names end with."""
    groups = {"": list(rows), "_not_person": [row for row in rows if row["truth"] != "person"]}
    for size in ("small", "medium", "large"):
        groups[f"_{size}"] = [row for row in rows if size_of(row["share"]) == size]
    return groups


def named_right(row: Mapping[str, Any], key: str) -> bool:
    return answers.is_right("name", row["truth"], str(row.get(key, "")))


def add_names(figures: Figures, rows: Sequence[Mapping[str, Any]]) -> None:
    """By likelihood and generated: all, without persons, by size."""
    for figure, key in (("names", "likeliest"), ("names_generated", "answer")):

        def right(row: Mapping[str, Any], key: str = key) -> bool:
            return named_right(row, key)

        for suffix, group in groups_of_names(rows).items():
            figures.add(figure + suffix, group, right)


def name_tables(gt: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """mAP (a region's likeliest name with its share, ties by ids), and the tables by class."""
    detections = [
        {"id": str(row["annotation"]), "image_id": row["image_id"], "failed": row["failed"]}
        if "failed" in row
        else {
            "id": str(row["annotation"]),
            "image_id": row["image_id"],
            "raw_answer": row["likeliest"],
            "answer": row["likeliest"],
            "score": row["score"],
        }
        for row in rows
    ]
    found = score_task("region_classification", gt, detections, "scored", subset=True)
    return {key: found[key] for key in ("mAP", "per_class", "confusions")}


def add_yes_no(figures: Figures, rows: Sequence[Mapping[str, Any]]) -> None:
    def likely(row: Mapping[str, Any]) -> bool:
        return bool((row["margin"] > 0) == row["yes"])

    def blank(row: Mapping[str, Any]) -> bool:
        return bool((row["without_picture"] > 0) == row["yes"])

    figures.add("yes_no", rows, likely)
    figures.add(
        "yes_no_generated", rows, lambda row: prompts.parse_yes_no(row.get("answer", "")) == row["yes"]
    )
    figures.add("yes_no_without_picture", rows, blank)
    figures.add("yes_no_elsewhere", [row for row in rows if row["elsewhere"]], likely)
    sound = [row for row in rows if "failed" not in row]
    if sound:
        figures.scores["yes_ratio"] = sum(row["margin"] > 0 for row in sound) / len(sound)


def said_direction(text: str) -> str | None:
    """The first direction in an answer such as "Region [1] is to the left of region [2].", or None."""
    said = prompts.normalise_answer(text)
    places = {name: said.find(words) for name, words in DIRECTION_WORDS.items() if words in said}
    return min(places, key=places.__getitem__) if places else None


def add_captions(
    figures: Figures, rows: Sequence[Mapping[str, Any]], items: Mapping[int, Sequence[Item]]
) -> None:
    """`METEOR` and `CIDEr` of captions; a failed one is empty. The interval of CIDEr keeps its idf fixed."""
    references = {
        item.id: item.details["captions"]
        for own in items.values()
        for item in own
        if "captions" in item.details
    }
    expected = {row["id"]: references[row["id"]] for row in rows}
    said = {row["id"]: str(row.get("answer", "")) for row in rows}
    scores, each = caption_scores(expected, said)
    for figure in ("METEOR", "CIDEr"):
        values = [each[row["id"]][figure] for row in rows]
        figures.add_values(figure, rows, values, scores[figure])

"""Drawn scenes: every skill of `tiny`, on scenes whose seeds no training run uses.

Training draws from seeds 1,000,000 and up to 2,000,000,000; evaluation from `FIRST_SEED` up. `--seed S` is
the S-th block of a million seeds, so that different seeds share no scene.

Every question is asked in a conversation of its own, regions given as mask or box in turns; the answer is
generated greedily (`referring_likelihood` alone is computed, see `ChatSession.choose`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rgpt import answers, prompts
from rgpt.chat import ChatSession
from rgpt.data import scene_questions as questions
from rgpt.data.scenes import SHAPES, DrawnObject, DrawnScene, draw_scene
from rgpt.regions import Mask, Region

FIRST_SEED = 3_000_000_000
BLOCK = 1_000_000
CANDIDATES = 5
SCALES = (1.5, 2.0, 3.0, 4.0)


KINDS = (
    "classification", "classification_small", "brief_caption", "unguided", "detailed_caption", "relation",
    "comparison", "yes_no", "count", "picture_caption", "referring", "no_match",
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One question: `kind` names the figure it counts for."""

    scene_seed: int
    kind: str
    exchange: questions.Exchange
    regions: dict[int, Region]
    object_size: str | None = None


def scene_for(seed: int, index: int) -> DrawnScene:
    """Scene `index` of block `seed`; every second one has five or six objects, enough to refer among."""
    scene_seed = FIRST_SEED + seed * BLOCK + index
    crowd = index % 2 == 0
    return draw_scene(scene_seed, random.Random(f"scale {scene_seed}").choice(SCALES), 5 if crowd else 2, 6)


def items(scene: DrawnScene, as_: str = "mixed") -> Iterator[Item]:
    """The questions asked about one scene."""
    rng = random.Random(f"questions {scene.scene.seed}")
    n = questions.number_objects(scene.scene, rng)
    count = min(CANDIDATES, len(n.order))
    n = questions.Numbered(n.scene, n.order[:count])
    regions = {i: as_region(scene.objects[n.order[i - 1]], as_, rng) for i in n.numbers}

    def item(kind: str, exchange: questions.Exchange | None) -> Iterator[Item]:
        if exchange is not None:
            number = exchange.details.get("region")
            yield Item(scene.scene.seed, kind, exchange, regions, n[number].size if number else None)

    yield from item("classification", questions.classification(n, rng))
    small = [i for i in n.numbers if n[i].size == "small"]
    if small:
        yield from item("classification_small", questions.classification(n, rng, rng.choice(small)))
    yield from item("brief_caption", questions.brief_caption(n, rng, unguided=0.0))
    yield from item("unguided", questions.brief_caption(n, rng, unguided=1.0))
    yield from item("detailed_caption", questions.detailed_caption(n, rng))
    yield from item("relation", questions.relation(n, rng))
    yield from item("comparison", rng.choice((questions.compare_size, questions.compare_attribute))(n, rng))
    for maker in (questions.verify, questions.verify_relation, questions.exists):
        yield from item("yes_no", maker(n, rng))
    yield from item("count", questions.count(n, rng))
    yield from item("picture_caption", questions.picture_caption(n, rng))
    if count == CANDIDATES:
        yield from item("referring", questions.referring(n, rng, no_match=0.0))
        yield from item("no_match", questions.referring(n, rng, no_match=1.0))


def as_region(o: DrawnObject, as_: str, rng: random.Random) -> Region:
    """The object as `mask`, as `box`, or as one of the two at random (`mixed`)."""
    if as_ == "mixed":
        as_ = rng.choice(("mask", "box"))
    return Mask(o.mask) if as_ == "mask" else o.box


READ_AS = {
    "referring": "region",
    "no_match": "region",
    "yes_no": "yes_no",
    "count": "count",
    **dict.fromkeys(
        ("classification", "classification_small", "brief_caption", "unguided", "relation", "comparison"),
        "name",
    ),
}
"""Kinds of items by how their answers are read (`rgpt.answers`)."""


def right(item: Item, answer: str) -> bool:
    """Whether an answer is right. Nothing but the truth of the drawing is looked at."""
    e = item.exchange
    if item.kind == "detailed_caption":
        text = prompts.normalise_answer(answer)
        return str(e.truth) in text and f"in the {e.details['place']} of" in text
    if item.kind == "picture_caption":
        return sorted(listed_objects(answer)) == sorted(e.truth)  # type: ignore[call-overload]
    if item.kind in READ_AS:
        return answers.is_right(READ_AS[item.kind], e.answer, answer)
    raise ValueError(f"unknown kind {item.kind!r}")


def listed_objects(caption: str) -> list[str]:
    """ "A red circle, an orange star and a blue bar." -> ["red circle", "orange star", "blue bar"]"""
    text = prompts.normalise_answer(caption).replace(" and ", ", ")
    return [piece.strip().split(" ", 1)[-1] for piece in text.split(",") if piece.strip()]


def predict(
    session: ChatSession,
    seed: int,
    count: int,
    as_: str = "mixed",
    only: set[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Prediction rows of `count` scenes."""
    for index in range(count):
        yield from scene_rows(session, scene_for(seed, index), as_, only)


def scene_rows(
    session: ChatSession, scene: DrawnScene, as_: str = "mixed", only: set[str] | None = None
) -> list[dict[str, Any]]:
    """Prediction rows of one scene. Its questions do not know of each other and are asked in one batch."""
    asked = [(k, item) for k, item in enumerate(items(scene, as_)) if not only or item.kind in only]
    began = time.perf_counter()
    session.set_image(scene.image)
    answers = _answers(session, [item for _, item in asked])
    rows = [_row(session, k, item, answer) for (k, item), answer in zip(asked, answers, strict=True)]
    for row in rows:
        row["seconds"] = round((time.perf_counter() - began) / len(rows), 4)
    return rows


def _answers(session: ChatSession, asked: list[Item]) -> list[str | ValueError]:
    try:
        questions_ = [item.exchange.question for item in asked]
        return list(session.ask_each(questions_, [item.regions for item in asked], max_new_tokens=80))
    except ValueError as problem:
        # One bad question spoils the batch: ask each by itself, so that only the bad one fails.
        return [problem] if len(asked) == 1 else [_answers(session, [item])[0] for item in asked]


def _row(session: ChatSession, position: int, item: Item, answer: str | ValueError) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": f"{item.scene_seed}/{position}",
        "image_id": item.scene_seed,
        "kind": item.kind,
        "task": item.exchange.task,
        "prompt": item.exchange.question,
        "regions": [region.to_json() for _, region in sorted(item.regions.items())],
        "expected": item.exchange.answer,
        "object_size": item.object_size,
    }
    if isinstance(answer, ValueError):  # recorded as failed, never as an empty answer
        return row | {"failed": str(answer)}
    row |= {"raw_answer": answer, "answer": answer, "score": None, "right": right(item, answer)}
    if item.kind == "referring":
        session.regions = dict(item.regions)
        try:
            number, scores = session.choose(item.exchange.details["text"])
        except ValueError as problem:
            return row | {"failed": str(problem)}
        row["likelihood_answer"], row["likelihood_scores"] = number, scores
        row["likelihood_right"] = number == item.exchange.truth
    return row


def is_right(row: dict[str, Any], key: str = "right") -> bool:
    """A failed item is wrong, whatever else its row holds."""
    return bool(row.get(key)) and "failed" not in row


def score(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of 1 by kind. A failed item counts as wrong and is counted in `failed`."""
    scores: dict[str, Any] = {}
    for kind in sorted({row["kind"] for row in rows}):
        these = [row for row in rows if row["kind"] == kind]
        scores[kind] = sum(is_right(row) for row in these) / len(these)
        scores[f"n_{kind}"] = len(these)
    referring = [row for row in rows if row["kind"] == "referring"]
    if referring:
        scores["referring_likelihood"] = sum(is_right(r, "likelihood_right") for r in referring) / len(
            referring
        )
    closed = [row for row in rows if row["kind"] in ("classification", "classification_small")]
    if closed:
        inside = sum(prompts.normalise_answer(row.get("answer", "")) in SHAPES for row in closed)
        scores["inside_vocabulary"] = inside / len(closed)
    for task in sorted({row["task"] for row in rows if row["kind"] in ("yes_no", "comparison")}):
        these = [row for row in rows if row["task"] == task]
        scores[f"by_task/{task}"] = sum(is_right(row) for row in these) / len(these)
    return scores | {"n": len(rows), "failed": sum("failed" in row for row in rows)}

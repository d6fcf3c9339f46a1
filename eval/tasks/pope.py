"""POPE: is there a … in the image? Half of the questions are about what is not there."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.layouts.pope import YesNoQuestion, read_questions
from eval.metrics.yes_no import pope_answer
from eval.score import score_task
from eval.tasks.base import Answer, Item, Picture, Task, check_pictures, picture_path, softmax
from rgpt.chat import ChatSession
from rgpt.data.scene_questions import article
from rgpt.data.scenes import SHAPES, DrawnScene
from rgpt.errors import InputError

PROTOCOLS = ("author-script", "strict", "scored")
SETTINGS = ("random", "popular", "adversarial")
YES_NO = ("Yes.", "No.")


@dataclass
class Pope(Task):
    """
    Args:
        data: a POPE question file, or its rows.
        images: folder of the pictures; or pictures by file name (drawn scenes).
        suffix: said after every question, e.g. "Answer the question using a single word or phrase."
        limit: pictures, the first of the file.
    """

    data: Any
    images: Path | Mapping[str, Any]
    protocol: str = "author-script"
    suffix: str = ""
    limit: int | None = None
    batch_size: int = 32
    max_new_tokens: int = 24
    name: str = field(default="pope", init=False)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InputError.about("protocol", ", ".join(PROTOCOLS), repr(self.protocol))

    def pictures(self) -> Sequence[Picture]:
        by_image: dict[str, list[YesNoQuestion]] = {}
        for question in read_questions(self.data):
            by_image.setdefault(question.image, []).append(question)
        pictures = []
        for image, questions in list(by_image.items())[: self.limit]:
            items = tuple(
                Item(q.id, f"{q.text} {self.suffix}".strip(), truth="yes" if q.label else "no")
                for q in questions
            )
            source: Any = (
                picture_path(self.images, image) if isinstance(self.images, Path) else self.images[image]
            )
            ids = tuple(item.id for item in items)
            pictures.append(Picture(image, source, ids, lambda items=items: items))
        check_pictures(pictures, "POPE")
        return pictures

    def answers(self, session: ChatSession, items: Sequence[Item]) -> list[Answer]:
        questions = [item.prompt for item in items]
        if self.protocol == "scored":
            found = []
            for values in session.rank_each(questions, YES_NO):
                shares = softmax(values)
                best = next(iter(shares))
                yes_no = {name.strip(".").lower(): share for name, share in shares.items()}
                found.append(Answer(best, best.strip(".").lower(), shares[best], yes_no))
            return found
        texts = session.ask_each(questions, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)
        return [Answer(text) for text in texts]

    def ground_truth(self) -> Any:
        return self.data

    def score(self, gt: Any, rows: Sequence[Mapping[str, Any]], whole: bool) -> dict[str, Any]:
        return score_task(self.name, gt, [dict(row) for row in rows], self.protocol, subset=not whole)

    def is_right(self, row: Mapping[str, Any], item: Item) -> bool:
        return "failed" not in row and pope_answer(str(row["raw_answer"])) == (item.truth == "yes")


def drawn_questions(
    scenes: Sequence[tuple[str, DrawnScene]], setting: str, seed: int
) -> list[dict[str, Any]]:
    """POPE rows about drawn scenes: of each, up to three shapes that are there and as many that are not.

    As in POPE, what is not there is drawn at `random`, or is the most `popular` shape of all scenes, or the
    one that most often stands beside those that are there (`adversarial`).
    """
    if setting not in SETTINGS:
        raise InputError.about("setting", ", ".join(SETTINGS), repr(setting))
    present = {name: sorted({o.shape for o in scene.objects}) for name, scene in scenes}
    popular = Counter(shape for shapes in present.values() for shape in shapes)
    beside = Counter((a, b) for shapes in present.values() for a in shapes for b in shapes if a != b)
    rows: list[dict[str, Any]] = []
    for name, shapes in present.items():
        rng = random.Random(f"{setting} {seed} {name}")
        absent = [shape for shape in SHAPES if shape not in shapes]
        rng.shuffle(absent)
        if setting == "popular":
            absent.sort(key=lambda shape: -popular[shape])
        elif setting == "adversarial":
            absent.sort(key=lambda shape: -sum(beside[other, shape] for other in shapes))
        there = rng.sample(shapes, min(3, len(shapes)))
        for yes, no in zip(there, absent, strict=False):
            for shape, label in ((yes, "yes"), (no, "no")):
                text = f"Is there {article(shape)} in the image?"
                rows.append({"question_id": len(rows) + 1, "image": name, "text": text, "label": label})
    return rows

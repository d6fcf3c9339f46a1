"""What every task has in common: items, grouped by picture, asked of a session, kept as rows.

A task turns data into `Picture`s, asks a session everything about one of them, and scores rows. How rows are
written, resumed, divided between processes and reported is not its business (`eval/run.py`, `eval/store.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from eval.recognizers import RecognizerSession, is_recognizer
from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.regions import Region, open_image

RECORDED = (InputError, OSError, torch.OutOfMemoryError)
"""What may be wrong with one item. Anything else is a mistake in the program and stops the run."""


@dataclass(frozen=True)
class Item:
    """One question. `prompt` mentions `<regionN>` for `regions[N]`; `truth` is for people to read.

    `problem`: why it cannot be asked at all, e.g. a region outside of its picture.
    """

    id: str
    prompt: str
    regions: Mapping[int, Region] = field(default_factory=dict)
    truth: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Picture:
    """A picture and all that is asked about it.

    `image` is a path, or a function that makes the picture. `make_items` gives the items of `ids` (None: not
    known before), in this
    order, when they are needed: the masks of a whole data set do not fit into memory.
    """

    id: int | str
    image: Path | Callable[[], Any]
    ids: tuple[str, ...] | None
    make_items: Callable[[], Sequence[Item]]

    @cached_property
    def items(self) -> Sequence[Item]:
        return self.make_items()

    def open(self) -> Any:
        return open_image(self.image) if isinstance(self.image, Path) else self.image()


@dataclass(frozen=True)
class Answer:
    """What the model said to one item, or why it could not be asked."""

    raw: str = ""
    parsed: str | int | None = None
    score: float | None = None
    scores: Mapping[str, float] | None = None
    failed: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Task:
    """One benchmark. Subclasses give `pictures`, `answers` and `score`."""

    name: str
    protocol: str

    def pictures(self) -> Sequence[Picture]:
        """The data, in a fixed order. Raises InputError, before any model is opened."""
        raise NotImplementedError

    def open_session(self, model: str, **options: Any) -> Any:
        """The model that is asked: a region recognizer or a chat model. `options`: of `rgpt.placement`."""
        if is_recognizer(model):
            return RecognizerSession(model, options.get("device"))
        return ChatSession.from_pretrained(model, **options)

    def answers(self, session: ChatSession, items: Sequence[Item]) -> list[Answer]:
        """Ask the items of one picture, which is set; the session is fresh."""
        raise NotImplementedError

    def ground_truth(self) -> Any:
        """What `eval.score` needs beside the rows: a path, or a value that is written to `gt.json`."""
        raise NotImplementedError

    def score(self, gt: Any, rows: Sequence[Mapping[str, Any]], whole: bool) -> dict[str, Any]:
        """Scores of the rows; `whole`: every item of the ground truth was asked."""
        raise NotImplementedError

    def is_right(self, row: Mapping[str, Any], item: Item) -> bool | None:
        """Whether a row is right, for the contact sheet of mistakes; None where that is no question."""
        return None

    def found(self, row: Mapping[str, Any]) -> list[tuple[Region, str, float]] | None:
        """What a row found on its picture, best first: (region, name, score); None of other tasks."""
        return None

    def rows(self, session: ChatSession, picture: Picture) -> list[dict[str, Any]]:
        """Ask everything about one picture. An item that fails is recorded as failed; others go on."""
        items = picture.make_items()
        sound = [item for item in items if item.problem is None]
        began = time.perf_counter()
        try:
            image = picture.open()
            began = time.perf_counter()  # `seconds` are the model's, not those of reading or drawing pictures
            session.set_image(image)
            answers = self._guarded(session, sound) if sound else []
        except RECORDED as problem:
            answers = [Answer(failed=_sentence(problem))] * len(sound)
        seconds = (time.perf_counter() - began) / max(1, len(items))
        said = iter(answers)
        return [
            self._row(picture, item, Answer(failed=item.problem) if item.problem else next(said), seconds)
            for item in items
        ]

    def _guarded(self, session: ChatSession, items: Sequence[Item]) -> list[Answer]:
        try:
            return self.answers(session, items)
        except RECORDED as problem:
            if len(items) == 1:
                return [Answer(failed=_sentence(problem))]
        # One bad item spoils the batch: ask each by itself, so that only the bad one fails.
        found = []
        for item in items:
            session.reset()
            found += self._guarded(session, [item])
        return found

    def _row(self, picture: Picture, item: Item, answer: Answer, seconds: float) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": item.id,
            "image_id": picture.id,
            "task": self.name,
            "prompt": item.prompt,
            "regions": [region.to_json() for _, region in sorted(item.regions.items())],
        }
        if answer.failed is None:
            parsed = answer.raw if answer.parsed is None else answer.parsed
            row |= {"raw_answer": answer.raw, "answer": parsed, "score": answer.score}
            if answer.scores is not None:
                row["scores"] = dict(answer.scores)
            row |= answer.extra
        else:
            row["failed"] = answer.failed
        return row | {"seconds": round(seconds, 4)}


def _sentence(problem: BaseException) -> str:
    text = " ".join(str(problem).split()) or type(problem).__name__
    return text[:500]


def softmax(values: Mapping[str, float]) -> dict[str, float]:
    """Confidences over names from their log-likelihoods, the likeliest first."""
    logs = torch.tensor(list(values.values()), dtype=torch.float64)
    shares = dict(zip(values, logs.softmax(0).tolist(), strict=True))
    return dict(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0])))


def picture_path(folder: Path, *names: str) -> Path:
    """The first of `names` that exists in `folder`, or the first of all (whose absence fails its items)."""
    paths = [folder / name for name in dict.fromkeys(names)]
    return next((path for path in paths if path.is_file()), paths[0])


def check_pictures(pictures: Sequence[Picture], what: str) -> None:
    """Refuse data without items, or whose pictures are all missing, before any model is opened."""
    if not any(picture.ids is None or picture.ids for picture in pictures):
        raise InputError.about(what, "at least one item", "none", "check data and split")
    paths = [picture.image for picture in pictures if isinstance(picture.image, Path)]
    if paths and not any(path.is_file() for path in paths):
        raise InputError.about(
            what, f"pictures such as {paths[0]}", "none of them", "give --images their folder"
        )

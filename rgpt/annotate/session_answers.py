"""Answers of our own models: rankings of closed questions, written answers of open ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rgpt.annotate.questions import Question
from rgpt.annotate.records import KEPT, Answer, Target
from rgpt.errors import InputError
from rgpt.regions import Frame, Region
from rgpt.regions.close_up import close_up_box

if TYPE_CHECKING:
    from PIL import Image

    from rgpt.chat import ChatSession

CONTEXTS = ("image", "crop", "both")
MARGIN = 0.25
"""Of a crop's box on every side, in parts of its sides."""
TOKENS = 60
BATCH = 32


def check_context(context: str, questions: Sequence[Question]) -> None:
    """Raises InputError: rankings have a mean, sentences have none."""
    written = [question.key for question in questions if not question.choices]
    if context == "both" and written:
        raise InputError.about(
            "--context both", "ranked questions alone (names, enumerations)", written[0], "ask it separately"
        )


class SessionAnswerer:
    """A RegionGPT.

    Args:
        context: the region on the whole `image`, on its `crop`, or the mean of `both` rankings.
    """

    def __init__(self, session: ChatSession, questions: Sequence[Question], context: str = "image") -> None:
        self.session, self.questions, self.context = session, list(questions), context

    def answer(self, image: Image.Image, targets: Sequence[Target]) -> Iterator[dict[str, Answer]]:
        """The answers about each target, in order; some are computed together.

        A region that does not fit the picture, or a question too long for the context, is a problem of that
        object alone.
        """
        if self.context != "crop":
            self.session.set_image(image)
        for start in range(0, len(targets), BATCH):
            part = targets[start : start + BATCH]
            regions: list[Region] = [target.region for target in part]
            whole = self._asked(self.session, regions) if self.context != "crop" else []
            for k, region in enumerate(regions):
                near = self._near(image, region) if self.context != "image" else {}
                yield near if not whole else whole[k] if not near else _mean(whole[k], near, self.questions)

    def _near(self, image: Image.Image, region: Region) -> dict[str, Answer]:
        """The answers about a region on a close-up of it."""
        try:
            crop = Frame(image, {1: region}).crop(close_up_box(image, region, MARGIN))
            session = type(self.session)(self.session.model, self.session.processor)
            session.set_image(crop.image)
        except InputError as error:
            return {question.key: Answer(problem=str(error)) for question in self.questions}
        return self._asked(session, [crop.regions[1]])[0]

    def _asked(self, session: ChatSession, regions: Sequence[Region]) -> list[dict[str, Answer]]:
        found: list[dict[str, Answer]] = [{} for _ in regions]
        for question in self.questions:
            try:
                answers = self._each(session, question, regions)
            except InputError:  # of one region, or of the question: then of every region
                answers = [self._alone(session, question, region) for region in regions]
            for own, answer in zip(found, answers, strict=True):
                own[question.key] = answer
        return found

    def _alone(self, session: ChatSession, question: Question, region: Region) -> Answer:
        try:
            return self._each(session, question, [region])[0]
        except InputError as error:
            return Answer(problem=str(error))

    def _each(self, session: ChatSession, question: Question, regions: Sequence[Region]) -> list[Answer]:
        from rgpt.chat.chat_session import SHARES_WITHIN

        for region in regions:
            region.check_inside(session.image.height, session.image.width)
        texts, own = [question.text] * len(regions), [{1: region} for region in regions]
        if question.choices:
            rows = session.likelihoods(texts, [question.choices] * len(regions), own, within=SHARES_WITHIN)
            task = "name" if question.kind == "name" else "yes_no" if len(question.choices) == 2 else ""
            return [_ranked(question, session.calibration(task).shares(row)) for row in rows]
        said = session.ask_each(texts, own, max_new_tokens=TOKENS, batch_size=BATCH)
        spoken = [k for k, text in enumerate(said) if text.strip()]
        rows = session.likelihoods(
            [texts[k] for k in spoken], [[said[k]] for k in spoken], [own[k] for k in spoken]
        )
        read = session.processor.tokenizer
        lengths = {k: len(read(said[k], add_special_tokens=False)["input_ids"]) + 1 for k in spoken}
        sure = {k: math.exp(row[said[k]] / lengths[k]) for k, row in zip(spoken, rows, strict=True)}
        return [
            Answer(text, sure[k]) if k in sure else Answer(problem="empty answer")
            for k, text in enumerate(said)
        ]


def _ranked(question: Question, shares: dict[str, float]) -> Answer:
    kept = list(shares.items())[:KEPT]
    return Answer(question.value(kept[0][0]), kept[0][1], tuple(kept))


def _mean(one: dict[str, Answer], two: dict[str, Answer], questions: Sequence[Question]) -> dict[str, Answer]:
    """The mean of two rankings; of choices that only one has kept, the other has next to nothing."""
    found: dict[str, Answer] = {}
    for question in questions:
        a, b = one[question.key], two[question.key]
        if a.problem or b.problem:
            found[question.key] = a if b.problem else b
            continue
        rows: list[dict[str, Any]] = [dict(a.shares), dict(b.shares)]
        shares = {key: (rows[0].get(key, 0.0) + rows[1].get(key, 0.0)) / 2 for key in {**rows[0], **rows[1]}}
        found[question.key] = _ranked(question, dict(sorted(shares.items(), key=lambda pair: -pair[1])))
    return found

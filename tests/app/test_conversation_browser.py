"""A conversation about one region in headless Chromium, with the models that people get: every kind of
region, everything one can do with a chat, and no refusal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pytest
from playwright.sync_api import expect

from app.engine import ModelEngine
from rgpt.data.scenes import draw_scene
from rgpt.errors import InputError
from rgpt.regions import Box, Region
from tests.app.conftest import serve
from tests.app.watched import Watch, watching

pytestmark = pytest.mark.browser

# Where an object is touched to draw it, as shares of its box.
KINDS = {
    "box": [(0, 0), (1, 1)],
    "brush": [(0.3, 0.4), (0.7, 0.5), (0.3, 0.6)],
    "polygon": [(0.1, 0), (0.9, 0.1), (1, 1), (0, 0.9), (0.1, 0)],
    "point": [(0.5, 0.5)],
}
QUESTIONS = ("Describe <region{}>.", "What colour is <region{}>?", "What is <region{}>?")


class Served(NamedTuple):
    name: str
    address: str
    watch: Watch


@pytest.fixture(scope="module", params=["tiny", "photo"])
def served(request) -> Iterator[Served]:
    """The app with a real model."""
    try:
        engine = ModelEngine.load(request.param)
    except InputError as error:
        if request.param == "tiny":
            raise
        pytest.skip(f"{request.param} cannot be opened here: {error}")
    watch = Watch()
    with watching(watch):
        page, address = serve(engine)
        yield Served(request.param, address, watch)
        page.close()


class Talk:
    """One visitor's conversation, and how many answers it should have."""

    def __init__(self, visitor, watch: Watch) -> None:
        self.visitor, self.watch, self.count = visitor, watch, 0

    def draw(self, kind: str, on: Box) -> int:
        """Draw a region on an object; the number that the page gives it."""
        points = [(on.x1 + x * (on.x2 - on.x1), on.y1 + y * (on.y2 - on.y1)) for x, y in KINDS[kind]]
        self.visitor.tool(kind)
        (self.visitor.drag if kind in ("box", "brush") else self.visitor.click)(*points)
        return self.visitor.numbers()[-1]

    def ask(self, question: str) -> str:
        before, self.count = len(self.watch.streams), self.count + 1
        self.visitor.ask(question)
        return self._answer(before)

    def press(self, button: str) -> None:
        self.visitor.page.locator(f"#cb button[aria-label={button}]").last.click()

    def retry(self) -> str:
        before = len(self.watch.streams)
        self.press("Retry")
        return self._answer(before)

    def _answer(self, before: int) -> str:
        """Wait for it; nothing was refused, and no earlier answer was lost."""
        while len(self.watch.streams) == before:  # until it has begun, the page looks as if it had ended
            assert self.visitor.toast.count() == 0, self.visitor.toast.all_inner_texts()
            self.visitor.page.wait_for_timeout(20)
        expect(self.visitor.stop_button).to_be_hidden()
        answer = self.visitor.answered(r"\w", self.count)
        assert self.visitor.toast.count() == 0, self.visitor.toast.all_inner_texts()
        assert not any(text.startswith("(failed") for text in self.visitor.answers.all_inner_texts())
        asked = self.watch.streams[-1]
        assert len(asked.history) == self.count - 1
        return answer


def masks(regions: Mapping[int, Region], size: tuple[int, int]) -> dict[int, np.ndarray]:
    return {number: region.to_mask(size[1], size[0]) for number, region in regions.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_three_questions_about_one_region_and_all_that_may_follow(served: Served, visit, kind: str) -> None:
    visitor, watch = visit(served.address), served.watch
    watch.start_anew()
    scene = draw_scene(42)
    first, second, *_ = sorted(scene.objects, key=lambda shown: -shown.mask.sum())
    visitor.upload(scene.image)
    talk = Talk(visitor, watch)
    number = talk.draw(kind, first.box)
    questions = [question.format(number) for question in QUESTIONS]
    answers = [talk.ask(question) for question in questions]
    assert [turn.question for turn in watch.streams[-1].history] == questions[:2]

    assert talk.retry() == answers[2]
    talk.press("Undo")
    expect(visitor.message).to_have_value(questions[2])
    expect(visitor.answers).to_have_count(2)
    talk.count = 2
    assert talk.ask(questions[2]) == answers[2]
    drawn = masks(watch.streams[-1].regions, visitor.size)[number]

    visitor.page.get_by_label(f"Remove region {number}").click()
    redrawn = talk.draw(kind, second.box)
    answers.append(talk.ask(QUESTIONS[0].format(redrawn)))
    again = masks(watch.streams[-1].regions, visitor.size)[redrawn]
    assert not np.array_equal(drawn, again)
    visitor.shot(f"conversation_{served.name}_{kind}")

    def check_after_coming_back() -> None:
        """The chat is there, and goes on with every turn's own region."""
        expect(visitor.answers).to_have_text(answers)
        assert visitor.numbers() == [redrawn]
        talk.ask(QUESTIONS[1].format(redrawn))
        asked = watch.streams[-1]
        assert np.array_equal(masks(asked.regions, visitor.size)[redrawn], again)
        for turn in asked.history[:3]:
            assert np.array_equal(masks(turn.regions, visitor.size)[number], drawn)
        assert np.array_equal(masks(asked.history[3].regions, visitor.size)[redrawn], again)
        talk.retry()

    _, content = visitor.download("Export JSON")
    assert [sorted(turn["regions"]) for turn in json.loads(content)["turns"]] == [
        *[[str(number)]] * 3,
        [str(redrawn)],
    ]
    visitor.reload()
    check_after_coming_back()
    visitor._changing_picture(lambda: visitor.import_json(content))
    talk.count = 4
    check_after_coming_back()
    assert talk.ask(f"Is <region{redrawn}> round?")

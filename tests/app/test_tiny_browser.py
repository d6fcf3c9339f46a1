"""The embedded model in the browser: a box and a brush mask drawn with the mouse get true answers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.app.conftest import serve

pytestmark = pytest.mark.browser

SEED = 42  # training draws from 1,000,000 up


@pytest.fixture(scope="module")
def tiny() -> Iterator[str]:
    """The address of the app with the embedded model."""
    from app.engine import ModelEngine

    page, address = serve(ModelEngine.load("tiny"))
    yield address
    page.close()


def test_a_box_and_a_brush_mask_get_true_answers(tiny, visit):
    from rgpt.data.scenes import draw_scene

    scene = draw_scene(SEED)
    boxed, painted, *_ = sorted(scene.objects, key=lambda shown: -shown.mask.sum())
    visitor = visit(tiny)
    visitor.upload(scene.image)
    visitor.drag((boxed.box.x1, boxed.box.y1), (boxed.box.x2, boxed.box.y2))
    visitor.tool("brush")
    x1, y1, x2, y2 = painted.box.xyxy
    reach, middle = 0.25 * (x2 - x1), ((x1 + x2) / 2, (y1 + y2) / 2)
    visitor.drag((middle[0] - reach, middle[1]), middle, (middle[0] + reach, middle[1]))

    for turn, (number, shown) in enumerate({1: boxed, 2: painted}.items(), 1):
        visitor.ask(f"Describe <region{number}>.")
        answer = visitor.answered(r"\.\s*$", count=turn)
        assert re.search(rf"\b{shown.colour}\b.*\b{shown.shape}\b", answer), (answer, shown.scene_object)
    visitor.shot("tiny_box_and_brush")

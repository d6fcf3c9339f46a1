"""The embedded model in the browser: a box and a brush mask drawn with the mouse get true answers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

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
        # An uploaded picture may be a photograph, for all that the app can tell.
        answer = visitor.answered(r"\.\s+On a photograph this means nothing", count=turn)
        assert re.search(rf"\b{shown.colour}\b.*\b{shown.shape}\b", answer), (answer, shown.scene_object)
    visitor.message.fill("Describe <region>.")
    visitor.page.get_by_role("button", name="Every region").click()
    rows = visitor.table.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(visitor.send_button).to_be_visible()
    for row, shown in zip(rows.all(), (boxed, painted), strict=True):
        expect(row).to_contain_text(re.compile(rf"\b{shown.colour}\b.*\b{shown.shape}\b"))
    note = visitor.page.locator(".hd-model")
    expect(note).to_contain_text("Model: tiny")
    expect(note).to_contain_text("Knows drawn scenes only")
    visitor.shot("tiny_1400")
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    visitor.shot("tiny_390", full_page=False)

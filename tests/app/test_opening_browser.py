"""The page as a first visitor finds it: a photograph, a region on it, and an answer at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.app.conftest import serve

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The app with random weights, whose answers mean nothing."""
    from app.engine import ModelEngine
    from app.examples import shown_with
    from tests.model.tiny_models import make_model, make_processor

    model = make_model()
    engine = ModelEngine(model, make_processor(model.config), "random")
    page, address = serve(engine, **shown_with(engine.about))
    yield address
    page.close()


def test_a_photograph_and_its_region_are_there(address, visit):
    visitor = visit(address)
    expect(visitor.chips).to_have_count(1)
    visitor.page.get_by_role("button", name="Name it").click()
    expect(visitor.message).to_have_value("What is <region1>?")
    visitor.message.press("Enter")
    expect(visitor.answers).to_have_count(1)
    expect(visitor.send_button).to_be_visible()
    expect(visitor.page.get_by_label("Draw a new scene")).to_have_count(0)
    visitor.page.get_by_label("Example picture 2").click()
    expect(visitor.answers).to_have_count(0)
    expect(visitor.chips).to_have_count(1)
    visitor.reload()
    expect(visitor.chips).to_have_count(1)

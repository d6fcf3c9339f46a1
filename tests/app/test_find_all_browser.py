"""Objects of a photograph without a SAM, in Chromium with the real `photo`: found, named, talked about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from app.engine import ModelEngine
from app.examples import shown_with
from rgpt.errors import InputError
from rgpt.recognizers.object_proposals import load_proposals
from tests.app.conftest import serve

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    try:
        engine = ModelEngine.load("photo")
        load_proposals()
    except InputError as error:
        pytest.skip(f"photo cannot be opened here: {error}")
    page, address = serve(engine, **shown_with(engine.about))
    yield address
    page.close()


def test_what_is_found_on_a_photograph_is_named_and_can_be_asked_about(address, visit):
    visitor = visit(address)
    expect(visitor.chips).to_have_count(1)
    visitor.page.get_by_role("button", name="Find all").click()
    expect(visitor.chips).not_to_have_count(1, timeout=60_000)
    count = visitor.chips.count()
    assert 2 <= count <= 25
    visitor.page.get_by_role("button", name="Every region").click()
    rows = visitor.table.locator("tbody tr")
    expect(rows).to_have_count(count, timeout=60_000)
    expect(visitor.send_button).to_be_visible(timeout=120_000)
    expect(rows.nth(1)).to_contain_text("cat")  # the surest that was found: the cat of the photograph
    visitor.shot("found_on_a_photograph")
    rows.nth(1).get_by_role("button").click()
    expect(visitor.message).to_have_value("<region2> ")
    visitor.message.press_sequentially("What is it?")
    visitor.message.press("Enter")
    expect(visitor.answers).to_have_count(1, timeout=60_000)

"""SAM's two tools in headless Chromium, and a queue that is full."""

from __future__ import annotations

import json
import re
import uuid

import httpx
import pytest
from playwright.sync_api import expect

from tests.app.conftest import drawing, serve
from tests.app.fake_segmenter import Halves
from tests.app.watched import SAYS, watched

pytestmark = pytest.mark.browser

SIZE = (384, 288)


@pytest.fixture(scope="module")
def served():
    """The app with a segmenter, one answer at a time, and room for one more event in the queue."""
    with watched() as engine:
        page, address = serve(engine, segmenter=Halves(), queue=1, at_once=1)
        yield address, engine
        page.close()


@pytest.fixture
def visitor(regular):
    regular.upload(drawing(SIZE))
    return regular


def areas(engine) -> dict[int, int]:
    """In pixels, of the regions that the last question mentions."""
    asked = engine.streams[-1]
    size = asked.image.height, asked.image.width
    return {number: int(region.to_mask(*size).sum()) for number, region in asked.regions.items()}


def test_a_click_becomes_a_mask_and_is_chatted_about(visitor, engine):
    visitor.tool("segment")
    visitor.click((50, 100))
    expect(visitor.chips).to_have_count(1)
    expect(visitor.chips.first).to_contain_text("mask")
    visitor.click((60, 110))  # the same object
    visitor.drag((300, 100), (320, 120), (300, 140))  # a scribble
    expect(visitor.chips).to_have_count(2)
    visitor.shot("segmented")
    visitor.ask("<region1> <region2>")
    visitor.answered(SAYS)
    assert areas(engine) == {1: 55296, 2: 55296}
    visitor.page.locator("#rc [data-tool=box]").click()
    visitor.click((300, 200))  # a click on a region puts it into the message
    expect(visitor.message).to_have_value("<region2> ")
    visitor.reload()
    expect(visitor.chips).to_have_count(2)
    visitor.ask("<region2>")
    visitor.answered(SAYS, count=2)
    assert areas(engine) == {2: 55296}


def test_no_object_there(visitor, engine):
    visitor.tool("segment")
    visitor.click((50, 0.2))
    expect(visitor.toast).to_contain_text("halves sees no object there")
    expect(visitor.page.locator(".rc-hint")).to_contain_text("Click on an object")
    assert visitor.numbers() == []


def test_everything_then_the_table_then_a_region_then_the_chat(visitor, engine):
    visitor.drag((10, 10), (60, 60))
    visitor.page.get_by_role("button", name="Find all").click()
    expect(visitor.chips).to_have_count(3)
    visitor.page.get_by_role("button", name="Every region").click()
    rows = visitor.table.locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(visitor.send_button).to_be_visible()
    rows.nth(1).get_by_role("button").click()
    expect(visitor.message).to_have_value("<region2> ")
    visitor.shot("everything")
    visitor.message.press("Enter")
    visitor.answered(SAYS)
    assert areas(engine) == {2: 55296}
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    expect(visitor.canvas).to_have_css("width", re.compile(r"^3\d\d"))
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    box = visitor.page.locator("#rc [data-tool=segment]").bounding_box()
    assert box["x"] + box["width"] <= 380  # whole, inside its group
    visitor.page.evaluate("scrollTo(0, 0)")
    visitor.shot("everything_390", full_page=False)
    visitor.page.set_viewport_size({"width": 1400, "height": 1000})


def test_one_undo_takes_back_everything_that_was_found(visitor, engine):
    visitor.page.get_by_role("button", name="Find all").click()
    expect(visitor.chips).to_have_count(2)
    visitor.page.locator("#rc [data-act=undo]").click()
    assert visitor.numbers() == []


def test_a_full_queue_is_told_and_stop_still_works(browser, visitor, engine, served):
    engine.talk_on(delay=0.2)
    visitor.ask("Describe the picture.")
    expect(visitor.answers.last).to_contain_text("blue")
    # Somebody else waits for the model: the queue has no more room.
    config = httpx.get(f"{served[0]}config").json()
    (answer, *_) = [d["id"] for d in config["dependencies"] if d["api_name"] == "answer"]
    body = {"data": [None], "fn_index": answer, "session_hash": uuid.uuid4().hex}
    httpx.post(f"{served[0]}gradio_api/queue/join", json=body).raise_for_status()
    visitor.import_json(b"{}")
    visitor.wait_for_toast("currently busy")
    visitor.shot("queue_full")
    visitor.stop_button.click()
    expect(visitor.send_button).to_be_visible()
    assert engine.closed == 1
    engine.talk_on(False)
    visitor.ask("And now?")
    visitor.answered(SAYS, count=2)
    browser.leave_out("503 (Service Unavailable)")


def test_a_question_that_finds_the_queue_full_comes_back(browser, visitor, engine, served):
    """The check got through, the answer did not."""
    config = httpx.get(f"{served[0]}config").json()
    answers = {d["id"] for d in config["dependencies"] if d["api_name"].startswith("answer")}
    refused = []

    def refuse(route) -> None:
        if json.loads(route.request.post_data)["fn_index"] in answers and not refused:
            refused.append(route.request.url)
            route.fulfill(status=503, json={"detail": "Queue is full. Please try again."})
        else:
            route.continue_()

    visitor.page.route("**/queue/join*", refuse)
    visitor.ask("Describe the picture.")
    expect(visitor.toast.first).to_contain_text("currently busy")
    expect(visitor.message).to_have_value("Describe the picture.")
    expect(visitor.questions).to_have_count(0)
    expect(visitor.send_button).to_be_visible()
    assert refused and engine.streams == []
    visitor.message.press("Enter")
    visitor.answered(SAYS)
    visitor.page.unroute("**/queue/join*")
    browser.leave_out("503 (Service Unavailable)")

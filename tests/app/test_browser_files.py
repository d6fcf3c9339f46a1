"""Tables, files and reloads in headless Chromium: what leaves the page and what comes back."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from app.engine import Answering
from tests.app.conftest import drawing
from tests.app.driver import png
from tests.app.watched import SAYS

pytestmark = pytest.mark.browser

SIZE = (384, 288)


@pytest.fixture
def visitor(regular):
    """A visitor with a new picture of SIZE on the canvas."""
    regular.upload(drawing(SIZE))
    return regular


def draw_three_kinds(visitor) -> None:
    visitor.drag((20, 30), (120, 110))
    visitor.tool("brush")
    visitor.drag((200, 60), (300, 60))
    visitor.tool("polygon")
    visitor.click((60, 160), (160, 160), (160, 260), (60, 160))


def test_every_region_at_once_makes_a_table_with_csv(visitor, engine):
    draw_three_kinds(visitor)
    visitor.message.fill("How large is <region2>?")
    visitor.page.get_by_role("button", name="Every region").click()
    rows = visitor.table.locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(visitor.table).to_contain_text("How large is <region>?")
    expect(rows.nth(1)).to_contain_text(re.compile(rf"<region2>.*{SAYS}"))
    expect(visitor.send_button).to_be_visible()
    visitor.shot("table_1400")
    assert engine.batches == [("How large is <region>?", [1, 2, 3])]
    expect(visitor.questions).to_have_count(0)  # the chat does not know of it

    name, content = visitor.download("Download CSV")
    table = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
    assert name == "answers.csv" and [row["region"] for row in table] == ["1", "2", "3"]
    assert [float(table[0][key]) for key in ("x1", "y1", "x2", "y2")] == pytest.approx(
        [20, 30, 120, 110], abs=2
    )
    assert table[2]["answer"] == rows.nth(2).locator("td").nth(1).inner_text()
    visitor.message.fill("")
    rows.nth(2).get_by_role("button").click()
    expect(visitor.message).to_have_value("<region3> ")
    visitor.example(SIZE)
    expect(visitor.table).to_be_hidden()


def test_a_table_can_be_stopped_and_says_so(visitor, engine, monkeypatch):
    monkeypatch.setattr(Answering, "TOGETHER", 1)
    engine.talk_on(False, delay=0.1)
    for x in range(10, 370, 60):
        visitor.drag((x, 20), (x + 20, 60))
    visitor.page.get_by_role("button", name="Every region").click()
    visitor.page.wait_for_function("() => document.querySelectorAll('#at tbody tr').length >= 2")
    visitor.stop_button.click()
    expect(visitor.send_button).to_be_visible()
    expect(visitor.table).to_contain_text(re.compile(r"stopped: [2345] of 6 answered"))
    asked = len(engine.batches)
    assert asked < 6 and visitor.table.locator("tbody tr").count() == asked


def test_a_table_of_no_region_is_refused(visitor, engine):
    visitor.page.get_by_role("button", name="Every region").click()
    expect(visitor.toast).to_contain_text("There is no region yet")
    expect(visitor.table).to_be_hidden()


def test_export_and_import_bring_everything_back(visitor, engine):
    draw_three_kinds(visitor)
    visitor.ask("<region1> or <region3>?")
    answer = visitor.answered(SAYS)
    visitor.page.get_by_label("Remove region 1").click()
    visitor.tool("box")
    visitor.drag((300, 200), (350, 250))
    name, content = visitor.download("Export JSON")
    exported = json.loads(content)
    assert name == "conversation.json" and exported["model"] == "parrot"
    (turn,) = exported["turns"]
    assert turn["question"] == "<region1> or <region3>?" and sorted(turn["regions"]) == ["1", "2", "3"]
    assert turn["regions"]["1"]["box"] == pytest.approx([20, 30, 120, 110], abs=2)
    assert sorted(exported["drawn"]) == ["2", "3", "4"]

    visitor.example(SIZE)
    expect(visitor.questions).to_have_count(0)
    visitor._changing_picture(lambda: visitor.import_json(content))
    expect(visitor.questions).to_have_text(["<region1> or <region3>?"])
    assert visitor.answers.last.inner_text() == answer
    assert visitor.numbers() == [2, 3, 4]
    visitor.drag((10, 200), (40, 240))
    assert visitor.numbers() == [2, 3, 4, 5]
    visitor.page.locator("#cb button[aria-label=Retry]").click()
    while len(engine.streams) < 2:  # until it has begun, the page looks as if it had ended
        visitor.page.wait_for_timeout(20)
    visitor.page.wait_for_function("() => !document.querySelector('#tb .stop-button')")
    assert visitor.answered(SAYS) == answer
    before, again = engine.streams  # with region 1, which is not drawn any more
    assert sorted(again.regions) == [1, 3] and again.history == [] and again.regions[1] == before.regions[1]


@pytest.mark.parametrize("content", [b"no json", b'{"format": "other"}', b"[" * 100_000])
def test_a_file_that_is_no_conversation_changes_nothing(visitor, engine, content):
    visitor.drag((10, 10), (60, 60))
    visitor.import_json(content)
    expect(visitor.toast).to_contain_text("choose one that was made with Export")
    assert visitor.numbers() == [1]


def test_a_reload_brings_picture_regions_and_chat_back(visitor, engine):
    draw_three_kinds(visitor)
    visitor.ask("<region1>?")
    answer = visitor.answered(SAYS)
    visitor.page.get_by_label("Remove region 2").click()
    visitor.reload()
    expect(visitor.questions).to_have_text(["<region1>?"])
    assert visitor.answers.last.inner_text() == answer and visitor.numbers() == [1, 3]
    visitor.shot("reloaded")
    visitor.ask("<region3>?")
    visitor.answered(SAYS, count=2)
    seen = engine.streams[-1].image
    assert (seen.width, seen.height) == SIZE
    assert [turn.question for turn in engine.streams[-1].history] == ["<region1>?"]
    visitor.drag((300, 200), (350, 250))
    assert visitor.numbers()[-1] == 4


@pytest.mark.slow
def test_a_reload_in_the_middle_of_an_answer_stops_and_keeps_it(browser, visitor, engine):
    visitor.drag((10, 10), (60, 60))
    engine.talk_on(delay=0.2)
    visitor.ask("<region1>?")
    expect(visitor.answers.last).to_contain_text("blue")
    visitor.reload()
    # Gradio's stream, as its page ends: closed, while pieces of the answer still arrive.
    browser.leave_out("AbortError", "Connection errored out", "reading 'content'")
    expect(visitor.answers).to_have_count(1)
    expect(visitor.answers.last).to_contain_text("blue")
    said = engine.streams[-1].said
    engine.talk_on(False)
    visitor.ask("<region1>!")
    visitor.answered(SAYS, count=2)
    assert engine.streams[0].said == said and engine.closed == 2


def test_another_tab_starts_empty(visitor, served, engine):
    visitor.drag((10, 10), (60, 60))
    tab = visitor.page.context.new_page()
    tab.goto(served[0])
    tab.wait_for_selector("#rc [data-ready]", state="attached")
    expect(tab.get_by_text("Add a picture")).to_be_visible()
    tab.close()


def test_the_picture_with_its_regions(visitor, engine):
    draw_three_kinds(visitor)
    name, content = visitor.download("Save picture")
    saved = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert name == "regions.png" and saved.shape == (288, 384, 3)
    changed = (saved != np.asarray(drawing(SIZE))).any(-1)
    assert changed[60:90, 40:100].all() and changed[200, 150] and not changed[250:, 200:].any()


def test_a_brush_of_two_widths_comes_back_as_a_mask(visitor, engine):
    visitor.tool("brush")
    visitor.drag((100, 100), (150, 100))
    visitor.page.locator(".rc-size input").fill("20")
    visitor.drag((100, 180), (150, 180))
    assert visitor.numbers() == [1]
    visitor.ask("<region1>")
    visitor.answered(SAYS)
    _, content = visitor.download("Export JSON")
    assert "mask" in json.loads(content)["drawn"]["1"]
    visitor._changing_picture(lambda: visitor.import_json(content))
    expect(visitor.chips.first).to_contain_text("mask")
    visitor.shot("imported_mask")
    visitor.ask("<region1>")
    visitor.answered(SAYS, count=2)
    first, second = engine.streams
    assert first.regions == second.regions == second.history[0].regions


def test_a_photograph_with_gps_is_exported_without(visitor, engine):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "SecretCamera"
    visitor.upload(png(drawing((300, 200)), format="JPEG", exif=exif), size=(200, 300))
    _, content = visitor.download("Export JSON")
    assert json.loads(content)["picture"]["width"] == 200
    assert b"SecretCamera" not in content


@pytest.mark.slow
def test_under_another_server_it_is_the_same_page(mounted, visit):
    visitor = visit(mounted)
    visitor.upload(drawing(SIZE))
    draw_three_kinds(visitor)
    visitor.ask("<region1>?")
    visitor.answered(SAYS)
    visitor.page.get_by_role("button", name="Every region").click()
    expect(visitor.table.locator("tbody tr")).to_have_count(3)
    name, _ = visitor.download("Save picture")
    assert name == "regions.png"
    visitor.reload()
    assert visitor.numbers() == [1, 2, 3]
    expect(visitor.questions).to_have_text(["<region1>?"])
    expect(visitor.table.locator("tbody tr")).to_have_count(3)

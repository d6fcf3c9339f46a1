"""The app in headless Chromium over a tiny model that says one thing: what matters is what it was asked."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from rgpt.data.scenes import draw_scene
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


def received(engine, number: int) -> tuple[float, tuple[float, ...]]:
    """Area and bounds (x1, y1, x2, y2) of a region as the last session got it."""
    session = engine.streams[-1]
    mask = session.regions[number].to_mask(session.image.height, session.image.width)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(mask.sum()), (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_the_page_loads_and_says_what_the_model_can_do(visit, served, engine):
    visitor = visit(served[0])
    note = visitor.page.locator(".hd-model")
    expect(note).to_contain_text("Model: parrot")
    expect(note).to_contain_text("nothing about <b>pictures</b>")  # escaped
    expect(visitor.page.get_by_text("Add a picture")).to_be_visible()


def test_four_kinds_arrive_as_they_were_drawn(visitor, engine):
    visitor.drag((20, 30), (120, 110))
    visitor.tool("brush")
    visitor.drag((200, 60), (300, 60))
    visitor.tool("polygon")
    visitor.click((60, 160), (160, 160), (160, 260), (60, 160))
    visitor.tool("point")
    visitor.click((300, 200))
    assert visitor.numbers() == [1, 2, 3, 4]
    visitor.shot("four_kinds")
    visitor.ask("<region1> <region2> <region3> <region4>")
    visitor.answered(SAYS)

    area, bounds = received(engine, 1)
    assert area == pytest.approx(100 * 80, rel=0.03) and bounds == pytest.approx((20, 30, 120, 110), abs=2)
    width = 384 * 0.08  # the slider's first setting
    area, bounds = received(engine, 2)
    assert area == pytest.approx(100 * width + np.pi * width**2 / 4, rel=0.04)
    half = width / 2
    assert bounds == pytest.approx((200 - half, 60 - half, 300 + half, 60 + half), abs=2)
    area, bounds = received(engine, 3)
    assert area == pytest.approx(5000, rel=0.04) and bounds == pytest.approx((60, 160, 160, 260), abs=2)
    area, bounds = received(engine, 4)
    assert area == pytest.approx(np.pi * 5.76**2, rel=0.1) and bounds == pytest.approx(
        (294, 194, 306, 206), abs=2
    )


def test_numbers_are_never_used_again(visitor, engine):
    visitor.drag((10, 10), (60, 60))
    visitor.drag((100, 10), (160, 60))
    visitor.page.get_by_label("Remove region 2").click()
    visitor.drag((200, 10), (260, 60))
    assert visitor.numbers() == [1, 3]
    undo = visitor.page.locator("#rc [data-act=undo]")
    undo.click()
    assert visitor.numbers() == [1]
    undo.click()
    assert visitor.numbers() == [1, 2]  # the removal is undone: it is the same region again
    visitor.page.locator("#rc [data-act=clear]").click()
    assert visitor.numbers() == []
    visitor.drag((200, 100), (260, 160))
    assert visitor.numbers() == [4]


def test_a_click_that_drags_nothing_draws_nothing_and_uses_no_number(visitor, engine):
    visitor.click((50, 50))
    assert visitor.numbers() == []
    visitor.drag((10, 10), (60, 60))
    assert visitor.numbers() == [1]


def test_labels_do_not_cover_one_another(visitor, engine):
    for index in range(9):
        visitor.drag((10 + index, 100), (60 + index, 150))
    labels = [label.bounding_box() for label in visitor.page.locator("#rc .rc-labels span").all()]
    frame = visitor.canvas.bounding_box()
    assert len(labels) == 9
    for index, a in enumerate(labels):
        assert frame["x"] <= a["x"] and a["x"] + a["width"] <= frame["x"] + frame["width"] + 0.5
        assert frame["y"] <= a["y"] and a["y"] + a["height"] <= frame["y"] + frame["height"] + 0.5
        for b in labels[:index]:
            apart = (
                a["x"] + a["width"] <= b["x"]
                or b["x"] + b["width"] <= a["x"]
                or a["y"] + a["height"] <= b["y"]
                or b["y"] + b["height"] <= a["y"]
            )
            assert apart, (a, b)
    visitor.shot("crowded_labels")


def test_chips_insert_their_mention_where_the_cursor_is(visitor, engine):
    visitor.drag((10, 10), (60, 60))
    visitor.drag((100, 10), (160, 60))
    visitor.message.fill("Is  larger?")
    visitor.message.press("Home")
    for _ in range(3):
        visitor.message.press("ArrowRight")
    visitor.chips.nth(1).locator(".rc-insert").click()
    expect(visitor.message).to_have_value("Is <region2> larger?")
    visitor.message.press("End")
    visitor.chips.nth(0).locator(".rc-insert").click()
    expect(visitor.message).to_have_value("Is <region2> larger? <region1> ")
    visitor.message.press("Enter")
    visitor.answered(SAYS)


def test_example_questions_use_the_regions_that_are_there(visitor, engine):
    visitor.drag((10, 10), (60, 60))
    visitor.page.get_by_label("Remove region 1").click()
    visitor.drag((100, 10), (160, 60))
    visitor.page.get_by_role("button", name="Name it").click()
    expect(visitor.message).to_have_value("What is <region2>?")  # of a model that has no list of names


def test_keyboard_draws_a_box_a_polygon_and_a_point(visitor, engine):
    visitor.canvas.focus()
    press = visitor.page.keyboard.press
    press("Enter")
    for _ in range(10):
        press("ArrowRight")
        press("ArrowDown")
    expect(visitor.page.locator(".rc-hint")).to_contain_text("Press Enter at the opposite corner")
    press("Enter")
    press("g")
    for arrow in ("Shift+ArrowLeft", "Shift+ArrowUp", "Shift+ArrowRight"):
        press("Space")
        press(arrow)
        press(arrow)
    press("Enter")
    press("c")
    press("Enter")
    assert visitor.numbers() == [1, 2, 3]
    visitor.ask("<region1> <region2> <region3>")
    visitor.answered(SAYS)
    area, bounds = received(engine, 1)
    assert bounds == pytest.approx((192, 144, 192 + 38.4, 144 + 38.4), abs=1)
    assert area == pytest.approx(38.4**2, rel=0.05)
    assert received(engine, 2)[0] == pytest.approx(38.4**2 / 2, rel=0.1)
    visitor.canvas.focus()
    press("Delete")
    assert visitor.numbers() == [1, 2, 3]  # after a question nothing is selected
    press("b")
    expect(visitor.page.locator("#rc [data-tool=box]")).to_have_attribute("aria-pressed", "true")


def test_an_answer_streams_and_stop_ends_the_computation(visitor, engine):
    engine.talk_on(delay=0.2)
    visitor.drag((10, 10), (60, 60))
    visitor.ask("Tell me about <region1>")
    expect(visitor.answers.last).to_contain_text("blue")
    first = visitor.answers.last.inner_text()
    expect(visitor.answers.last).not_to_have_text(first)
    visitor.shot("streaming")
    visitor.stop_button.click()
    expect(visitor.send_button).to_be_visible()
    assert engine.closed == 1
    said, kept = engine.streams[0].said, visitor.answers.last.inner_text()
    assert kept.startswith("blue") and len(kept) > len(first)
    engine.talk_on(False)
    visitor.ask("And now <region1>?")
    visitor.answered(SAYS, count=2)
    assert engine.streams[0].said == said
    assert [turn.question for turn in engine.streams[1].history] == ["Tell me about <region1>"]
    assert visitor.answers.first.inner_text() == kept


def test_closing_the_tab_ends_the_computation(visit, served, engine):
    engine.talk_on(delay=0.2)
    visitor = visit(served[0])
    visitor.upload(drawing(SIZE))
    visitor.ask("Describe the picture.")
    expect(visitor.answers.last).to_contain_text("blue")
    visitor.page.close()
    until = time.monotonic() + 10
    while not engine.closed and time.monotonic() < until:
        time.sleep(0.05)
    assert engine.closed == 1


def test_a_new_picture_while_an_answer_is_written(visitor, engine):
    engine.talk_on(delay=0.2)
    visitor.drag((10, 10), (60, 60))
    visitor.ask("Tell me about <region1>")
    expect(visitor.answers.last).to_contain_text("blue")
    visitor.example(SIZE)
    assert engine.closed == 1
    expect(visitor.questions).to_have_count(0)
    expect(visitor.send_button).to_be_visible()
    assert visitor.numbers() == []
    engine.talk_on(False)
    visitor.drag((10, 10), (60, 60))
    assert visitor.numbers() == [1]
    visitor.ask("<region1>")
    visitor.answered(SAYS)


def test_retry_uses_the_regions_of_its_turn(visitor, engine):
    visitor.drag((10, 10), (60, 60))
    visitor.ask("<region1>")
    first = visitor.answered(SAYS)
    visitor.page.get_by_label("Remove region 1").click()
    visitor.drag((100, 100), (300, 200))
    visitor.page.locator("#cb button[aria-label=Retry]").click()
    while len(engine.streams) < 2:  # until it has begun, the page looks as if it had ended
        visitor.page.wait_for_timeout(20)
    expect(visitor.send_button).to_be_visible()
    visitor.page.wait_for_function("() => !document.querySelector('#tb .stop-button')")
    assert visitor.answered(SAYS) == first
    assert [sorted(s.regions) for s in engine.streams] == [[1], [1]]
    assert received(engine, 1)[0] == pytest.approx(2500, rel=0.06)
    visitor.ask("<region2>")
    visitor.answered(SAYS, count=2)


def test_a_stroke_after_a_question_begins_another_region(visitor, engine):
    visitor.tool("brush")
    visitor.drag((50, 50), (100, 50))
    visitor.drag((50, 90), (100, 90))
    assert visitor.numbers() == [1]
    visitor.ask("<region1>")
    visitor.answered(SAYS)
    visitor.drag((200, 50), (250, 50))
    assert visitor.numbers() == [1, 2]
    visitor.chips.first.locator(".rc-insert").click()  # chosen again: painted further, under its number
    visitor.drag((200, 200), (250, 200))
    assert visitor.numbers() == [1, 2]
    visitor.ask("<region1>?")
    visitor.answered(SAYS, count=2)
    first, second = engine.streams
    assert len(second.regions[1].points) == 3 and second.history[0].regions == first.regions
    visitor.page.locator("#rc [data-act=undo]").click()  # also across a question
    visitor.ask("<region1>!")
    visitor.answered(SAYS, count=3)
    assert engine.streams[-1].regions == first.regions


def test_undo_and_new_chat(visitor, engine):
    visitor.drag((10, 10), (60, 60))
    visitor.ask("<region1> please")
    visitor.answered(SAYS)
    visitor.page.locator("#cb button[aria-label=Undo]").click()
    expect(visitor.message).to_have_value("<region1> please")
    expect(visitor.answers).to_have_count(0)
    visitor.message.press("Enter")
    visitor.answered(SAYS)
    visitor.page.get_by_role("button", name="New chat").click()
    expect(visitor.questions).to_have_count(0)
    assert visitor.numbers() == [1]  # picture and regions stay


def test_an_unknown_region_is_told_with_its_number(visitor, engine):
    visitor.drag((10, 10), (60, 60))
    visitor.ask("What is <region9>?")
    visitor.wait_for_toast("<region9> is not on the picture, which has <region1>")
    expect(visitor.message).to_have_value("What is <region9>?")
    expect(visitor.questions).to_have_count(0)
    visitor.shot("unknown_region")


def test_a_file_that_is_no_picture_changes_nothing(visitor, engine):
    visitor.drag((10, 10), (60, 60))
    visitor.page.set_input_files(
        "#up-row input[type=file]", {"name": "<i>x.png", "mimeType": "image/png", "buffer": b"not a picture"}
    )
    expect(visitor.toast).to_contain_text("expected a picture")
    assert visitor.numbers() == [1]


def test_markup_in_a_message_is_shown_as_text(visitor, engine):
    visitor.ask("<img src=http://example.org/x.png> ![x](http://example.org/y.png) <b>bold</b>")
    visitor.answered(SAYS)
    expect(visitor.questions.last).to_contain_text("<b>bold</b>")
    assert visitor.page.locator("#cb [data-testid=user] img").count() == 0


def test_two_visitors_share_nothing(visitor, visit, served, engine):
    first, second = visitor, visit(served[0])
    second.upload(drawing((200, 100)))
    first.drag((10, 10), (110, 60))
    second.drag((10, 10), (30, 20))
    engine.talk_on(delay=0.01)
    first.ask("first <region1>")
    second.ask("second <region1>")
    assert first.answered(SAYS) == second.answered(SAYS)
    assert {(s.image.width, s.image.height) for s in engine.streams} == {SIZE, (200, 100)}
    by_width = sorted(engine.streams, key=lambda asked: -asked.image.width)
    areas = [s.regions[1].to_mask(s.image.height, s.image.width).sum() for s in by_width]
    assert areas[0] == pytest.approx(5000, rel=0.05) and areas[1] == pytest.approx(200, rel=0.15)
    assert first.questions.all_inner_texts() == ["first <region1>"]
    assert second.questions.all_inner_texts() == ["second <region1>"]


def test_by_touch_at_390_pixels(visit, served, engine):
    visitor = visit(served[0], viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    visitor.upload(drawing(SIZE))
    visitor.swipe((20, 30), (60, 60), (120, 110))
    visitor.page.locator("#rc [data-tool=polygon]").tap()
    visitor.tap((200, 100), (300, 100), (300, 200))
    visitor.page.get_by_role("button", name="Finish shape").tap()
    visitor.page.locator("#rc [data-tool=point]").tap()
    visitor.tap((50, 200))
    assert visitor.numbers() == [1, 2, 3]
    visitor.chips.first.locator(".rc-insert").tap()
    expect(visitor.message).to_have_value("<region1> ")
    visitor.chips.nth(1).locator(".rc-insert").tap()
    visitor.send_button.tap()
    visitor.answered(SAYS)
    visitor.shot("touch_390")
    assert received(engine, 1)[1] == pytest.approx((20, 30, 120, 110), abs=3)
    assert received(engine, 2)[0] == pytest.approx(5000, rel=0.06)
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_rotated_photograph_is_drawn_on_upright(regular, engine):
    visitor = regular
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned by a quarter
    visitor.upload(png(drawing((300, 200)), format="JPEG", exif=exif), size=(200, 300))
    shown = visitor.canvas.bounding_box()
    assert shown["height"] / shown["width"] == pytest.approx(1.5, rel=0.01)
    visitor.drag((20, 200), (120, 280))
    visitor.ask("<region1>")
    visitor.answered(SAYS)
    seen = engine.streams[-1].image
    assert (seen.width, seen.height) == (200, 300)
    assert received(engine, 1)[1] == pytest.approx((20, 200, 120, 280), abs=2)


def test_a_large_photograph(regular, engine):
    visitor = regular
    visitor.upload(png(drawing((4000, 2669)), format="JPEG", quality=85), size=(4000, 2669))
    visitor.drag((1000, 500), (3000, 2000))
    visitor.tool("brush")
    visitor.drag((500, 2200), (1500, 2200))
    visitor.ask("<region1> <region2>")
    visitor.answered(SAYS)
    seen = engine.streams[-1].image
    assert (seen.width, seen.height) == (4000, 2669)
    assert received(engine, 1)[1] == pytest.approx((1000, 500, 3000, 2000), abs=8)
    area = 1000 * 320 + np.pi * 160**2
    assert received(engine, 2)[0] == pytest.approx(area, rel=0.04)


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_screenshots(visit, served, engine, scheme):
    visitor = visit(served[0], color_scheme=scheme)
    scene = draw_scene(42)
    first, second = sorted(scene.objects, key=lambda shown: -shown.mask.sum())[:2]
    visitor.upload(scene.image)
    visitor.drag((first.box.x1, first.box.y1), (first.box.x2, first.box.y2))
    visitor.tool("brush")
    middle, reach = (second.box.y1 + second.box.y2) / 2, (second.box.x2 - second.box.x1) / 4
    visitor.drag((second.box.x1 + reach, middle), (second.box.x2 - reach, middle))
    visitor.ask("Which is larger, <region1> or <region2>?")
    visitor.answered(SAYS)
    visitor.page.get_by_role("button", name="Every region").click()
    expect(visitor.table.locator("tbody tr")).to_have_count(2)
    expect(visitor.send_button).to_be_visible()
    visitor.shot(f"{scheme}_1400")
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    expect(visitor.canvas).to_have_css("width", re.compile(r"^3\d\d"))
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    visitor.page.evaluate("scrollTo(0, 0)")
    visitor.shot(f"{scheme}_390")
    # However far down, the page says which model answers and what it can do.
    visitor.page.mouse.wheel(0, 5000)
    expect(visitor.page.locator(".hd-model")).to_be_in_viewport()
    visitor.shot(f"{scheme}_390_scrolled", full_page=False)

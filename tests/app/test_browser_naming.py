""" "Find all" with a recognizer, in headless Chromium: propose, recognize, click a region, chat.

SAM and the recognizer are real and tiny, with random weights: what is found and what it is called mean
nothing, but all of it must arrive.
"""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from playwright.sync_api import expect

from app.naming import RegionNamer
from app.sam import SamSegmenter
from app.session import Label
from rgpt.data.scenes import draw_scene
from rgpt.recognizers.frozen import unit_gain_
from rgpt.regions import Mask, region_from_json
from tests.app.conftest import drawing, serve
from tests.app.tiny_sam import save_tiny_sam
from tests.app.watched import SAYS, watched
from tests.recognizers.tiny_recognizers import make

pytestmark = pytest.mark.browser

NAMES = ("circle", "traffic light", "person", "dining table")


@pytest.fixture(scope="module")
def namer(tmp_path_factory) -> RegionNamer:
    folder = save_tiny_sam(tmp_path_factory.mktemp("sam") / "tiny-sam")
    segmenter = SamSegmenter.load(str(folder))
    torch.manual_seed(6)
    unit_gain_(segmenter.model)  # or its masks would hardly differ
    # Random weights are sure of nothing: without thresholds every point of the grid answers.
    segmenter.all.settings |= {
        "points_per_crop": 6,
        "pred_iou_thresh": -9.0,
        "stability_score_thresh": -9.0,
        "crops_nms_thresh": 0.95,
    }
    recognizer = make("clip-crop")
    recognizer.logit_scale.fill_(8.0)  # or every score would be 1
    return RegionNamer(recognizer, segmenter.propose, NAMES, "clip-crop")


@pytest.fixture(scope="module")
def served(namer):
    with watched() as engine:
        page, address = serve(engine, namer=namer)
        yield address, engine
        page.close()


@pytest.fixture
def visitor(regular):
    regular.page.locator("#voc textarea").fill(", ".join(NAMES))
    regular.upload(draw_scene(42).image)
    return regular


def find_all(visitor) -> None:
    visitor.page.get_by_role("button", name="Find all").click()


def labels_overlap(page) -> list:
    """Pairs of labels on the picture that cover each other, and labels that stick out of it."""
    return page.evaluate("""() => {
      const frame = document.querySelector('#rc .rc-labels').getBoundingClientRect();
      const labels = [...document.querySelectorAll('#rc .rc-labels span')];
      const boxes = labels.map((label) => [label.textContent, label.getBoundingClientRect()]);
      const wrong = boxes.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1
                                         || b.top < frame.top - 1 || b.bottom > frame.bottom + 1);
      boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([two, b]) => {
        const apart = a.left >= b.right || b.left >= a.right || a.top >= b.bottom || b.top >= a.bottom;
        if (!apart) wrong.push([one, two]);
      }));
      return wrong.map(String);
    }""")


def test_propose_recognize_click_chat(visitor, engine):
    expect(visitor.page.locator(".hd-model")).to_contain_text("“Find all” asks clip-crop.")
    find_all(visitor)
    rows = visitor.table.locator("tbody tr")
    expect(rows).not_to_have_count(0)
    found = visitor.numbers()
    expect(rows).to_have_count(len(found))
    assert len(found) >= 2
    listed = [row.locator("td").all_inner_texts() for row in rows.all()]
    for number, (mention, name, score) in zip(found, listed, strict=True):
        assert mention == f"<region{number}>" and name in NAMES and re.fullmatch(r"[01]\.\d\d", score)
        expect(visitor.chips.nth(found.index(number))).to_contain_text(f"{name} {score}")
    scores = [float(score) for *_, score in listed]
    assert scores == sorted(scores, reverse=True)  # the best has the lowest number
    on_picture = visitor.page.locator("#rc .rc-labels span").all_inner_texts()
    mention, name, score = listed[0]
    assert f"1 {name} {score}" in on_picture
    assert labels_overlap(visitor.page) == []
    expect(visitor.page.locator(".rc-hint")).to_contain_text("click one to put it into the message")

    # A region clicked on the picture is the region of the question, and it is the one that was proposed.
    exported = json.loads(visitor.download("Export JSON")[1])
    assert exported["labels"]["1"]["name"] == name
    visitor.click(*[inside(exported, "1", visitor.size)])
    clicked = re.fullmatch(r"<region(\d+)> ", visitor.message.input_value())[1]
    visitor.page.evaluate("scrollTo(0, 0)")
    visitor.shot("named")
    visitor.message.press("Enter")
    visitor.answered(SAYS)
    height, width = exported["picture"]["height"], exported["picture"]["width"]
    proposed = region_from_json(exported["drawn"][clicked]).to_mask(height, width)
    assert np.array_equal(engine.streams[-1].regions[int(clicked)].to_mask(height, width), proposed)

    name_of_file, content = visitor.download("Download CSV")
    table = list(csv.DictReader(io.StringIO(content.decode())))
    assert name_of_file == "regions.csv"
    assert [row["name"] for row in table] == [name for _, name, _ in listed]
    assert [float(row["score"]) for row in table] == pytest.approx(scores, abs=0.006)

    # Names and answers in one table; the rows are those of the regions that were there.
    visitor.page.get_by_role("button", name="Every region").click()
    expect(visitor.table.locator("th")).to_have_text(["Region", "Name", "Score", "Answer"])
    expect(rows.last).to_contain_text(SAYS)
    expect(visitor.send_button).to_be_visible()
    visitor.page.evaluate("scrollTo(0, 0)")
    visitor.shot("named_table")


def inside(exported: dict, number: str, size: tuple[int, int]) -> tuple[float, float]:
    """A pixel of a region of the exported file, far from its edge."""
    mask = region_from_json(exported["drawn"][number]).to_mask(size[1], size[0])
    around = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(3)))
    y, x = np.unravel_index(np.where(mask, around, 0).argmax(), mask.shape)
    return float(x) + 0.5, float(y) + 0.5


def test_another_list_renames_and_a_reload_keeps_it(visitor, engine):
    find_all(visitor)
    rows = visitor.table.locator("tbody tr")
    expect(rows).not_to_have_count(0)
    found = visitor.numbers()
    visitor.page.locator("#voc textarea").fill("sheep")
    find_all(visitor)
    expect(rows.first).to_contain_text("sheep")
    before = visitor.numbers()
    for chip in visitor.chips.all():  # what was found before and is not found now has gone
        expect(chip).to_contain_text("sheep")
    visitor.page.locator("#rc [data-act=undo]").click()
    assert visitor.numbers() == found
    find_all(visitor)
    expect(visitor.chips.first).to_contain_text("sheep")
    before = visitor.numbers()
    visitor.reload()
    expect(visitor.page.locator("#voc textarea")).to_have_value("sheep")
    expect(visitor.chips.first).to_contain_text("sheep")
    expect(rows.first).to_contain_text("sheep")
    assert visitor.numbers() == before
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    expect(visitor.canvas).to_have_css("width", re.compile(r"^3\d\d"))
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert labels_overlap(visitor.page) == []
    visitor.page.evaluate("scrollTo(0, 0)")
    visitor.shot("named_390", full_page=True)
    visitor.page.set_viewport_size({"width": 1400, "height": 1000})


def test_many_long_names_are_readable(visitor, namer, monkeypatch):
    """What a good recognizer would find, twelve times over, at both widths of the page."""
    shown = draw_scene(42).objects
    masks = [(Mask(np.roll(o.mask, 7 * k, 1)), o.scene_object.phrase) for k in range(4) for o in shown]
    truth = [(mask, Label(f"a {phrase}", 0.99 - k / 100)) for k, (mask, phrase) in enumerate(masks)]
    monkeypatch.setattr(namer, "everything", lambda picture, names: truth)
    find_all(visitor)
    expect(visitor.chips).to_have_count(min(24, len(truth)))
    assert labels_overlap(visitor.page) == []
    visitor.shot("named_many")
    for text in visitor.page.locator("#rc .rc-labels span").all_inner_texts():
        assert re.fullmatch(r"\d+( a .+ 0\.\d\d)?", text)  # the score is never what is cut off
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    expect(visitor.canvas).to_have_css("width", re.compile(r"^3\d\d"))
    assert labels_overlap(visitor.page) == []
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    for tool in visitor.page.locator(
        "#rc [data-tool]:visible"
    ).all():  # no name of a tool touches the next one
        assert tool.evaluate("(button) => button.clientWidth - button.scrollWidth") >= 0
        assert tool.bounding_box()["width"] >= 53
    visitor.shot("named_many_390")
    visitor.page.set_viewport_size({"width": 1400, "height": 1000})


def test_no_names_is_a_sentence_and_changes_nothing(visitor, engine):
    visitor.page.locator("#voc textarea").fill(" , ")
    find_all(visitor)
    visitor.wait_for_toast("There are no names to choose among")
    assert visitor.numbers() == []
    visitor.shot("named_empty")
    visitor.page.locator("#voc textarea").fill("dog")
    find_all(visitor)
    expect(visitor.chips.first).to_contain_text("dog")
    visitor.ask("<region1>")
    visitor.answered(SAYS)


def test_without_a_picture_nothing_happens(visit, served):
    page = visit(served[0])
    find_all(page)
    expect(page.toast).to_have_count(0)
    page.upload(drawing((60, 40)))
    find_all(page)
    expect(page.chips).not_to_have_count(0)

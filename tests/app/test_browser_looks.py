"""Screenshots of the whole page, kept under build/screenshots: light and dark, wide and 390 px."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from rgpt.data.scenes import draw_scene

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
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
    visitor.answered("covers .* covers")
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

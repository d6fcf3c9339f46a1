"""What a visitor does, in picture coordinates, with the real mouse, keys and fingers."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from tests.app.conftest import SCREENSHOTS


class Visitor:
    """One browser page of the app. Positions are (x, y) in pixels of the upright picture."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.size = (0, 0)
        self.canvas = page.locator("#rc canvas")
        self.message = page.locator("#tb textarea")
        self.answers = page.locator("#cb [data-testid=bot]")
        self.questions = page.locator("#cb [data-testid=user]")
        self.chips = page.locator("#rc .rc-chip")
        self.table = page.locator("#at .at")
        self.toast = page.locator(".toast-body")
        self.stop_button = page.locator("#tb .stop-button")
        self.send_button = page.locator("#tb .submit-button")

    def wait_until_loaded(self) -> None:
        self.page.wait_for_selector("#rc [data-ready]", state="attached")
        self.page.wait_for_selector("#ex [data-ready]", state="attached")

    def reload(self) -> None:
        """Load the page again, and wait until its picture is back."""
        self.page.reload()
        self.wait_until_loaded()
        expect(self.canvas).to_have_attribute("data-shown", re.compile("."))

    def start_anew(self) -> None:
        """As after loading, but for the picture that was left: tool, message and toasts."""
        for toast in self.page.locator(".toast-close").all():
            toast.click()
        expect(self.toast).to_have_count(0)
        self.page.evaluate("document.querySelector('#rc [data-tool=box]').click()")
        self.message.fill("")

    def upload(self, image: Image.Image | bytes, size: tuple[int, int] | None = None) -> None:
        """Choose a file and wait until it is shown. `size`: of the upright picture, where it differs."""
        data = image if isinstance(image, bytes) else png(image)
        self.size = size or image.size
        self._changing_picture(
            lambda: self.page.set_input_files(
                "#up-row input[type=file]", {"name": "picture.png", "mimeType": "image/png", "buffer": data}
            )
        )

    def example(self, size: tuple[int, int]) -> None:
        self.size = size
        self._changing_picture(self.page.get_by_label("Example picture 1").click)

    def _changing_picture(self, action) -> None:
        before = self.canvas.get_attribute("data-shown") or ""
        action()
        self.page.wait_for_function(
            "before => (document.querySelector('#rc canvas').dataset.shown || before) !== before", arg=before
        )

    def tool(self, name: str) -> None:
        button = self.page.locator(f"#rc [data-tool={name}]")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")

    def at(self, point: Sequence[float]) -> tuple[float, float]:
        """Where a picture position is on the screen now; scrolled to it if need be."""
        self.canvas.scroll_into_view_if_needed()
        shown = self.canvas.bounding_box()
        return (
            shown["x"] + point[0] * shown["width"] / self.size[0],
            shown["y"] + point[1] * shown["height"] / self.size[1],
        )

    def drag(self, *points: Sequence[float]) -> None:
        """Press at the first point, move through the others, release: one new region or stroke."""
        self.page.mouse.move(*self.at(points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(point), steps=3)
        self.page.mouse.up()

    def click(self, *points: Sequence[float]) -> None:
        for point in points:
            self.page.mouse.click(*self.at(point))

    def tap(self, *points: Sequence[float]) -> None:
        for point in points:
            self.page.touchscreen.tap(*self.at(point))

    def swipe(self, *points: Sequence[float]) -> None:
        """Drag with a finger."""
        devtools = self.page.context.new_cdp_session(self.page)
        kinds = ["touchStart"] + ["touchMove"] * (len(points) - 1)
        for kind, (x, y) in zip(kinds, map(self.at, points), strict=True):
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def download(self, button: str) -> tuple[str, bytes]:
        """Press a button that makes a file: its name and content."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=button).click()
        return download.value.suggested_filename, download.value.path().read_bytes()

    def import_json(self, content: bytes) -> None:
        """Choose a conversation's file."""
        self.page.set_input_files(
            "input[type=file][accept*=json]",
            {"name": "talk.json", "mimeType": "application/json", "buffer": content},
        )

    def numbers(self) -> list[int]:
        """The regions that have a chip."""
        return [int(chip.get_attribute("data-region")) for chip in self.chips.all()]

    def ask(self, question: str) -> None:
        self.message.fill(question)
        self.message.press("Enter")

    def answered(self, pattern: str, count: int = 1) -> str:
        """Wait for the `count`-th answer to match and for the send button to be back; return the answer."""
        expect(self.answers).to_have_count(count)
        expect(self.answers.last).to_have_text(re.compile(pattern))
        expect(self.send_button).to_be_visible()
        return self.answers.last.inner_text()

    def wait_for_toast(self, text: str) -> None:
        """Wait until a toast with this text has faded in."""
        expect(self.toast.first).to_contain_text(text)
        expect(self.toast.first).to_have_css("opacity", "1")

    def shot(self, name: str, full_page: bool = True) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=full_page)
        return path


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()

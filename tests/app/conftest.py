"""A served app and headless Chromium. Any console message or foreign request fails the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import pytest
from PIL import Image

from tests.app.watched import WatchedEngine, watched

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What is said when the page itself closes a stream: by Chromium, and, where a reload closes one that Gradio's
# client still reads, by that client (its handler of a broken stream logs its own close, too).
NORMAL = ("net::ERR_ABORTED", "console error: AbortError: ")


def find_chromium() -> str | None:
    """The Chromium to drive, or None. Run once: some systems have a stub that only says where to get it."""
    for name in (os.environ.get("RGPT_CHROMIUM"), "/usr/bin/chromium", "chromium", "google-chrome"):
        path = shutil.which(name) if name else None
        if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


# Of the module, not of the session: while it is open, playwright's event loop counts as running in this
# thread, and every later test that calls asyncio.run() would fail.
@pytest.fixture(scope="module")
def chromium() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    path = find_chromium()
    if path is None:
        pytest.skip("needs Chromium (apt-get install chromium, or name one in RGPT_CHROMIUM)")
    playwright.expect.set_options(timeout=60_000)  # a busy machine is slow, not wrong
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def serve(engine, examples=(), **options) -> tuple:
    """Serve the app on a free port; returns the Blocks (to close) and the address."""
    from app.page import build_page, launch_options

    page = build_page(engine, examples, **options)
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        _frontend=False,  # as app.main
        **launch_options(),
    )
    return page, address


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, WatchedEngine]]:
    """The app with a watched engine: (address, engine)."""
    from app.session import Picture

    with watched() as engine:
        page, address = serve(engine, [Picture(drawing())])
        yield address, engine
        page.close()


@pytest.fixture(scope="module")
def mounted() -> Iterator[str]:
    """The address of the page at /ui of another application, as `rgpt serve --ui` has it."""
    import uvicorn
    from fastapi import FastAPI

    from app.mount import mount_page
    from app.page import build_page

    application = mount_page(FastAPI(), build_page(WatchedEngine()))
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/ui/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def engine(served) -> WatchedEngine:
    """The served engine, as new."""
    served[1].start_anew()
    return served[1]


def drawing(size: tuple[int, int] = (384, 288)) -> Image.Image:
    """A picture in which a person could find their way."""
    image = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (image, image.rotate(180), Image.new("L", size, 140)))


class Browser:
    """Opens the app as one visitor after another, and hears what their consoles say."""

    def __init__(self, chromium) -> None:
        self.chromium = chromium
        self.contexts: list = []
        self.wrong: list[str] = []
        self.kept = None

    def open(self, address: str, **options):
        from tests.app.driver import Visitor

        options = {"viewport": {"width": 1400, "height": 1000}, **options}
        context = self.chromium.new_context(**options)
        context.set_default_timeout(60_000)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: self.wrong.append(f"console {m.type}: {m.text}"))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("request", lambda request: _check_host(request.url, self.wrong))
        page.goto(address)
        visitor = Visitor(page)
        visitor.wait_until_loaded()
        return visitor

    def close(self, visitor) -> None:
        self.contexts.remove(visitor.page.context)
        visitor.page.context.close()

    def leave_out(self, *normal: str) -> None:
        """Of what was said so far, these are no fault of the app's."""
        self.wrong = [line for line in self.wrong if not any(part in line for part in normal)]

    def check(self) -> None:
        """Nothing was said since the last check."""
        wrong = [line for line in self.wrong if not any(normal in line for normal in NORMAL)]
        self.wrong.clear()
        assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Browser]:
    opened = Browser(chromium)
    yield opened
    for context in opened.contexts:
        context.close()


@pytest.fixture
def visit(browser) -> Iterator[Callable]:
    """`visit(address, **context_options)` opens the app as a new visitor; its console is checked last."""
    visitors = []

    def open_page(address: str, **options):
        visitors.append(browser.open(address, **options))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        browser.close(visitor)
    browser.check()


@pytest.fixture
def regular(request, browser, served, engine) -> Iterator:
    """A visitor whose page stays open from test to test, because loading one takes seconds; a failed test
    ends it.
    """
    if browser.kept is None or browser.kept.page.is_closed():
        browser.kept = browser.open(served[0])
    failed = request.session.testsfailed
    browser.kept.start_anew()
    yield browser.kept
    if request.session.testsfailed > failed:
        browser.close(browser.kept)
        browser.kept = None
    browser.check()


def _check_host(url: str, wrong: list[str]) -> None:
    if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
        wrong.append(f"foreign request: {url[:200]}")

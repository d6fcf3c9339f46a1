"""Headless Chromium: what strangers write is shown and never run; the page is in no frame, and others get
nothing from it."""

from __future__ import annotations

import base64
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")

from fastapi import FastAPI
from gradio.utils import get_upload_folder
from playwright.sync_api import expect

from app.mount import mount_page
from app.page import build_page
from app.session import Label, Picture
from tests.app.conftest import Browser, browser, chromium, drawing, visit  # noqa: F401
from tests.app.driver import png
from tests.app.fake_namer import Thirds
from tests.app.watched import WatchedEngine
from tests.model.parrot import teach

pytestmark = pytest.mark.browser

ANSWER = "<img src=q>"  # a parrot has each character once
EVIL = (
    '<img src=q onerror="window.ran=1"><script>window.ran=1</script><svg onload="window.ran=1"></svg>'
    '<a href="javascript:window.ran=1">a</a> ![i](http://evil.example/i.png) [l](javascript:window.ran=1) '
    r"$$\href{javascript:window.ran=1}{\text{x}}$$ &lt;img src=q&gt; "
    "<iframe srcdoc='<script>top.ran=1</script>'>"
)


class EvilNamer(Thirds):
    """Its class names are somebody's list."""

    name = EVIL
    names = ("<img src=q onerror=window.ran=1>", "<b>cat</b>")

    def everything(self, picture, names) -> list:
        return [(region, Label(EVIL, label.score)) for region, label in super().everything(picture, names)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    import uvicorn

    engine = WatchedEngine()
    engine.name = engine.notes = EVIL
    teach(engine.model, engine.processor, ANSWER)
    page = build_page(engine, [Picture(drawing())], namer=EvilNamer())
    application = mount_page(FastAPI(openapi_url=None), page, "/")
    server = uvicorn.Server(
        uvicorn.Config(application, port=0, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


def nothing_ran(page) -> None:
    """No markup of ours became elements, no script ran."""
    assert page.evaluate("window.ran") is None
    assert page.locator("img[src='q'], img[src*='evil'], a[href^='javascript'], iframe, .katex").count() == 0
    assert page.locator("#cb b, #at b, #header a, svg[onload]").count() == 0


def conversation() -> bytes:
    """A file as a stranger may hand it on."""
    buffer = io.BytesIO()
    drawing((200, 150)).save(buffer, "PNG")
    box = {"box": [10, 10, 90, 80]}
    value = {
        "format": "rgpt-conversation",
        "version": 2,
        "model": EVIL,
        "picture": {"width": 200, "height": 150, "data": base64.b64encode(buffer.getvalue()).decode()},
        "turns": [{"question": EVIL, "answer": EVIL, "status": "done", "regions": {}, "note": EVIL}],
        "drawn": {"1": box},
        "last_id": 1,
        "table": {
            "question": EVIL,
            "status": "done",
            "regions": {"1": box},
            "answers": {"1": EVIL},
            "notes": {"1": EVIL},
        },
        "labels": {"1": {"name": EVIL, "score": 0.5}},
    }
    return json.dumps(value).encode()


def test_markup_is_shown_and_never_run(address, visit) -> None:  # noqa: F811
    visitor = visit(address)
    page = visitor.page
    page.on("request", lambda request: asked.append(request.url))
    asked: list[str] = []
    expect(page.locator("#header")).to_contain_text("<script>window.ran=1</script>")
    expect(page.locator("#voc textarea")).to_have_value(", ".join(EvilNamer.names))

    # A file's name, an answer in the chat and in the table.
    page.set_input_files(
        "#up-row input[type=file]",
        {"name": f"{EVIL[:60]}.png", "mimeType": "image/png", "buffer": png(drawing((384, 288)))},
    )
    visitor.size = (384, 288)
    page.wait_for_function("document.querySelector('#rc canvas').dataset.shown")
    visitor.drag((20, 20), (120, 110))
    visitor.ask("What is <region1>? " + EVIL)
    visitor.answered(r"<img src=q>")
    expect(visitor.questions.last).to_contain_text("<script>window.ran=1</script>")
    page.locator("#every").click()
    expect(visitor.table.locator("tbody tr")).to_have_count(1)
    expect(visitor.table).to_contain_text(ANSWER)
    nothing_ran(page)

    # Class names: on the picture and in the table.
    page.locator("#rc [data-act=everything]").click()
    expect(visitor.table).to_contain_text("<svg onload=")
    expect(page.locator("#rc .rc-labels")).to_contain_text("<img src=q")
    nothing_ran(page)

    # An imported conversation: question, answer, note, table, names.
    visitor.import_json(conversation())
    expect(visitor.answers).to_have_count(1)
    for shown in (visitor.answers.last, visitor.questions.last, visitor.table):
        expect(shown).to_contain_text("<script>window.ran=1</script>")
        expect(shown).to_contain_text(r"$$\href{javascript:window.ran=1}{\text{x}}$$")
        expect(shown).to_contain_text("&lt;img src=q&gt;")
    nothing_ran(page)

    # A refusal, which is shown in a toast, and a reload.
    broken = json.loads(conversation())
    broken["drawn"] = {"<img src=q>": broken["drawn"]["1"]}
    visitor.import_json(json.dumps(broken).encode())
    visitor.wait_for_toast("<img src=q>")
    visitor.reload()
    expect(visitor.answers).to_have_count(1)
    nothing_ran(page)
    assert not [url for url in asked if url.endswith("/q") or not url.startswith((address, "data:", "blob:"))]


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another site on the same machine."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title><body></body>")

    def log_message(self, *_: object) -> None:
        pass


TRIES = """async (address) => {
  const said = [], form = new FormData();
  form.append("files", new Blob(["x"]), "x.png");
  for (const [path, options] of [
    ["config", {}], ["gradio_api/upload", { method: "POST", body: form }],
    ["gradio_api/queue/join", { method: "POST", body: "{}" }],
    ["gradio_api/queue/join", { method: "POST", body: "{}", headers: { "Content-Type": "text/plain" } }],
    ["gradio_api/deep_link?session_hash=x", {}], ["", {}],
  ]) for (const mode of ["cors", "no-cors", "same-origin"]) {
    try { said.push(await (await fetch(address + path, { ...options, mode })).text()); }
    catch { /* blocked */ }
  }
  return said.join("");
}"""


def uploads() -> set[str]:
    folder = Path(get_upload_folder())
    return {str(path) for path in folder.rglob("*")} if folder.is_dir() else set()


def test_another_page_gets_nothing_and_cannot_frame_this_one(address, chromium) -> None:  # noqa: F811
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    context = chromium.new_context()
    page = context.new_page()
    before = uploads()
    for host in ("127.0.0.1", "localhost"):  # of one site with this page but for the port, and of another
        page.goto(f"http://{host}:{site.server_port}/")
        got = page.evaluate(TRIES, address)
        assert "dependencies" not in got and "event_id" not in got, got[:300]
    # A form needs no permission to be sent.
    with page.expect_response(lambda response: "upload" in response.url) as answer:
        page.evaluate(
            """(address) => {
              const form = document.createElement("form");
              Object.assign(form, { method: "POST", enctype: "multipart/form-data" });
              form.action = address + "gradio_api/upload";
              form.innerHTML = "<input name=files value=x>";
              document.body.append(form);
              form.submit();
            }""",
            address,
        )
    assert answer.value.status == 403
    assert uploads() == before
    page.wait_for_url("**/upload")

    page.goto(f"http://{host}:{site.server_port}/")
    page.evaluate(
        "address => document.body.append(Object.assign(document.createElement('iframe'), { src: address }))",
        address,
    )
    page.wait_for_timeout(2000)
    frames = [frame for frame in page.frames if frame != page.main_frame]
    assert frames and all("rgpt" not in frame.content() for frame in frames)
    # A link opens it all the same.
    page.evaluate("address => { location.href = address }", address)
    page.wait_for_selector("#rc [data-ready]", state="attached")
    context.close()
    site.shutdown()

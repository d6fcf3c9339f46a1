"""What one visitor sends, nobody can fetch: over real HTTP, through both doors (launched and mounted)."""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio.utils import get_upload_folder

from app.privacy import take_upload
from tests.app.conftest import drawing, serve
from tests.app.watched import WatchedEngine


@pytest.fixture(scope="module")
def launched() -> Iterator[str]:
    page, address = serve(WatchedEngine())
    yield address
    page.close()


@pytest.fixture(params=["launched", "mounted"])
def address(request) -> str:
    return request.getfixturevalue(request.param)


def png() -> bytes:
    buffer = io.BytesIO()
    drawing((40, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def send(address: str, name: str | None = None) -> str:
    """Upload a picture as the page does; returns its path on the server."""
    files = {"files": (name or f"{uuid.uuid4().hex}.png", png(), "image/png")}
    (path,) = httpx.post(f"{address}gradio_api/upload", files=files).json()
    return path


def test_the_page_itself_is_served(address):
    assert "Knows one answer only" in httpx.get(address, follow_redirects=True).text


@pytest.mark.parametrize("route", ["gradio_api/file=", "gradio_api/file/", "file=", "gradio_api/file%3D"])
def test_an_upload_cannot_be_fetched_even_by_its_path(address, route):
    path = send(address)
    assert Path(path).is_file()
    try:
        for method in ("GET", "HEAD"):
            answer = httpx.request(method, address + route + path)
            assert answer.status_code in (403, 404) and b"PNG" not in answer.content
        if "=" in route:
            assert answer.status_code == 403
    finally:
        take_upload(path)


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "pyproject.toml", "..%2f..%2fetc%2fpasswd", "http://127.0.0.1:1/x", "app/main.py"],
)
def test_files_outside_the_cache_and_other_hosts_give_403(address, target):
    assert httpx.get(f"{address}gradio_api/file={target}").status_code == 403


def call(address: str, name: str, session: str, *data: object) -> dict:
    """Run an event as the page of `session` would, but without a browser: what comes back."""
    config = httpx.get(f"{address}config").json()
    (number, *_) = [d["id"] for d in config["dependencies"] if d["api_name"] == name]
    body = {"data": list(data), "fn_index": number, "session_hash": session}
    httpx.post(f"{address}gradio_api/queue/join", json=body).raise_for_status()
    told = {}
    with httpx.stream("GET", f"{address}gradio_api/queue/data?session_hash={session}", timeout=20) as lines:
        for line in lines.iter_lines():
            if "process_completed" in line:
                told = json.loads(line.removeprefix("data:"))
                break
    return told


def file_data(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("event", ["open_upload", "open_saved"])
@pytest.mark.parametrize("path", ["/etc/hostname", "pyproject.toml", "/proc/self/environ"])
def test_an_event_cannot_name_a_file_outside_the_cache(launched, event, path):
    """Whoever speaks to the queue without a browser may write any path as "uploaded"."""
    told = call(launched, event, uuid.uuid4().hex, file_data(path), None)
    assert told["success"] is False and "data:image" not in str(told["output"]), told


def test_another_session_gets_nothing_of_this_one(launched):
    mine, other = uuid.uuid4().hex, uuid.uuid4().hex
    path = send(launched)
    opened = call(launched, "open_upload", mine, file_data(path), None)
    canvas = opened["output"]["data"][0]
    assert opened["success"] and canvas["props"]["src"].startswith("data:image/png")
    drawn = {"picture": canvas["value"]["picture"], "regions": [], "last_id": 0}

    # The same path again, from another session: the file is gone.
    again = call(launched, "open_upload", other, file_data(path), None)
    assert "data:image" not in str(again["output"])
    # What the other session exports is its own, which is empty, even if it names my picture.
    exported = call(launched, "export", other, drawn, None)["output"]["data"][0]
    assert json.loads(json.loads(exported)["text"])["picture"] is None
    mine_exported = call(launched, "export", mine, drawn, None)["output"]["data"][0]
    assert json.loads(json.loads(mine_exported)["text"])["picture"]["width"] == 40
    # A reload needs the picture's token.
    for guess in ({"picture": "0" * 32}, {"picture": None}, {"picture": ["x"]}, [], "x"):
        arrived = call(launched, "arrive", uuid.uuid4().hex, json.dumps(guess), None)
        assert "data:image" not in str(arrived["output"]), guess
    assert "data:image" in str(call(launched, "arrive", uuid.uuid4().hex, json.dumps(drawn), None)["output"])


def test_an_opened_upload_is_gone(tmp_path):
    folder = Path(get_upload_folder()) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"x")
    assert take_upload(str(folder / "a.png")) == b"x" and not folder.exists()
    with pytest.raises(OSError):
        take_upload(str(folder / "a.png"))
    other = tmp_path / "mine.png"
    other.write_bytes(b"y")
    assert take_upload(str(other)) == b"y" and other.exists()


def test_two_uploads_of_one_file_have_paths_of_their_own(launched):
    first, second = send(launched), send(launched)
    assert first != second
    assert re.search(r"[0-9a-f]{32}", Path(first).name)
    assert take_upload(first) == take_upload(second)

"""The page answers its own routes to itself only, and keeps no file."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("gradio")

from app.privacy import GuardPage, sweep
from rgpt.commands.serve import find_page
from rgpt.errors import InputError
from tests.hostile.test_callers import application

ROOT = Path(__file__).parents[2]


def ask(path: str, method: str = "GET", root: str = "", **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(GuardPage(application), root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as http:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await http.request(method, root + path, headers=named)

    return asyncio.run(send())


@pytest.mark.parametrize("root", ["", "/ui"])
@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 200),
        ("/", "HEAD", 200),
        ("/config", "GET", 200),
        ("/assets/index-1a.js", "GET", 200),
        ("/gradio_api/queue/join", "POST", 200),
        ("/gradio_api/queue/data", "GET", 200),
        ("/gradio_api/upload", "POST", 200),
        ("/gradio_api/deep_link", "GET", 403),
        ("/gradio_api/file=/etc/passwd", "GET", 403),
        ("/gradio_api/file/x", "GET", 403),
        ("/gradio_api/proxy=http://10.0.0.1", "GET", 403),
        ("/gradio_api/stream/a/b/c/playlist.m3u8", "GET", 403),
        ("/gradio_api/call/open_upload", "POST", 403),
        ("/gradio_api/run/open_upload", "POST", 403),
        ("/gradio_api/process_recording", "POST", 403),
        ("/gradio_api/info", "GET", 403),
        ("/gradio_api/mcp/", "POST", 403),
        ("/gradio_api/vibe-edit", "POST", 403),
        ("/monitoring", "GET", 403),
        ("/login", "POST", 403),
        ("/static/../gradio_api/deep_link", "GET", 403),
        ("/assets/..%2f..%2fetc/passwd", "GET", 403),
        ("/config", "POST", 403),
        ("/", "OPTIONS", 403),
        ("/gradio_api/upload", "PUT", 403),
    ],
)
def test_only_routes_that_the_page_uses_are_open(root: str, path: str, method: str, status: int) -> None:
    answer = ask(path, method, root)
    assert answer.status_code == status
    # In no frame, whatever it is.
    assert answer.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:7860", "sec_fetch_site": "same-origin"}, 200),
        ({"host": "app.example", "origin": "https://app.example"}, 200),  # behind TLS
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:7861"}, 403),
        ({"origin": "http://127.0.0.1"}, 403),
        ({"origin": "http://127.0.0.1:7860.evil.example"}, 403),
        ({"origin": "http://127.0.0.1:7860@evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, 403),
    ],
)
def test_no_other_page_may_send(headers: dict[str, str], status: int) -> None:
    assert ask("/gradio_api/upload", "POST", **headers).status_code == status


def test_a_link_opens_the_page_and_a_frame_does_not() -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert ask("/", **link).status_code == 200
    for dest in ("iframe", "embed", "object"):
        assert ask("/", **{**link, "sec_fetch_dest": dest}).status_code == 403
    assert ask("/config", sec_fetch_site="cross-site", sec_fetch_mode="no-cors").status_code == 403


OWN_FOLDER = """
import os, sys
from pathlib import Path
from app.privacy import use_own_folder
use_own_folder()
folder = Path(os.environ["GRADIO_TEMP_DIR"])
(folder / "a").write_text("a visitor's picture")
print(folder, oct(folder.stat().st_mode & 0o777), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
"""


def test_uploads_go_with_the_process_even_if_it_was_killed(tmp_path: Path) -> None:
    def run(how: str) -> tuple[Path, str]:
        environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", OWN_FOLDER, how], env=environment, capture_output=True, text=True
        )
        folder, mode = done.stdout.split()
        return Path(folder), mode

    killed, mode = run("killed")
    assert killed.is_dir() and mode == "0o700"
    ended, _ = run("ended")
    assert not ended.exists() and not killed.exists()


def test_what_nobody_opens_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "rgpt-uploads-x"
    (folder / "old").mkdir(parents=True)
    (folder / "new").mkdir()
    for name in ("tmp-old", "tmp-new"):
        (folder / name).write_text("x")
    for name, age in (("old", 700), ("new", 500), ("tmp-old", 70), ("tmp-new", 50)):
        os.utime(folder / name, (time.time() - age,) * 2)
    sweep(folder)
    assert {path.name for path in folder.iterdir()} == {"new", "tmp-new"}
    assert stat.S_ISDIR((folder / "new").stat().st_mode)
    sweep(tmp_path)  # another folder than ours is left alone
    assert folder.is_dir()


def test_the_page_is_never_taken_from_the_current_folder(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("app", "evil_page"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "mount.py").write_text("import os\nos._exit(7)\n")
    program = (
        "from rgpt.commands.serve import PAGE, find_page; print(find_page(PAGE).mount.__code__.co_filename)"
    )
    # As the installed command starts: without the current folder on the path.
    for path in (str(ROOT), os.pathsep.join([str(tmp_path), str(ROOT)])):
        done = subprocess.run(
            [sys.executable, "-P", "-c", program],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.strip() == str(ROOT / "app" / "mount.py"), done.stderr
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be used"):
        find_page("evil_page.mount:mount")

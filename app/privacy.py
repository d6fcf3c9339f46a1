"""The page among strangers: what it answers to whom, and what stays of an upload.

The page shows pictures as data URLs and makes its downloads from blobs, so of Gradio's many routes it needs
few. The others serve the whole upload cache to whoever knows a path, fetch addresses on behalf of the caller,
write a visitor's picture to disk for good, and more with each version: only what stands in `_ROUTES` is open.
What is left of an upload is the time between its arrival and its opening, under a name that the page draws at
random, in a folder of this process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gradio.utils import get_upload_folder

from rgpt.files import lock
from rgpt.serve.errors import ApiError
from rgpt.serve.guard import header, refuse

_ROUTES = {
    "GET": re.compile(
        r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json)|/(assets|static)/[\w./-]+"
        r"|/gradio_api/(queue/data|upload_progress|heartbeat/\w+|startup-events)",
        re.ASCII,
    ),
    "POST": re.compile(r"/gradio_api/(queue/join|run/predict|upload|cancel|reset)/?", re.ASCII),
}
_PREFIX = "rgpt-uploads-"
_POLICY = (
    # Gradio compiles its components' code in the page; all else comes from here or is part of the page.
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
]


class GuardPage:
    """ASGI middleware around Gradio: its own page's routes only, for its own page only, in no frame."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                ours = {name for name, _ in _HEADERS}
                kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in ours]
                message = {**message, "headers": [*kept, *_HEADERS]}
            await send(message)

        error = _refusal(scope)
        if error is None and scope["path"].rstrip("/").endswith("/upload"):
            with contextlib.suppress(OSError):
                sweep(Path(get_upload_folder()))
        await (self.app(scope, receive, send_guarded) if error is None else refuse(error, send_guarded))


def _refusal(scope: Mapping[str, Any]) -> ApiError | None:
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
    routes = _ROUTES.get(method)
    if routes is None or not routes.fullmatch(path) or ".." in path:
        return ApiError("unknown_url", "This page has no such address, and hands out no files.", status=403)
    # Browsers say where a request comes from: with Origin whenever it may change something, and on addresses
    # they trust with Sec-Fetch-Site always. Programs say neither.
    origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
    opened = (header(scope, b"sec-fetch-mode"), header(scope, b"sec-fetch-dest")) == ("navigate", "document")
    foreign = bool(origin) and urlsplit(origin).netloc.lower() != header(scope, b"host").strip().lower()
    if foreign or (site not in ("", "none", "same-origin") and not (opened and method == "GET")):
        return ApiError("foreign_origin", "This page answers to itself only: open it in a tab.", status=403)
    return None


def take_upload(path: str) -> bytes:
    """The content of an uploaded file, which is removed.

    Gradio has checked that the path lies in its cache. A file outside the upload folder is read, not removed.

    Raises:
        OSError: it is gone.
    """
    file = Path(path)
    content = file.read_bytes()
    if file.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        with contextlib.suppress(OSError):
            file.unlink()
            file.parent.rmdir()
    return content


def use_own_folder() -> None:
    """Let Gradio keep uploads in a folder of this process, for nobody else to read, which goes with it."""
    os.environ["GRADIO_TEMP_DIR"] = str(_own_folder())


@functools.cache
def _own_folder() -> Path:
    if os.name == "nt":  # where a folder cannot be opened to lock it, and a user has a temporary folder alone
        return Path(tempfile.mkdtemp(prefix=_PREFIX))
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):  # of processes that were killed
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
            if os.fstat(descriptor).st_uid == os.getuid() and lock(descriptor):
                shutil.rmtree(left, ignore_errors=True)
            os.close(descriptor)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock(os.open(folder, os.O_RDONLY))  # held as long as this process lives
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sweep(folder: Path, unfinished: float = 60.0, unopened: float = 600.0) -> None:
    """Remove from an own folder what no page will open any more.

    Args:
        unfinished: seconds since the last byte of an upload that broke off.
        unopened: seconds that a whole one may wait for the event that opens it.
    """
    if not folder.name.startswith(_PREFIX):
        return
    now = time.time()
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > (unopened if path.is_dir() else unfinished):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

"""Uploads: nothing that a visitor sends can be fetched by anybody, and no file outlives its opening.

The page shows pictures as data URLs and makes its downloads from blobs, so it needs none of Gradio's file
routes. Those serve the whole upload cache to whoever knows a path, and `/file=http…` fetches addresses on
behalf of the caller; all of them are closed here. What is left of an upload is the time between its arrival
and its opening, under a name that the page draws at random.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

_FILE_ROUTE = re.compile(r"/file[=/]")
_REFUSAL = b'{"detail":"This server hands out no files."}'


class RefuseFiles:
    """ASGI middleware: 403 for every path of Gradio's file routes, whether or not there is such a file."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not _FILE_ROUTE.search(scope["path"]):
            await self.app(scope, receive, send)
            return
        length = str(len(_REFUSAL)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": _REFUSAL})


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

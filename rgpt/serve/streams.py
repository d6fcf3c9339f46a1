"""Responses that are sent piece by piece, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

T = TypeVar("T")


class ClientGone(Exception):
    """The client has left; nobody reads the answer."""


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client leaves before.

    Raises:
        ClientGone: it has left.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, watch):
            if not each.done():
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await each


class EventStream(StreamingResponse):
    """Server-sent events of one request. The request's generator, then `held`, is closed however the response
    ends."""

    def __init__(
        self,
        events: AsyncGenerator[Any, None],
        lines: AsyncIterator[str],
        held: contextlib.AsyncExitStack,
    ) -> None:
        self.events, self.held = events, held
        super().__init__(
            lines,
            media_type="text/event-stream",
            # Proxies must not collect the pieces.
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.events.aclose()
            await self.held.aclose()


def line(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"

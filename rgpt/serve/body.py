"""Reading a request's body within its limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect

from rgpt.serve.errors import ApiError, overloaded
from rgpt.serve.settings import Settings

LINGER_SECONDS = 10.0
LINGER_BYTES = 2**30


SMALL = 2**20
"""Bytes of a body up to which it counts apart from larger ones."""


class Bodies:
    """Reads bodies one by one and all of them together within their caps."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.small = self.large = 0
        """Bytes of all bodies whose requests have not left: of each the first `SMALL`, and the rest."""

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[list[bytes]]:
        """The body, counted as held until the block is left: the only item of a list, to be popped, so that
        it need not be there as long as it counts.

        Raises:
            ApiError: 415 for another type than JSON, 413 for too much, 408 for too slow, 429 when all bodies
                together are too much, 400 for JSON of too many values.
        """
        # A page in somebody's browser may post other types to this machine without asking; JSON it may not.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(
                "unsupported_media_type",
                "The body must be sent as Content-Type: application/json.",
                status=415,
            )
        length = request.headers.get("content-length", "")
        announced = int(length) if length.isdecimal() else 0
        if announced > self.settings.max_body_bytes:
            await self._linger(request)
            raise self._too_large()
        chunks: list[bytes] = []
        size, most = 0, self.settings.max_bodies_bytes
        try:
            try:
                async with asyncio.timeout(self.settings.body_time_limit):
                    async for chunk in request.stream():
                        first = min(len(chunk), max(0, SMALL - size))
                        size, self.small = size + len(chunk), self.small + first
                        self.large += len(chunk) - first
                        if size > self.settings.max_body_bytes:
                            chunks.clear()
                            await self._linger(request)
                            raise self._too_large()
                        if self.large > most or self.small > min(most, 64 * SMALL):
                            raise overloaded(
                                "too_many_bytes", "Too much is being sent at once: try again later.", 1
                            )
                        chunks.append(chunk)
            except TimeoutError:
                raise ApiError(
                    "body_too_slow",
                    f"The body did not arrive within {self.settings.body_time_limit:g} seconds.",
                    status=408,
                    kind="timeout_error",
                ) from None
            except ClientDisconnect:
                raise ApiError("client_closed_request", "The client left.", status=499) from None
            body = b"".join(chunks)
            chunks[:] = [body]
            # Pictures and compressed masks hold no commas; what does is values that each cost memory.
            if body.count(b",") > self.settings.max_commas:
                raise ApiError(
                    "request_too_large",
                    f"The JSON holds more than {self.settings.max_commas} values: send masks compressed.",
                    status=413,
                )
            del body
            yield chunks
        finally:
            self.small -= min(size, SMALL)
            self.large -= max(0, size - SMALL)

    def _too_large(self) -> ApiError:
        return ApiError(
            "request_too_large",
            f"The body has more than {self.settings.max_body_bytes} bytes: send a smaller picture.",
            status=413,
        )

    async def _linger(self, request: Request) -> None:
        """Read on and throw away for a while: a client that is still sending would not see the answer."""
        if request.headers.get("expect", "").lower() == "100-continue":
            return  # it waits for our word before it sends
        left = LINGER_BYTES
        with contextlib.suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0:
                    message = await request.receive()
                    left -= len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body"):
                        return

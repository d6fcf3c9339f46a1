"""A request's picture and regions, made ready for the model outside of its thread: fetched, decoded, laid on
its grid. When a request is cancelled, what is done for it ends first."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from rgpt.errors import InputError
from rgpt.prompts import mentioned
from rgpt.regions import Region, check_work
from rgpt.regions.square import SquarePicture
from rgpt.serve.decoding import weigh
from rgpt.serve.errors import ApiError, from_input_error, overloaded, time_limit
from rgpt.serve.fetch import AT_ONCE, fetch
from rgpt.serve.metrics import Metrics
from rgpt.serve.pictures import SentPicture, read_data_url, see_sent
from rgpt.serve.sessions import Picture, Sessions
from rgpt.serve.settings import Settings
from rgpt.serve.workers import decoding_memory, finished, shared_workers

T = TypeVar("T")
QUICK_WORK = 50_000
"""Of regions, in `Geometry.work`: less takes a few milliseconds, which no process is worth."""

_WEB = re.compile(r"\s*https?://", re.IGNORECASE)


@dataclass
class Given:
    """A request's picture as it was sent, which is the request's largest part: `take` leaves nothing of it.

    Args:
        picture: a URL, then perhaps the bytes that were fetched from it; None: there is none.
        param: where it stood in the request.
        alpha_is_region: there are no `regions`, so an alpha channel is one.
        who: the caller.
    """

    picture: str | bytes | None
    param: str
    alpha_is_region: bool
    who: str

    def take(self) -> str | bytes:
        """The picture, which is nobody else's any more."""
        picture, self.picture = self.picture, None
        assert picture is not None
        return picture


@dataclass
class Ready:
    """A request whose picture and regions are opened; `image` is None where nothing has to be encoded.

    `own`: by turn, what its numbers mean where that is not what `regions` say.
    """

    key: str
    picture: Picture | None
    image: SquarePicture | None
    alpha: Any
    regions: dict[int, Region] = field(default_factory=dict)
    own: dict[int, dict[int, Region]] = field(default_factory=dict)
    laid: dict[Region, Any] = field(default_factory=dict)
    """Cell weights `[G, G]` of the regions that are asked about."""
    grammar: Any = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture, of which there is one."""
        if self.picture is not None:
            return self.picture.size
        assert self.image is not None
        return self.image.height, self.image.width

    def of_turn(self, turn: int, text: str) -> dict[int, Region]:
        """The regions that a turn's text mentions."""
        known = {**self.regions, **self.own.get(turn, {})}
        return {n: known[n] for n in mentioned(text)}


class Opener:
    """Opens pictures and regions of all requests, by few threads and processes."""

    def __init__(self, settings: Settings, sessions: Sessions, metrics: Metrics, fetch_images: bool) -> None:
        self.settings, self.sessions, self.metrics = settings, sessions, metrics
        self.fetch_images = fetch_images
        self.workers = shared_workers()
        # Base64, hashes and small regions: short, and Python's alone, so more threads would gain nothing.
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="rgpt-reading")
        self._fetching = 0
        self._fetchers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="rgpt-fetch")

    @cached_property
    def processor(self) -> Any:
        """That of the model."""
        return self.sessions.new().processor

    def close(self) -> None:
        """Begin nothing more."""
        for pool in (self._readers, self._fetchers):
            pool.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, given: Given, until: float) -> None:
        """Put the bytes at an http(s) URL in its place, before the loop's clock shows `until`.

        Raises:
            ApiError: URLs are not fetched here, it cannot be fetched, too many are, 408.
        """
        if not isinstance(given.picture, str) or not _WEB.match(given.picture):
            return
        if not self.fetch_images:
            raise ApiError(
                "image_url_not_allowed",
                "This server fetches no pictures: send it as data:image/png;base64,….",
                param=given.param,
            )
        if self._fetching >= AT_ONCE + self.settings.max_waiting:
            raise overloaded("queue_full", "Too many pictures are being fetched: try again later.", 1)
        self._fetching += 1
        try:
            work = asyncio.get_running_loop().run_in_executor(
                self._fetchers, fetch, given.picture.strip(), given.param, self.settings
            )
            async with asyncio.timeout_at(until):
                given.picture = await work
        except TimeoutError:
            raise time_limit(self.settings.time_limit) from None
        finally:
            self._fetching -= 1

    async def see(self, given: Given) -> Ready:
        """What is known of the picture, or what a model sees of it.

        Raises:
            ApiError: `invalid_image`.
        """
        if given.picture is None:
            return Ready(f"{given.who}:", None, None, None)

        def read() -> SentPicture:
            picture = given.take()
            data = read_data_url(picture, given.param, self.settings) if isinstance(picture, str) else picture
            return SentPicture.of(data, given.alpha_is_region, given.param, given.who)

        sent = await self.read(read)
        picture = self.sessions.picture(sent.key)
        self.metrics.pictures.labels("miss" if picture is None else "hit").inc()
        if picture is not None:
            return Ready(sent.key, picture, None, picture.alpha)
        square, alpha = await see_sent(sent, self.settings, self.workers, self.processor)
        return Ready(sent.key, None, square, alpha)

    async def lay(self, wanted: Iterable[Region], ready: Ready) -> None:
        """Cell weights of regions, so that the model's thread makes none.

        Each was held against the picture before.

        Raises:
            ApiError: together they are too much work.
        """
        if not (regions := list(wanted)):
            return
        size, grid = ready.size, self.processor.refined_grid
        try:
            if await self.read(check_work, regions, *size) <= QUICK_WORK:
                _, (rows,) = await self.read(weigh, regions, *size, grid)
            else:
                task = self.workers.submit(
                    "rgpt.serve.decoding:weigh",
                    regions,
                    *size,
                    grid,
                    thing="What the regions cover",
                    slow=True,
                    seconds=self.settings.decode_seconds,
                    memory=decoding_memory(self.settings.max_image_pixels),
                )
                _, (rows,) = await finished(task)
        except InputError as error:
            raise from_input_error(error, "invalid_region", "regions") from None
        ready.laid = dict(zip(regions, rows, strict=True))

    async def read(
        self, function: Callable[..., T], *arguments: Any, pool: ThreadPoolExecutor | None = None
    ) -> T:
        """On a thread for short work; its end is waited for even when the request is cancelled."""
        work = asyncio.get_running_loop().run_in_executor(pool or self._readers, function, *arguments)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not work.cancel():
                await asyncio.wait([work])
            if work.done() and not work.cancelled():
                work.exception()
            raise

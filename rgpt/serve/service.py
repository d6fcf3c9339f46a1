"""From a checked request to the pieces of its answer: queue, picture, regions, model."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from rgpt.errors import InputError
from rgpt.prompts import mentioned
from rgpt.regions import Region, check_work, region_weights
from rgpt.regions.square import SquarePicture
from rgpt.serve.conversation import Asked, check_mentions, read_conversation
from rgpt.serve.engine import Engine, Job, Slots, next_event
from rgpt.serve.errors import ApiError, from_input_error, overloaded, shutting_down, time_limit
from rgpt.serve.fetch import AT_ONCE, fetch
from rgpt.serve.metrics import Metrics
from rgpt.serve.pictures import SentPicture, read_data_url, see_sent
from rgpt.serve.protocol import ChatRequest
from rgpt.serve.regions import Numbered, build_regions, number_regions
from rgpt.serve.sessions import Earlier, Picture, Session, Sessions
from rgpt.serve.settings import Settings
from rgpt.serve.text import AnswerText
from rgpt.serve.workers import decoding_memory, finished, shared_workers

T = TypeVar("T")
log = logging.getLogger("rgpt.serve")
QUICK_WORK = 50_000
"""Of regions, in `Geometry.work`: less takes a few milliseconds, which no process is worth."""

_WEB = re.compile(r"\s*https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Ended:
    """The last event of an answer."""

    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int


@dataclass
class _Ready:
    """A request whose picture and regions are opened; `image` is None where nothing has to be encoded.

    `own`: by turn, what its numbers mean where that is not what `regions` say.
    """

    key: str
    picture: Picture | None
    image: SquarePicture | None
    alpha: Any
    regions: dict[int, Region]
    own: dict[int, dict[int, Region]] = field(default_factory=dict)
    laid: dict[Region, Any] = field(default_factory=dict)
    """Cell weights `[G, G]` of the regions that the texts mention."""

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


class Service:
    """Answers requests over one model.

    Args:
        new_session: makes an empty `ChatSession`.
        fetch_images: whether http(s) picture URLs are fetched.
    """

    def __init__(
        self,
        new_session: Callable[[], Session],
        settings: Settings | None = None,
        *,
        fetch_images: bool = False,
        features_bytes: int = 0,
    ) -> None:
        self.settings = settings = settings or Settings()
        self.fetch_images = fetch_images
        self.sessions = Sessions(
            new_session,
            settings.kept_pictures,
            settings.kept_picture_bytes,
            settings.kept_sessions,
            features_bytes,
        )
        self.slots = Slots(settings.max_running, settings.max_waiting)
        self.engine = Engine()
        self.metrics = Metrics(lambda: self.slots.running, lambda: self.slots.waiting)
        self.draining = False
        self._jobs: set[Job] = set()
        self.workers = shared_workers()
        # Base64, hashes and small regions: short, and Python's alone, so more threads would gain nothing.
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="rgpt-reading")
        self._fetching = 0
        self._fetchers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="rgpt-fetch")

    @cached_property
    def processor(self) -> Any:
        """That of the model."""
        return self.sessions.new().processor

    def start(self) -> None:
        self.engine.start()
        self.workers.warm()

    def drain(self) -> None:
        """Say that the server is about to end: health says so; what is under way goes on."""
        self.draining = True

    def end(self) -> None:
        """Fail what is still waiting or under way, in order."""
        self.draining = True
        self.slots.close()
        for job in list(self._jobs):
            job.events.put_nowait(shutting_down())
            job.stop()

    def close(self) -> None:
        self.end()
        self.engine.close()
        for pool in (self._readers, self._fetchers):
            pool.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: ChatRequest, who: str = "") -> AsyncGenerator[str | Ended, None]:
        """The answer's pieces, then one `Ended`. Closing the generator stops the computation.

        Args:
            who: the caller, by key or address; what is kept of one caller is not used for another.

        Raises:
            ApiError: before the first piece for whatever is wrong with the request; later only for the time
                limit, a shutdown or a failure of the model.
        """
        started = time.monotonic()
        outcome = "disconnected"
        first = True
        events = self._answer(request, who)
        try:
            async for event in events:
                if first:
                    first = False
                    self.metrics.first.observe(time.monotonic() - started)
                if isinstance(event, Ended):
                    outcome = event.finish_reason
                    self.metrics.tokens.labels("prompt").inc(event.prompt_tokens)
                    self.metrics.tokens.labels("cached").inc(event.cached_tokens)
                    self.metrics.tokens.labels("answer").inc(event.answer_tokens)
                yield event
        except ApiError as error:
            outcome = error.code
            raise
        finally:
            await events.aclose()
            if outcome == "disconnected":
                log.warning("a client left %.1f s after it asked", time.monotonic() - started)
            self.metrics.requests.labels(outcome).inc()
            self.metrics.seconds.observe(time.monotonic() - started)

    async def _answer(self, request: ChatRequest, who: str) -> AsyncGenerator[str | Ended, None]:
        settings, loop = self.settings, asyncio.get_running_loop()
        until = loop.time() + settings.time_limit
        asked = read_conversation(request.messages, settings.max_text)
        given = number_regions(request.regions or [], asked, settings)
        alpha_is_region = request.regions is None
        if not alpha_is_region or asked.picture_url is None:
            check_mentions(asked, given[0].numbers, _numbers_by_turn(given))
        # What its picture takes comes before its slot: nobody who only asks waits behind it.
        fetched = await self._fetch(asked, until)
        self.slots.enter()
        held_since: float | None = None
        job: Job | None = None
        try:
            async with asyncio.timeout_at(until):
                asked, ready = await self._open(request, asked, given, who, fetched)
            del fetched
            await self.slots.acquire(until, settings.time_limit)
            held_since = loop.time()
            if ready.image is None:
                session = self.sessions.take(ready.key, ready.picture, asked.turns)
            else:
                session = self.sessions.new()
            holder = [session]
            usages: list[Any] = []

            def on_end() -> None:
                if job is not None:
                    self._jobs.discard(job)
                # Read here: once given back, the session may be another request's before this one wakes up.
                usages.extend(turn.usage for turn in holder[0].turns[len(asked.turns) :])
                holder[0].laid = {}
                # What failed in the middle is not known to be whole: only what was asked to its end is kept.
                if holder[0].turns and len(holder[0].turns) > len(asked.turns):
                    self.sessions.give(ready.key, holder[0])
                assert held_since is not None
                self.slots.release(loop.time() - held_since)
                self.slots.leave()

            job = self.engine.submit(self._compute(request, asked, ready, holder), on_end)
            self._jobs.add(job)
            text = AnswerText(request.stops)
            while (piece := await next_event(job, until, settings.time_limit)) is not None:
                if sent := text.feed(piece):
                    yield sent
                if text.stopped:
                    job.stop()
            if sent := text.finish():
                yield sent
            usage = usages[-1]
            reason = "length" if usage.ended == "length" and not text.stopped else "stop"
            yield Ended(reason, usage.prompt_tokens, usage.cached_tokens, usage.answer_tokens)
        except TimeoutError:
            raise time_limit(settings.time_limit) from None
        finally:
            if job is not None:
                job.stop()
            else:
                if held_since is not None:
                    self.slots.release()
                self.slots.leave()

    async def _open(
        self, request: ChatRequest, asked: Asked, given: list[Numbered], who: str, fetched: bytes | None
    ) -> tuple[Asked, _Ready]:
        """What is known of the picture, or what a model sees of it, and its regions, laid on the model's
        grid; and the request without the picture's text. When it is cancelled, nothing goes on."""
        if asked.picture_url is None:
            return asked, _Ready(f"{who}:", None, None, None, {})
        assert asked.picture_param is not None
        param = asked.picture_param
        given_picture: list[str | bytes] = [asked.picture_url if fetched is None else fetched]
        # The text of a picture is the largest part of a request: nothing else of it holds it now.
        request.messages.clear()
        asked = replace(asked, picture_url="")
        alpha_is_region = request.regions is None

        def read() -> SentPicture:
            url = given_picture.pop()
            data = read_data_url(url, param, self.settings) if isinstance(url, str) else url
            return SentPicture.of(data, alpha_is_region, param, who)

        sent = await self._read(read)
        picture = self.sessions.picture(sent.key)
        self.metrics.pictures.labels("miss" if picture is None else "hit").inc()
        if picture is not None:
            ready = _Ready(sent.key, picture, None, picture.alpha, {})
        else:
            square, alpha = await see_sent(sent, self.settings, self.workers, self.processor)
            ready = _Ready(sent.key, None, square, alpha, {})
        del sent
        await self._read(self._place, asked, given, ready)
        await self._lay(asked, ready)
        return asked, ready

    def _place(self, asked: Asked, given: list[Numbered], ready: _Ready) -> None:
        """On a thread: the regions, in the picture."""
        height, width = ready.size
        for item in given:
            into = ready.regions if item.turn is None else ready.own.setdefault(item.turn, {})
            into |= build_regions(item.params, item.numbers, height, width, item.field)
        if ready.alpha is not None:
            ready.regions = {1: ready.alpha}
        check_mentions(asked, ready.regions, ready.own)

    async def _lay(self, asked: Asked, ready: _Ready) -> None:
        """Cell weights of the regions that the texts mention, so that the model's thread makes none."""
        texts = [question for question, _ in asked.turns] + [asked.question]
        wanted = {region for turn, text in enumerate(texts) for region in ready.of_turn(turn, text).values()}
        regions, size, grid = list(wanted), ready.size, self.processor.refined_grid
        if not regions:
            return
        try:
            check_work(regions, *size)
            if sum(region.work(*size) for region in regions) <= QUICK_WORK:
                rows: Any = await self._read(lambda: [region_weights(r, *size, grid) for r in regions])
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

    async def _read(self, function: Callable[..., T], *arguments: Any) -> T:
        """On a thread for short work; its end is waited for even when the request is cancelled."""
        work = asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not work.cancel():
                await asyncio.wait([work])
            if work.done() and not work.cancelled():
                work.exception()
            raise

    async def _fetch(self, asked: Asked, until: float) -> bytes | None:
        """The bytes at an http(s) URL; None for a picture that was sent, or none."""
        if asked.picture_url is None or not _WEB.match(asked.picture_url):
            return None
        assert asked.picture_param is not None
        if not self.fetch_images:
            raise ApiError(
                "image_url_not_allowed",
                "This server fetches no pictures: send it as data:image/png;base64,….",
                param=asked.picture_param,
            )
        if self._fetching >= AT_ONCE + self.settings.max_waiting:
            raise overloaded("queue_full", "Too many pictures are being fetched: try again later.", 1)
        self._fetching += 1
        try:
            work = asyncio.get_running_loop().run_in_executor(
                self._fetchers, fetch, asked.picture_url.strip(), asked.picture_param, self.settings
            )
            async with asyncio.timeout_at(until):
                return await work
        except TimeoutError:
            raise time_limit(self.settings.time_limit) from None
        finally:
            self._fetching -= 1

    def _compute(
        self, request: ChatRequest, asked: Asked, ready: _Ready, holder: list[Session]
    ) -> Iterator[str]:
        """On the model's thread: encode the picture unless it is known, then answer."""
        if ready.image is not None:
            base = holder[0]
            base.set_image(ready.image)
            ready.picture = Picture(ready.key, base, ready.alpha)
            self.sessions.add_picture(ready.picture)
            holder[0] = base.another()
            ready.image = None
        session = holder[0]
        session.laid = ready.laid
        session.turns = [
            Earlier(question, answer, ready.of_turn(turn, question))
            for turn, (question, answer) in enumerate(asked.turns)
        ]
        session.regions = ready.of_turn(len(asked.turns), asked.question)
        limit = request.max_completion_tokens or request.max_tokens or self.settings.default_max_tokens
        yield from session.stream(
            asked.question,
            max_new_tokens=limit,
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=request.seed,
        )


def _numbers_by_turn(given: list[Numbered]) -> dict[int, list[int]]:
    """The numbers that turns have of their own."""
    numbers: dict[int, list[int]] = {}
    for item in given:
        if item.turn is not None:
            numbers.setdefault(item.turn, []).extend(item.numbers)
    return numbers

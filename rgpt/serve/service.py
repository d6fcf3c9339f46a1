"""From a checked request to the pieces of its answer: queue, opening, model."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from rgpt.chat.pieces import Piece
from rgpt.errors import InputError
from rgpt.serve.choices import Choices, Ended, Said
from rgpt.serve.conversation import Asked, check_mentions, read_conversation
from rgpt.serve.engine import Engine, Job, Slots, next_event
from rgpt.serve.errors import ApiError, from_input_error, shutting_down, time_limit
from rgpt.serve.metrics import Metrics
from rgpt.serve.opening import Given, Opener, Ready
from rgpt.serve.protocol import ChatRequest
from rgpt.serve.regions import Numbered, build_regions, number_regions
from rgpt.serve.sessions import Earlier, Picture, Session, Sessions
from rgpt.serve.settings import Settings

T = TypeVar("T")
log = logging.getLogger("rgpt.serve")


@dataclass
class Work:
    """A request on the model's thread. Whoever computes says whether its session may be kept (`whole`)."""

    ready: Ready
    session: Session
    whole: bool = False


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
        self.opener = Opener(settings, self.sessions, self.metrics, fetch_images)
        # Schemas take up to a second each: small pictures do not wait behind them.
        self._compilers = ThreadPoolExecutor(1, thread_name_prefix="rgpt-schemas")

    def start(self) -> None:
        self.engine.start()
        self.opener.workers.warm()

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
        self.opener.close()
        self._compilers.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: ChatRequest, who: str = "") -> AsyncGenerator[Said | Ended, None]:
        """What choices say, then one `Ended`. Closing the generator stops the computation.

        Args:
            who: the caller, by key or address; what is kept of one caller is not used for another.

        Raises:
            ApiError: before the first piece for whatever is wrong with the request; later only for the time
                limit, a shutdown or a failure of the model.
        """
        async with contextlib.aclosing(self.counted(self._answer(request, who))) as events:
            async for event in events:
                yield event

    async def counted(self, events: AsyncGenerator[T | Ended, None]) -> AsyncGenerator[T | Ended, None]:
        """The events of a request as they are, counted in the metrics."""
        started = time.monotonic()
        outcome = "disconnected"
        first = True
        try:
            async for event in events:
                if first:
                    first = False
                    self.metrics.first.observe(time.monotonic() - started)
                if isinstance(event, Ended):
                    outcome = event.finish_reasons[0]
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

    async def _answer(self, request: ChatRequest, who: str) -> AsyncGenerator[Said | Ended, None]:
        settings, alpha_is_region = self.settings, request.regions is None
        asked = read_conversation(request.messages, settings.max_text)
        numbered = number_regions(request.regions or [], asked, settings)
        if not alpha_is_region or asked.picture_url is None:
            check_mentions(asked, numbered[0].numbers, _numbers_by_turn(numbered))
        given = Given(asked.picture_url, asked.picture_param or "", alpha_is_region, who)
        # Nothing but `given` holds the picture's text now.
        request.messages.clear()
        asked = replace(asked, picture_url=None)
        choices = Choices(request.n or 1, request.stops)
        opening = partial(self._open, request, asked, numbered)
        compute = partial(self._compute, request, asked, choices.stopped)
        async with contextlib.aclosing(self.run(given, opening, compute, asked.turns)) as passes:
            async for pieces in passes:
                for piece in pieces:
                    if (said := choices.feed(piece)) is not None:
                        yield said
        for said in choices.finish():
            yield said
        yield choices.ended()

    async def run(
        self,
        given: Given,
        opening: Callable[[Ready], Awaitable[None]],
        compute: Callable[[Work], Iterator[Any]],
        turns: Sequence[tuple[str, str]] = (),
    ) -> AsyncGenerator[Any, None]:
        """What a computation yields. It waits in line, and ends when this generator is closed.

        Args:
            given: the picture, which is opened here.
            opening: adds what else the request needs, by the opener's `read` and `lay`; when it is cancelled,
                nothing of it goes on.
            compute: makes an iterator that runs on the model's thread, one step of each request in turn.
            turns: the conversation so far, of which as much as possible is known to the session.

        Raises:
            ApiError: 429 or 408 for the line, what `opening` and the computation refuse, 408, 503, 500.
        """
        settings, loop = self.settings, asyncio.get_running_loop()
        until = loop.time() + settings.time_limit
        # What its picture takes comes before its slot: nobody who only asks waits behind it.
        await self.opener.fetch(given, until)
        self.slots.enter()
        held_since: float | None = None
        job: Job | None = None
        try:
            async with asyncio.timeout_at(until):
                ready = await self.opener.see(given)
                await opening(ready)
            await self.slots.acquire(until, settings.time_limit)
            held_since = loop.time()
            if ready.image is None:
                session = self.sessions.take(ready.key, ready.picture, turns)
            else:
                session = self.sessions.new()
            work = Work(ready, session)

            def on_end() -> None:
                if job is not None:
                    self._jobs.discard(job)
                # What failed in the middle is not known to be whole: only what was asked to its end is kept.
                if work.whole:
                    self.sessions.give(ready.key, work.session)
                assert held_since is not None
                self.slots.release(loop.time() - held_since)
                self.slots.leave()

            job = self.engine.submit(self._encoded(work, compute(work)), on_end)
            self._jobs.add(job)
            while (event := await next_event(job, until, settings.time_limit)) is not None:
                yield event
        except TimeoutError:
            raise time_limit(settings.time_limit) from None
        finally:
            if job is not None:
                job.stop()
            else:
                if held_since is not None:
                    self.slots.release()
                self.slots.leave()

    async def _open(self, request: ChatRequest, asked: Asked, numbered: list[Numbered], ready: Ready) -> None:
        """The regions, laid on the model's grid where the texts mention them, and the schema."""
        if ready.picture is not None or ready.image is not None:
            await self.opener.read(self._place, asked, numbered, ready)
            texts = [question for question, _ in asked.turns] + [asked.question]
            wanted = [ready.of_turn(turn, text).values() for turn, text in enumerate(texts)]
            await self.opener.lay(dict.fromkeys(chain(*wanted)), ready)
        if (schema := request.schema_asked) is not None:
            try:
                ready.grammar = await self.opener.read(self._compile, schema, pool=self._compilers)
            except InputError as error:
                raise from_input_error(error, "invalid_value", "response_format") from None

    def _place(self, asked: Asked, numbered: list[Numbered], ready: Ready) -> None:
        """On a thread: the regions, in the picture."""
        for item in numbered:
            into = ready.regions if item.turn is None else ready.own.setdefault(item.turn, {})
            into |= build_regions(item.params, item.numbers, *ready.size, item.field)
        if ready.alpha is not None:
            ready.regions = {1: ready.alpha}
        check_mentions(asked, ready.regions, ready.own)

    def _compile(self, schema: Mapping[str, Any]) -> Any:
        """On a thread."""
        return self.sessions.new().grammar(schema)

    def _encoded(self, work: Work, steps: Iterator[Any]) -> Iterator[Any]:
        """On the model's thread: encode the picture unless it is known, then compute."""
        ready = work.ready
        if ready.image is not None:
            base = work.session
            base.set_image(ready.image)
            ready.picture = Picture(ready.key, base, ready.alpha)
            self.sessions.add_picture(ready.picture)
            work.session = base.another()
            ready.image = None
        work.session.laid = ready.laid
        try:
            yield from steps
        finally:  # a session at rest keeps nothing of a request but its turns
            work.session.laid = {}

    def _compute(
        self, request: ChatRequest, asked: Asked, stopped: set[int], work: Work
    ) -> Iterator[list[Piece]]:
        """On the model's thread: answer, but go on with no choice of `stopped`."""
        session, ready = work.session, work.ready
        session.turns = [
            Earlier(question, answer, ready.of_turn(turn, question))
            for turn, (question, answer) in enumerate(asked.turns)
        ]
        session.regions = ready.of_turn(len(asked.turns), asked.question)
        options: dict[str, Any] = {
            "max_new_tokens": request.max_completion_tokens
            or request.max_tokens
            or self.settings.default_max_tokens,
            "temperature": request.temperature or 0.0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
        }
        count, seed = request.n or 1, request.seed
        if count == 1 and not request.logprobs and ready.grammar is None:
            try:
                with contextlib.closing(session.stream(asked.question, seed=seed, **options)) as texts:
                    for text in texts:
                        yield [Piece(0, text)]
                        if stopped:
                            break
            finally:
                work.whole = len(session.turns) > len(asked.turns)
            yield [Piece(0, "", usage=session.turns[-1].usage)]
            return
        yield from session.stream_each(
            [asked.question] * count,
            seed=None if seed is None else [(seed + i + 2**63) % 2**64 - 2**63 for i in range(count)],
            grammar=ready.grammar,
            top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            stopped=stopped,
            **options,
        )
        work.whole = True


def _numbers_by_turn(given: list[Numbered]) -> dict[int, list[int]]:
    """The numbers that turns have of their own."""
    numbers: dict[int, list[int]] = {}
    for item in given:
        if item.turn is not None:
            numbers.setdefault(item.turn, []).extend(item.numbers)
    return numbers

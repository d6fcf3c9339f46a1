"""The one thread that runs the model, and who may use it.

`Slots` decides which requests run (a bounded queue, first come first served); `Engine` takes one step of
every running answer in turn, so that a short answer never waits for the end of a long one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

from rgpt.serve.errors import ApiError, internal, overloaded, shutting_down, time_limit

log = logging.getLogger("rgpt.serve")


class Slots:
    """At most `running` holders at once and `waiting` others, being opened or in line. For one event loop."""

    def __init__(self, running: int, waiting: int) -> None:
        self.max_running, self.max_waiting = running, waiting
        self.running = 0
        self.entered = 0
        """Requests that have a place, running or not; one keeps it until no work is done for it."""
        self.closed = False
        self.seconds_each = 1.0
        """Running mean of how long a slot is held, for `Retry-After`."""
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return self.entered - self.running

    def retry_after(self) -> int:
        """Seconds after which the line should have moved."""
        rounds = (self.waiting + 1) / self.max_running
        return max(1, min(60, round(rounds * self.seconds_each)))

    def enter(self) -> None:
        """Take a place, to be given back with `leave`.

        Raises:
            ApiError: 429 when there is none, 503 when the server shuts down.
        """
        if self.closed:
            raise shutting_down()
        if self.entered >= self.max_running + self.max_waiting:
            raise overloaded(
                "queue_full",
                f"{self.waiting} requests are waiting already: try again later.",
                self.retry_after(),
            )
        self.entered += 1

    def leave(self) -> None:
        """Nothing is done for the request any more."""
        self.entered -= 1

    async def acquire(self, until: float, seconds: float) -> None:
        """Wait in line for a slot until the loop's clock shows `until`.

        Raises:
            ApiError: 408 when its time is up, 503 when the server shuts down.
        """
        if self.closed:
            raise shutting_down()
        if self.running < self.max_running and not self._line:
            self.running += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            async with asyncio.timeout_at(until):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.release()  # the slot came in the very moment in which nobody wanted it any more
            elif place in self._line:
                self._line.remove(place)
            if isinstance(error, TimeoutError):
                raise time_limit(seconds) from None
            raise

    def release(self, held: float | None = None) -> None:
        """Give a slot back; the first in line gets it."""
        if held is not None:
            self.seconds_each += 0.1 * (held - self.seconds_each)
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1

    def close(self) -> None:
        """Send everyone in line away."""
        self.closed = True
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_exception(shutting_down())


class Job:
    """One answer under way. `events` gets its pieces, then None at its end or what made it fail."""

    def __init__(self, pieces: Iterator[Any], on_end: Callable[[], None]) -> None:
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.pieces = pieces
        self.on_end = on_end
        self.loop = asyncio.get_running_loop()
        self.stopped = threading.Event()

    def stop(self) -> None:
        """Compute nothing more; the events end with None after at most one more step."""
        self.stopped.set()

    def tell(self, event: Any, *, last: bool = False) -> None:
        """From the model's thread to the event loop."""

        def deliver() -> None:
            self.events.put_nowait(event)
            if last:
                self.on_end()

        try:
            self.loop.call_soon_threadsafe(deliver)
        except RuntimeError:
            self.stopped.set()  # the loop is gone: so is whoever listened


class Engine:
    """Runs jobs on a thread of its own, one step of each in turn."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._new: list[Job] = []
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="rgpt-model", daemon=True)
        self._thread.start()

    def submit(self, pieces: Iterator[Any], on_end: Callable[[], None]) -> Job:
        """Run an iterator; `on_end` is called on the event loop once nothing of it is computed any more."""
        job = Job(pieces, on_end)
        with self._changed:
            if self._closing:
                raise shutting_down()
            self._new.append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Stop all jobs and the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        running: list[Job] = []
        while True:
            with self._changed:
                while not self._new and not running and not self._closing:
                    self._changed.wait()
                running += self._new
                self._new = []
                if self._closing:
                    for job in running:
                        job.stop()
                    if not running:
                        return
            running = [job for job in running if self._step(job)]

    def _step(self, job: Job) -> bool:
        """One piece of one answer; whether there may be more."""
        try:
            if job.stopped.is_set():
                if isinstance(job.pieces, Generator):
                    job.pieces.close()
                job.tell(None, last=True)
                return False
            job.tell(next(job.pieces))
            return True
        except StopIteration:
            job.tell(None, last=True)
        except ApiError as error:
            job.tell(error, last=True)
        except Exception as error:
            job.tell(self._explain(error), last=True)
        return False

    @staticmethod
    def _explain(error: Exception) -> BaseException:
        from rgpt.errors import InputError
        from rgpt.serve.errors import from_input_error

        if isinstance(error, InputError):
            return from_input_error(error)
        log.error("a request failed", exc_info=error)
        return internal()


async def next_event(job: Job, until: float, seconds: float) -> Any:
    """The job's next piece, or None at its end.

    Raises:
        ApiError: what made it fail, or 408 when the loop's clock shows `until`.
    """
    try:
        async with asyncio.timeout_at(until):
            event = await job.events.get()
    except TimeoutError:
        raise time_limit(seconds) from None
    if isinstance(event, BaseException):
        raise event
    return event

"""A few processes that decode pictures and lay regions on grids, each job within limits of time and memory.

A job that is not wanted any more, or passes its limits, ends with its process, and another one is started for
the next. There are two lanes, so that what is small never waits behind what is large.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from rgpt.errors import InputError
from rgpt.serve.worker import HEAD

log = logging.getLogger("rgpt.serve")

QUICK, SLOW = 1, 2
"""Processes of the two lanes."""
MOST_JOBS = 500
"""After these a process is replaced."""
NICE = 5
"""Of the slow lane: answers under way, and what is small, come first."""
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "VIRTUAL_ENV")


class TooLong(InputError):
    """A job took more than its seconds."""


class _Process:
    def __init__(self, nice: int) -> None:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        known = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}  # no keys
        self.jobs = 0
        self.popen = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from rgpt.serve.worker import main; main({nice})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**known, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    def do(self, job: bytes, most: int) -> tuple[dict[str, Any], list[np.ndarray]]:
        """One job; EOFError or OSError when the process ended."""
        assert self.popen.stdin is not None and self.popen.stdout is not None
        self.jobs += 1
        self.popen.stdin.write(len(job).to_bytes(HEAD, "big"))
        self.popen.stdin.write(job)
        self.popen.stdin.flush()
        told: dict[str, Any] = json.loads(self._read(int.from_bytes(self._read(HEAD), "big")))
        arrays = []
        for kind, shape in told["arrays"]:
            size = np.dtype(kind).itemsize * prod(shape)
            if size > most:
                raise EOFError
            arrays.append(np.frombuffer(self._read(size), dtype=kind).reshape(shape))
        return told, arrays

    def _read(self, size: int) -> bytearray:
        assert self.popen.stdout is not None
        data, place = bytearray(size), 0
        with memoryview(data) as view:
            while place < size:
                if not (count := self.popen.stdout.readinto(view[place:])):  # type: ignore[attr-defined]
                    raise EOFError
                place += count
        return data

    def end(self) -> int:
        self.popen.kill()
        for pipe in (self.popen.stdin, self.popen.stdout):
            try:
                assert pipe is not None
                pipe.close()
            except OSError:
                pass
        return self.popen.wait()


class Task:
    """One job. `future` ends with its values and arrays, or raises InputError."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.future: Future[tuple[dict[str, Any], list[np.ndarray]]]
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._ended = ""

    def kill(self, why: str = "left") -> None:
        """Nobody waits for it any more: its process ends, and so does the future."""
        with self._lock:
            self._ended = self._ended or why
            if self._process is not None:
                self._process.popen.kill()
        self.future.cancel()

    def run(self, lane: _Lane) -> tuple[dict[str, Any], list[np.ndarray]]:
        thing, seconds = self.job["thing"], self.job["seconds"]
        process = lane.take()
        with self._lock:
            self._process = process
        # Seconds of CPU are counted in the process; on a busy machine they take longer, within reason.
        patience = threading.Timer(60 + 10 * seconds, self.kill, ["time"])
        patience.daemon = True
        patience.start()
        try:
            if self._ended:
                raise EOFError
            told, arrays = process.do(pickle.dumps(self.job), self.job["memory"])
        except (EOFError, OSError, ValueError):
            code = process.end()
            if self._ended == "left":
                raise CancelledError from None
            if self._ended == "time" or code == -_SIGPROF:
                raise TooLong(
                    f"{thing} takes more than {seconds:g} seconds of work: make it smaller, or save it as a "
                    "plain PNG or JPEG."
                ) from None
            raise InputError(
                f"{thing} cannot be read: what decodes it gave up; save it as a plain PNG or JPEG."
            ) from None
        finally:
            patience.cancel()
            with self._lock:
                self._process = None
        lane.give(process)
        if "refused" in told:
            raise InputError(told["refused"])
        if "failed" in told:
            log.warning("a picture or region could not be read:\n%s", told["failed"])
            raise InputError(f"{thing} cannot be read: it is damaged; save it as a plain PNG or JPEG.")
        return told["values"], arrays


_SIGPROF = 27


class _Lane:
    def __init__(self, count: int, name: str, nice: int = 0) -> None:
        self.nice = nice
        self.threads = ThreadPoolExecutor(count, thread_name_prefix=f"rgpt-{name}")
        self._lock = threading.Lock()
        self._idle: list[_Process] = []

    def take(self) -> _Process:
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.popen.poll() is None:
                    return process
                process.end()
        return _Process(self.nice)

    def give(self, process: _Process) -> None:
        if process.jobs >= MOST_JOBS:
            process.end()
            return
        with self._lock:
            self._idle.append(process)


class Workers:
    """The processes of one server or app, started when they are first needed; they end with it."""

    def __init__(self, quick: int = QUICK, slow: int = SLOW) -> None:
        self._lanes = {False: _Lane(quick, "quick"), True: _Lane(slow, "slow", NICE)}

    def warm(self) -> None:
        """Start the first process now, which takes a moment."""
        lane = self._lanes[False]
        lane.threads.submit(lambda: lane.give(lane.take()))

    def submit(
        self, function: str, *arguments: Any, thing: str, slow: bool, seconds: float, memory: int
    ) -> Task:
        """Do `MODULE:FUNCTION(*arguments)` in a process.

        Args:
            thing: what sentences call it, e.g. `The picture`.
            slow: the lane.
            seconds: of CPU. memory: bytes, besides what the process has.
        """
        task = Task(
            {
                "function": function,
                "arguments": arguments,
                "thing": thing,
                "seconds": seconds,
                "memory": memory,
            }
        )
        lane = self._lanes[slow]
        task.future = lane.threads.submit(task.run, lane)
        return task


@functools.cache
def shared_workers() -> Workers:
    """Those of this process."""
    return Workers()


async def finished(task: Task) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The task's outcome. When the waiter is cancelled, its process is ended, and that is waited for."""
    waiting = asyncio.wrap_future(task.future)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        task.kill()
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            waiting.exception()  # looked at, so that nobody logs it
        raise


def decoding_memory(max_pixels: int) -> int:
    """Bytes that decoding so many pixels may take: a few copies of them, of four channels."""
    return 200 * 2**20 + 20 * max_pixels

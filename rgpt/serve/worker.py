"""A process that decodes what strangers send: `rgpt.serve.workers` starts it, and ends it at any time.

It reads one job after the other from stdin and writes its outcome to stdout. A job names a function, which
returns plain values and arrays; these go back as JSON and bytes, not as pickles, since a decoder that was
taken over would write them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from rgpt.errors import InputError

HEAD = 8
"""Bytes of the length that stands before a job and before the head of an outcome."""


@contextlib.contextmanager
def limits(seconds: float, memory: int) -> Iterator[None]:
    """A block that may take so many seconds of CPU, or the process ends, and so many bytes more, or it raises
    MemoryError. Where the system has neither, only the caller's patience counts."""
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    import resource

    pages = Path("/proc/self/statm")
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    if pages.exists():
        now = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, unlimited[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # nobody handles its signal, so it ends the process
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, unlimited)


def outcome(job: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What a job came to: `values`, or `refused` (a sentence), or `failed` (a traceback)."""
    try:
        module, _, name = job["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
        with limits(job["seconds"], job["memory"]):
            values, arrays = function(*job["arguments"])
        return {"values": values}, [np.ascontiguousarray(array) for array in arrays]
    except InputError as error:
        return {"refused": str(error)}, []
    except MemoryError:
        return {
            "refused": f"{job['thing']} takes too much memory: make it smaller, or save it as a plain PNG."
        }, []
    except Exception:
        return {"failed": traceback.format_exc()}, []


def serve(jobs: IO[bytes], outcomes: IO[bytes]) -> None:
    """Do jobs until there are none."""
    while head := jobs.read(HEAD):
        job = pickle.loads(jobs.read(int.from_bytes(head, "big")))
        told, arrays = outcome(job)
        del job
        told["arrays"] = [[array.dtype.str, list(array.shape)] for array in arrays]
        text = json.dumps(told).encode()
        outcomes.write(len(text).to_bytes(HEAD, "big") + text)
        for array in arrays:
            outcomes.write(array.data.cast("B") if array.size else b"")
        outcomes.flush()
        del arrays


def main(nice: int = 0) -> None:
    """Serve on stdin and stdout; what libraries print goes elsewhere."""
    outcomes = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which closes stdin
    if hasattr(os, "nice"):
        os.nice(nice)
    importlib.import_module("rgpt.serve.decoding")
    serve(sys.stdin.buffer, outcomes)

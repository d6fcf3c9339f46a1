"""Leaving in time: a machine that is wanted back, or a person with Ctrl-C, asks once and gets a checkpoint.

SIGTERM comes some time before SIGKILL: 30 seconds with Slurm and Kubernetes, unless they are told otherwise.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
"""SIGHUP: a terminal was closed (`nohup` ignores it, and so do we then); SIGUSR1 and SIGUSR2: what
`sbatch --signal` and submitit send ahead of time."""
AGAIN = 3.0
"""Seconds before a second signal means "at once": a launcher passes on the Ctrl-C that all have had."""


class Left(BaseException):
    """The run has left because it was asked to. Not an Exception: nothing on the way may swallow it."""

    def __init__(self, number: int, said: str) -> None:
        super().__init__(said)
        self.status = 128 + number


class Leaving:
    """Whether this process has been asked to leave.

    Attributes:
        asked: the signal's number, or 0.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._since = 0.0
        self._seconds = 0.0
        self._last_words: Callable[[], str] = str
        self._deferred = False
        self._timer: threading.Timer | None = None

    @contextlib.contextmanager
    def heard(self, last_words: Callable[[], str]) -> Iterator[None]:
        """While the block runs, a signal raises `Left`, with `last_words()`, wherever the process is; within
        `deferred` it only says so."""
        self._last_words = last_words
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._hear)
            for number in SIGNALS
            if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.asked = 0

    @contextlib.contextmanager
    def deferred(self, seconds: float, last_words: Callable[[], str]) -> Iterator[None]:
        """While the block runs, a signal sets `asked`, and the process ends after `seconds` come what may,
        with `last_words()`."""
        before = self._last_words
        self._deferred, self._seconds, self._last_words = True, seconds, last_words
        try:
            yield
        finally:
            self._deferred, self._last_words = False, before
            if self._timer is not None:
                self._timer.cancel()

    def _hear(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.asked and now - self._since < AGAIN:
            return
        if self.asked or not self._deferred:
            name = signal.Signals(number).name
            raise Left(number, f"stopped by {name} at once, wherever it was; {self._last_words()}")
        self.asked, self._since = number, now
        self._timer = threading.Timer(self._seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def _give_up(self) -> None:
        if self._deferred:
            words = f"no checkpoint within {self._seconds:g} seconds of being asked to stop"
            print(f"rgpt.train: {words}; {self._last_words()}", file=sys.stderr, flush=True)
            os._exit(128 + self.asked)


leaving = Leaving()
"""Of this process."""


def let_the_parent_decide(worker: int) -> None:
    """In a data worker: signals that reach the whole group are for the process that it works for."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def command_to_continue() -> str:
    """The command line that goes on with the run that this process was started for."""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    processes = os.environ.get("WORLD_SIZE", "1")
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    recognizers = "rgpt.train.recognizers"
    module = recognizers if spec and spec.name.startswith(recognizers) else "rgpt.train.run"
    if "--stage" in words:  # a script's
        at = words.index("--stage")
        script = "scripts/pretrain.sh" if words[at + 1 : at + 2] == ["align"] else "scripts/finetune.sh"
        start = ["bash", script]
        del words[at : at + 2]
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        start = ["torchrun", "--nproc_per_node", processes, "-m", module]
    else:
        start = [Path(sys.executable).name, "-m", module]
    return shlex.join([*start, *words, "--resume"])

"""One streamed answer on stdout that Ctrl-C stops without losing what was said."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rgpt.chat import ChatSession


class Stop:
    """Whether Ctrl-C was pressed since the stream began."""

    def __init__(self) -> None:
        self.requested = False


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """Within this block the first Ctrl-C sets a flag; the second interrupts as usual.

    A flag, because a KeyboardInterrupt raised in the middle of a decode step would unwind the session's own
    frames; read between two deltas, it lets the stream be closed in order, which keeps the partial turn.
    """
    stop = Stop()

    def handle(*_: object) -> None:
        stop.requested = True
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def stream_answer(session: ChatSession, question: str, generation: Mapping[str, Any]) -> bool:
    """Print the answer as it comes, then a line end; return whether it came to its own end.

    Raises:
        InputError: the question does not fit the session; nothing has been printed then.
    """
    stream = session.stream(question, **generation)
    started = False
    try:
        with stop_on_interrupt() as stop:
            for delta in stream:
                print(delta, end="", flush=True)
                started = True
                if stop.requested:
                    break
        return not stop.requested
    finally:
        # Closing stops the computation; a no-op when the answer is complete.
        if isinstance(stream, Generator):
            stream.close()
        if started:
            print(flush=True)

"""One streamed answer on stdout that Ctrl-C stops without losing what was said."""

from __future__ import annotations

import contextlib
import signal
import sys
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
    """Print the answer as it comes, then what stands beside it; return whether it came to its own end.

    That is, of a name, the likeliest ones with their shares, on stdout; and of a model that never saw a
    photograph just that, on stderr.

    Raises:
        InputError: the question does not fit the session; nothing has been printed then.
    """
    from rgpt.chat.remarks import tell_shares

    stream = session.stream(question, **generation)
    started = False
    try:
        with stop_on_interrupt() as stop:
            for delta in stream:
                print(delta, end="", flush=True)
                started = True
                if stop.requested:
                    break
        finished = not stop.requested
    finally:
        # Closing stops the computation; a no-op when the answer is complete.
        if isinstance(stream, Generator):
            stream.close()
        if started:
            print(flush=True)
    if finished:
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C now takes the line away, not the answer
            if told := tell_shares(session.turns[-1].answer, shares_of_last(session)):
                print(told, flush=True)
    tell_only_drawn(session)
    return finished


def shares_of_last(session: ChatSession) -> dict[str, float]:
    """`name_shares` of the last question, in the conversation in which it was asked."""
    turn = session.undo()
    try:
        return session.name_shares([turn.question])[0]
    finally:
        session.turns.append(turn)


def tell_only_drawn(session: ChatSession) -> None:
    """Say on stderr what an answer about a photograph is worth, when the model has never seen one."""
    from rgpt.chat.remarks import ONLY_DRAWN

    if session.image is not None and session.about.only_drawn:
        print(ONLY_DRAWN, file=sys.stderr)

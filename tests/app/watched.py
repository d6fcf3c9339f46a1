"""The app's own engine over a tiny model, and what its sessions were asked: nothing here can refuse."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from app.engine import ModelEngine
from rgpt.chat import ChatSession
from tests.model.parrot import make_parrot, teach

SAYS = "blue dog."


class Watch:
    """What `ChatSession` was asked while it was watched: every stream, and every batch of a table."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        self.streams: list[SimpleNamespace] = []
        self.batches: list[tuple[str, list[int]]] = []
        self.closed = 0


class WatchedEngine(ModelEngine, Watch):
    """A parrot, see `tests.model.parrot`: it says `SAYS`, or on and on; `delay` seconds a token."""

    def __init__(self) -> None:
        super().__init__(*make_parrot(SAYS), "parrot")
        self.model.register_forward_pre_hook(lambda *_: time.sleep(self.delay))
        self.notes = "Knows one answer only & nothing about <b>pictures</b>."
        self.start_anew()

    def start_anew(self) -> None:
        super().start_anew()
        self.opened = 0
        self.talk_on(False)

    def talk_on(self, endless: bool = True, delay: float = 0.0) -> None:
        """From now on every answer goes on until it is as long as it may be, or ends."""
        teach(self.model, self.processor, SAYS, endless=endless)
        self.delay = delay

    def open(self, image: Any) -> Any:
        self.opened += 1
        return super().open(image)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Note what `ChatSession` is asked, as long as the block lasts."""
    stream, ask_many = ChatSession.stream, ChatSession.ask_many

    def note_stream(session: ChatSession, question: str, **options: Any) -> Iterator[str]:
        asked = SimpleNamespace(
            question=question,
            image=session.image,
            regions=dict(session.regions),
            history=list(session.turns),
            said=0,
        )
        watch.streams.append(asked)
        pieces = stream(session, question, **options)
        try:
            for piece in pieces:
                asked.said += 1
                yield piece
        finally:
            pieces.close()
            watch.closed += 1

    def note_batch(session: ChatSession, question: str, regions: Any, **options: Any) -> dict[int, str]:
        watch.batches.append((question, list(regions)))
        return ask_many(session, question, regions, **options)

    with (
        mock.patch.object(ChatSession, "stream", note_stream),
        mock.patch.object(ChatSession, "ask_many", note_batch),
    ):
        yield


@contextmanager
def watched() -> Iterator[WatchedEngine]:
    """A watched parrot."""
    engine = WatchedEngine()
    with watching(engine):
        yield engine

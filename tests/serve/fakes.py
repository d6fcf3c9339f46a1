"""A session that answers without a model, and small pictures to ask about."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image

from rgpt.regions import Region


class Usage(NamedTuple):
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int
    ended: str


class Turn(NamedTuple):
    question: str
    answer: str
    regions: dict[int, Region]
    usage: Usage


class FakeSession:
    """Says `words` and what it was asked; counts what was encoded, begun and closed."""

    def __init__(self, log: FakeLog) -> None:
        self.log, self.turns, self.regions, self.image = log, [], {}, None
        self.turns: list[Turn]
        self.regions: dict[int, Region]

    def set_image(self, image: Any) -> None:
        self.image = image
        self.log.encoded += 1

    def another(self) -> FakeSession:
        session = FakeSession(self.log)
        session.image = self.image
        return session

    def stream(self, question: str, *, max_new_tokens: int, **options: Any) -> Iterator[str]:
        self.log.asked.append((question, [t.question for t in self.turns], dict(self.regions), options))
        words = self.log.words(self, question)
        said: list[str] = []
        ended = "stop"
        try:
            for word in words:
                if len(said) == max_new_tokens:
                    ended = "length"
                    break
                said.append(word)
                yield word
                if self.log.pause:
                    time.sleep(self.log.pause)
        except GeneratorExit:
            ended = "closed"
            self.log.closed.set()
        self.turns.append(Turn(question, "".join(said).strip(), self.regions, Usage(10, 0, len(said), ended)))


class FakeLog:
    """What the fake sessions of one server did; `words(session, question)` is what they say."""

    def __init__(self, words: Any = None, pause: float = 0.0) -> None:
        self.words = words or (lambda session, question: ["You ", "asked: ", question])
        self.pause = pause
        self.encoded = 0
        self.asked: list[Any] = []
        self.closed = threading.Event()

    def session(self) -> FakeSession:
        return FakeSession(self)


def endless(session: FakeSession, question: str) -> Iterator[str]:
    while True:
        yield "word "


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def data_url(data: bytes | Image.Image, kind: str = "image/png") -> str:
    data = encoded(data) if isinstance(data, Image.Image) else data
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


PICTURE = Image.new("RGB", (40, 30), "red")


def messages(text: str = "What is <region1>?", picture: str | None = None) -> list[dict[str, Any]]:
    """One user message with a 40 x 30 picture."""
    part = {"type": "image_url", "image_url": {"url": data_url(PICTURE) if picture is None else picture}}
    return [{"role": "user", "content": [part, {"type": "text", "text": text}]}]


BOX = {"id": "region1", "box": [1, 2, 20, 20]}


def body(text: str = "What is <region1>?", picture: str | None = None, **fields: Any) -> dict[str, Any]:
    """A whole request; `regions=None` leaves the regions out."""
    request = {"model": "rgpt", "messages": messages(text, picture), "regions": [BOX], **fields}
    return {name: value for name, value in request.items() if value is not None}

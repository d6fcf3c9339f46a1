"""Sessions that say what a test wants to hear, and small pictures to ask about."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Generator, Iterator
from functools import cache
from typing import Any

from PIL import Image

from rgpt.chat import ChatSession, Turn, Usage
from tests.model.tiny_models import make_model, make_processor


class ScriptedSession(ChatSession):
    """A real session over a tiny model, up to the words: what can refuse a question or a picture is asked.

    `log.words` stands for what the weights would say; the log counts what was encoded, begun and closed.
    """

    log: FakeLog

    def set_image(self, image: Any) -> None:
        super().set_image(image)
        self.log.encoded += 1

    def stream(self, question: str, *, max_new_tokens: int = 128, **options: Any) -> Generator[str]:
        prompt = self._encode([question])[0]
        self._check_limits(max_new_tokens, None)
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
        usage = Usage(len(prompt.ids), 0, len(said), ended)
        self.turns.append(Turn(question, "".join(said).strip(), dict(self.regions), usage))


@cache
def parts() -> tuple[Any, Any]:
    """A tiny random model, and its processor without a limit on the context: one character is a token."""
    model = make_model()
    return model, make_processor(model.config, max_length=None)


class FakeLog:
    """What the sessions of one server did; `words(session, question)` is what they say."""

    def __init__(self, words: Any = None, pause: float = 0.0) -> None:
        self.words = words or (lambda session, question: ["You ", "asked: ", question])
        self.pause = pause
        self.encoded = 0
        self.asked: list[Any] = []
        self.closed = threading.Event()

    def session(self) -> ScriptedSession:
        session = type("Session", (ScriptedSession,), {"log": self})(*parts())
        assert isinstance(session, ScriptedSession)
        return session


def endless(session: ScriptedSession, question: str) -> Iterator[str]:
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

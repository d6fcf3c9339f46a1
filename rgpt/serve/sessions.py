"""What is kept between requests: encoded pictures, and conversations with their keys and values.

The API is stateless: every request brings the whole conversation and its picture again. Nothing is encoded
twice all the same, because pictures are known by the hash of their bytes and conversations by their turns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rgpt.chat.pieces import Piece, Usage
from rgpt.regions import Mask, Region
from rgpt.serve.store import Store


class Session(Protocol):
    """What the server needs of `rgpt.chat.ChatSession`; turns have question, answer, regions and usage.

    Here what is asked meets who answers. Within `ChatSession` the same line is drawn once more, between words
    and tokens: another engine for the language model replaces `rgpt.chat.branches.decode` and
    `log_likelihoods`, which get prompts (`Conversation`) with their features and give tokens.
    """

    turns: list[Any]
    regions: dict[int, Region]
    laid: Mapping[Region, Any]

    @property
    def processor(self) -> Any: ...

    @property
    def image(self) -> Any: ...

    def set_image(self, image: Any) -> None: ...

    def another(self) -> Session: ...

    def check(self, question: str) -> None: ...

    def stream(
        self, question: str, *, max_new_tokens: int, temperature: float, top_p: float, seed: int | None
    ) -> Generator[str, None, None]: ...

    def stream_each(self, *args: Any, **options: Any) -> Generator[list[Piece], None, None]: ...

    def stream_likelihoods(
        self, *args: Any, **options: Any
    ) -> Generator[list[tuple[dict[str, float], Usage]], None, None]: ...

    def lengths(self, answers: Sequence[str]) -> dict[str, int]: ...

    def grammar(self, schema: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Earlier:
    """A turn as the client sent it; what a session reads of a `rgpt.chat.Turn`."""

    question: str
    answer: str
    regions: Mapping[int, Region]


@dataclass(frozen=True)
class Picture:
    """An encoded picture: a session about it that is never asked; its alpha where that is a region."""

    key: str
    session: Session
    alpha: Mask | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright."""
        return int(self.session.image.height), int(self.session.image.width)


class Sessions:
    """Pictures and resting conversations, the least recently used ones dropped. Safe for several threads.

    Args:
        new: makes an empty session.
        max_pictures, max_picture_bytes: encoded pictures kept; `features_bytes` each, and of those with
            alpha a byte a pixel.
        max_resting: conversations kept that nobody is asking.
    """

    def __init__(
        self,
        new: Callable[[], Session],
        max_pictures: int,
        max_picture_bytes: int,
        max_resting: int,
        features_bytes: int = 0,
    ) -> None:
        self.new = new
        self.max_resting = max_resting
        self.features_bytes = features_bytes
        self._pictures: Store[Picture] = Store(max_pictures, max_picture_bytes)
        self._lock = threading.Lock()
        self._resting: list[tuple[str, Session]] = []  # oldest first

    def picture(self, key: str) -> Picture | None:
        """The picture of this key, if it is still known."""
        return self._pictures.get(key)

    def add_picture(self, picture: Picture) -> None:
        """Remember an encoded picture, for the caller whose name its key begins with."""
        height, width = picture.size
        size = (0 if picture.alpha is None else height * width) + self.features_bytes
        self._pictures.put(picture.key, picture, size, picture.key.rsplit(":", 2)[0])

    def take(self, key: str, picture: Picture | None, turns: Sequence[tuple[str, str]]) -> Session:
        """A session of this key for one request alone: the resting one that knows most of the turns, or one
        that shares nothing but the picture.

        Args:
            key: of the picture, or of conversations without one; the caller is part of it.
        """
        with self._lock:
            known = [(index, s) for index, (k, s) in enumerate(self._resting) if k == key]
            if known:
                # Of two that know as much, the one that has to forget less, then the one used last.
                index, session = max(
                    known, key=lambda item: (_common(item[1].turns, turns), -len(item[1].turns), item[0])
                )
                del self._resting[index]
                return session
        return self.new() if picture is None else picture.session.another()

    def give(self, key: str, session: Session) -> None:
        """Put a session to rest, with the turns it now knows."""
        with self._lock:
            self._resting.append((key, session))
            del self._resting[: max(0, len(self._resting) - self.max_resting)]


def _common(turns: Sequence[Any], asked: Sequence[tuple[str, str]]) -> int:
    """How many leading turns are the same."""
    count = 0
    for turn, (question, answer) in zip(turns, asked, strict=False):
        if (turn.question, turn.answer) != (question, answer):
            break
        count += 1
    return count

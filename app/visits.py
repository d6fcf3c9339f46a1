"""Conversations that a reloaded page can ask for again, by the token of their picture.

A reload is a new session for Gradio, which keeps nothing of the old one. The page remembers the token for as
long as its tab lives; whoever does not know the token gets nothing.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from app.session import Conversation


class Visits:
    """The latest state of recent conversations, in memory only; safe for many threads.

    Args:
        most: conversations kept.
        most_pixels: of all their pictures together (3 bytes each).
        seconds: kept since the last change.
    """

    def __init__(self, most: int = 256, most_pixels: int = 200_000_000, seconds: float = 3600.0) -> None:
        self.most, self.most_pixels, self.seconds = most, most_pixels, seconds
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Conversation]] = OrderedDict()

    def keep(self, conversation: Conversation) -> Conversation:
        """Remember this state instead of an earlier one of the same picture; returns it."""
        if conversation.picture is not None:
            with self._lock:
                self._kept[conversation.picture.token] = (time.monotonic(), conversation)
                self._kept.move_to_end(conversation.picture.token)
                self._make_room()
        return conversation

    def find(self, token: object) -> Conversation | None:
        """The conversation about the picture of this token, if it is still kept."""
        with self._lock:
            self._make_room()
            found = self._kept.get(token) if isinstance(token, str) else None
            return found[1] if found else None

    def drop(self, token: str) -> None:
        """Forget it: the visitor has another picture, or has left."""
        with self._lock:
            self._kept.pop(token, None)

    def _make_room(self) -> None:
        pixels = sum(c.picture.width * c.picture.height for _, c in self._kept.values() if c.picture)
        while self._kept:
            since, oldest = next(iter(self._kept.values()))
            small = len(self._kept) <= self.most and (pixels <= self.most_pixels or len(self._kept) == 1)
            if small and time.monotonic() - since <= self.seconds:
                return
            self._kept.popitem(last=False)
            if oldest.picture:
                pixels -= oldest.picture.width * oldest.picture.height

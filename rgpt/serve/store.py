"""What is kept in memory between requests, of a bounded size, shared fairly between those who fill it."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")


class _Kept(NamedTuple):
    value: object
    size: int
    owner: str
    since: float


class Store(Generic[Value]):
    """Values by key; safe for many threads.

    Where there is no room, whoever holds the most gives up what he used least recently: one visitor may fill
    what others leave empty, and cannot push out theirs.

    Args:
        most: values kept; most_bytes: of them together.
        seconds: kept since the last use.
    """

    def __init__(self, most: int, most_bytes: int, seconds: float = float("inf")) -> None:
        self.most, self.most_bytes, self.seconds = most, most_bytes, seconds
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the least recently used first

    def put(self, key: str, value: Value, size: int, owner: str = "") -> None:
        """Keep a value of `size` bytes for its owner; one that is larger than all that may be kept is not."""
        with self._lock:
            self._kept[key] = _Kept(value, size, owner, time.monotonic())
            self._kept.move_to_end(key)
            self._make_room()

    def get(self, key: str) -> Value | None:
        """The value, if it is still kept; it now is the one used last."""
        with self._lock:
            self._make_room()
            if (kept := self._kept.get(key)) is None:
                return None
            self._kept[key] = kept._replace(since=time.monotonic())
            self._kept.move_to_end(key)
            return kept.value  # type: ignore[return-value]

    def drop(self, key: str) -> None:
        with self._lock:
            self._kept.pop(key, None)

    @property
    def bytes(self) -> int:
        """Of all values together."""
        with self._lock:
            return sum(kept.size for kept in self._kept.values())

    def _make_room(self) -> None:
        until = time.monotonic() - self.seconds
        while self._kept and next(iter(self._kept.values())).since < until:
            self._kept.popitem(last=False)
        total = sum(kept.size for kept in self._kept.values())
        while len(self._kept) > self.most or total > self.most_bytes:
            held: Counter[str] = Counter()
            for kept in self._kept.values():
                held[kept.owner] += kept.size if total > self.most_bytes else 1
            most = max(held.values())
            key = next(key for key, kept in self._kept.items() if held[kept.owner] == most)
            total -= self._kept.pop(key).size

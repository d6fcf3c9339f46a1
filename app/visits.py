"""The conversations of all visitors, by the token of their picture: one bounded store, in memory only.

What Gradio keeps of a visitor is a `Ticket`, since anybody can invent as many sessions as he likes. A reload
is a new session for Gradio; the page remembers the token for as long as its tab lives, and whoever does not
know it gets nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from app.session import Conversation
from rgpt.serve.store import Store


class Ticket(str):
    """The token of a visitor's picture; empty before there is one."""


class Visits:
    """The latest state of recent conversations; safe for many threads.

    Args:
        most: conversations kept; most_bytes: of their pictures and masks together.
        seconds: kept since the last use.
    """

    def __init__(self, most: int = 256, most_bytes: int = 512 * 2**20, seconds: float = 6 * 3600.0) -> None:
        self._store: Store[Conversation] = Store(most, most_bytes, seconds)

    def keep(self, conversation: Conversation) -> Conversation:
        """Remember this state instead of an earlier one of the same picture; returns it."""
        picture = conversation.picture
        if picture is not None:
            self._store.put(picture.token, conversation, picture.bytes, _visitor())
        return conversation

    def find(self, token: object) -> Conversation | None:
        """The conversation about the picture of this token, if it is still kept."""
        return self._store.get(token) if isinstance(token, str) else None

    def drop(self, token: str) -> None:
        """Forget it: the visitor has another picture, or has left."""
        self._store.drop(token)


class ByTicket:
    """Handlers for Gradio: given tickets they get conversations, for conversations they return tickets."""

    def __init__(self, handlers: Any, visits: Visits) -> None:
        self._handlers, self._visits = handlers, visits

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._handlers, name)
        return _by_ticket(found, self._visits) if callable(found) else found


def _by_ticket(handler: Callable[..., Any], visits: Visits) -> Callable[..., Any]:
    def taken(value: Any) -> Any:
        return (visits.find(value) or Conversation()) if isinstance(value, Ticket) else value

    def given(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(given, value))
        if not isinstance(value, Conversation):
            return value
        visits.keep(value)
        return Ticket(value.picture.token if value.picture else "")

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*values: Any) -> Iterator[Any]:
            steps = handler(*map(taken, values))
            try:
                for step in steps:
                    yield given(step)
            finally:
                steps.close()

        return stream

    @functools.wraps(handler)
    def once(*values: Any) -> Any:
        return given(handler(*map(taken, values)))

    return once


def _visitor() -> str:
    """The address of whoever asks; empty outside of an event."""
    from gradio.context import LocalContext

    request = LocalContext.request.get(None)
    client = getattr(request, "client", None)
    return str(client.host) if client else ""

"""The text of an answer as it is sent: cut at stop strings, without white space around it."""

from __future__ import annotations

from collections.abc import Sequence


class AnswerText:
    """Takes pieces as they are computed and returns what can be sent already.

    Text that may turn out to be the beginning of a stop string is held back, and so is white space, which is
    sent only when something follows: the pieces together are then exactly the whole answer.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stops = list(stops)
        self.stopped = False
        self._held = ""
        self._begun = False

    def feed(self, piece: str) -> str:
        """What can be sent now; `stopped` tells whether a stop string was met, at which the answer ends."""
        if self.stopped:
            return ""
        self._held += piece
        found = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return self.finish()
        return self._send(len(self._held) - self._unsure())

    def finish(self) -> str:
        """What is left at the end of the answer."""
        self._held = self._held.rstrip()
        return self._send(len(self._held))

    def _unsure(self) -> int:
        """How many characters at the end may belong to a stop string that is not complete."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self.stops):
                return length
        return 0

    def _send(self, length: int) -> str:
        sure = self._held[:length].rstrip()
        text = sure if self._begun else sure.lstrip()
        if text:
            self._begun = True
            self._held = self._held[len(sure) :]
        return text

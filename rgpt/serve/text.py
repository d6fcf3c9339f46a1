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
        found, unsure = self._found(), self._unsure()
        # A longer stop string that begins earlier may still become complete: then that one counts.
        if found is not None and found <= unsure:
            return self.finish()
        return self._send(min(unsure, len(self._held) if found is None else found))

    def finish(self) -> str:
        """What is left at the end of the answer."""
        found = self._found()
        if found is not None:
            self.stopped = True
            self._held = self._held[:found]
        self._held = self._held.rstrip()
        return self._send(len(self._held))

    def _found(self) -> int | None:
        """Where the first complete stop string begins."""
        places = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        return min(places, default=None)

    def _unsure(self) -> int:
        """Where the text begins that may become a stop string; its end when there is none."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(len(stop) > length and stop.startswith(self._held[-length:]) for stop in self.stops):
                return len(self._held) - length
        return len(self._held)

    def _send(self, length: int) -> str:
        sure = self._held[:length].rstrip()
        text = sure if self._begun else sure.lstrip()
        if text:
            self._begun = True
            self._held = self._held[len(sure) :]
        return text

"""Objects, and what was answered about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rgpt.regions import RLE, Box, Mask, Point, Polygon, Scribble

KEPT = 5
"""Ranked names that are kept, the likeliest."""


@dataclass(frozen=True)
class Target:
    """An object that is asked about.

    Args:
        key: where it stands in its file; unique there.
        region: its outline where it has one, else its box, in pixels of the upright picture.
        box: around it, cut to the picture.
        label: what the file calls it.
    """

    key: str
    region: Box | Polygon | RLE | Mask | Scribble | Point
    box: Box
    label: str = ""


@dataclass(frozen=True)
class TargetPicture:
    """A picture with its objects. `name` is how its file spells it."""

    name: str
    path: Path
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Answer:
    """The answer to one question about one object.

    Args:
        value: as outputs have it: a text, or a value of a ranked question; None where there is none.
        confidence: how sure the model is, or None where nobody says. Of a ranked answer the share of the
            likeliest, calibrated where the model is; of a written one the geometric mean of its tokens'
            probabilities, which orders answers and says no more.
        shares: (choice, share) of a ranked answer, the likeliest first, at most `KEPT`.
        problem: why there is no answer, or what is wrong with it.
    """

    value: Any = None
    confidence: float | None = None
    shares: tuple[tuple[str, float], ...] = ()
    problem: str = ""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Answer:
        shares = tuple((name, share) for name, share in value.get("shares", ()))
        return cls(value.get("value"), value.get("confidence"), shares, value.get("problem", ""))

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"value": self.value}
        if self.confidence is not None:
            found["confidence"] = round(self.confidence, 6)
        if self.shares:
            found["shares"] = [[name, round(share, 6)] for name, share in self.shares]
        return found | ({"problem": self.problem} if self.problem else {})

    def text(self) -> str:
        """The value as people write it."""
        if self.value is None:
            return ""
        return str(self.value).lower() if isinstance(self.value, bool) else str(self.value)


@dataclass
class Annotated:
    """An object with its answers, by the questions' keys.

    Args:
        others: a second model's answers, where one was asked.
    """

    picture: str
    target: Target
    answers: dict[str, Answer]
    others: dict[str, Answer] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        return [f"{key}: {answer.problem}" for key, answer in self.answers.items() if answer.problem]

    @property
    def differing(self) -> list[str]:
        """The questions that the second model answers otherwise."""
        return [
            key
            for key, answer in self.answers.items()
            if key in self.others and _folded(answer.text()) != _folded(self.others[key].text())
        ]

    @property
    def sureness(self) -> float | None:
        """The least confidence of its answers; None where nobody says how sure they are."""
        known = [a.confidence for a in self.answers.values() if a.confidence is not None]
        return min(known, default=None)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")

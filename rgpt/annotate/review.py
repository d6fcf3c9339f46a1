"""Which answers a person should look at first, and what that order is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rgpt.annotate.questions import NAME
from rgpt.annotate.records import Annotated
from rgpt.prompts import normalise_answer


def review_queue(objects: Sequence[Annotated]) -> list[Annotated]:
    """Least certain first: those with problems, those of which two models differ, then by sureness; objects
    whose model does not say how sure it is stand before those it is sure of."""

    def order(item: Annotated) -> tuple[bool, int, float]:
        return not item.problems, -len(item.differing), -1.0 if item.sureness is None else item.sureness

    return sorted(objects, key=order)


class Worth(NamedTuple):
    """What a queue is worth where the file's own labels are true.

    Args:
        objects: whose label is among the names asked for.
        errors: share of those whose likeliest name is another.
        first_fifth: share of errors in the queue's first fifth, as a multiple of `errors`.
        surest_half: the same of its second half.
    """

    objects: int
    errors: float
    first_fifth: float
    surest_half: float

    def __str__(self) -> str:
        return (
            f"{self.errors:.3f} of {self.objects} likeliest names are not the file's label; the review "
            f"queue's first fifth holds {self.first_fifth:.2f} times its share of them, its surest half "
            f"{self.surest_half:.2f} times"
        )


def labelled(objects: Sequence[Annotated], names: Sequence[str]) -> list[tuple[float, bool]]:
    """(share, whether the likeliest name is the file's label) of objects whose label is one of the names."""
    known = set(map(normalise_answer, names))
    found = []
    for item in objects:
        answer = item.answers.get(NAME)
        label = normalise_answer(item.target.label)
        if answer and answer.confidence is not None and label in known:
            found.append((answer.confidence, normalise_answer(answer.text()) == label))
    return found


def worth(queue: Sequence[Annotated], names: Sequence[str]) -> Worth | None:
    """Of a queue in its order; None where no label is among the names, or nothing is wrong."""
    wrong = [not right for _, right in labelled(queue, names)]
    if len(wrong) < 5 or not any(wrong):
        return None
    rate = sum(wrong) / len(wrong)
    first, half = wrong[: len(wrong) // 5], wrong[len(wrong) // 2 :]
    return Worth(len(wrong), rate, sum(first) / len(first) / rate, sum(half) / len(half) / rate)

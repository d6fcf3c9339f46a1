"""Scores from a judge's verdicts: DLC-Bench's chosen options, Ferret-Bench's marks from 1 to 10."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DlcVerdict:
    """One described region: was the object recognised, and the chosen options' scores (1, 0.5, 0, -1)."""

    recognised: bool
    positives: tuple[float, ...]
    negatives: tuple[float, ...]

    def scores(self) -> tuple[float | None, float | None]:
        """Mean of each kind; without recognition none is worth more than 0. None where none was asked."""

        def mean(values: tuple[float, ...]) -> float | None:
            worth = values if self.recognised else tuple(min(0, v) for v in values)
            return sum(worth) / len(worth) if worth else None

        return mean(self.positives), mean(self.negatives)


def dlc_scores(verdicts: Sequence[DlcVerdict]) -> dict[str, Any]:
    """`pos`, `neg`: means over the regions that were asked such questions; `avg`: the mean of the two."""
    pairs = [verdict.scores() for verdict in verdicts]
    positives = [p for p, _ in pairs if p is not None]
    negatives = [n for _, n in pairs if n is not None]
    pos = sum(positives) / len(positives) if positives else None
    neg = sum(negatives) / len(negatives) if negatives else None
    return {
        "pos": pos,
        "neg": neg,
        "avg": (pos + neg) / 2 if pos is not None and neg is not None else None,
        "recognised": sum(v.recognised for v in verdicts) / len(verdicts) if verdicts else None,
        "n_pos": len(positives),
        "n_neg": len(negatives),
    }


def ferret_score(marks: Sequence[tuple[float, float]]) -> float | None:
    """100 × mean mark of the model / mean mark of the reference, both means rounded to 3 decimals first.

    `marks` are (reference, model) pairs, in the judge's order: assistant 1 is the reference answer.
    """
    if not marks:
        return None
    reference, model = (round(sum(column) / len(marks), 3) for column in zip(*marks, strict=True))
    return 100 * model / reference if reference else None


def ferret_scores(marks: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """`score` by category, and the plain mean of the categories as `relative_score`."""
    per_category = {name: {"n": len(m), "score": ferret_score(m)} for name, m in sorted(marks.items())}
    known = [v["score"] for v in per_category.values() if v["score"] is not None]
    return {"relative_score": sum(known) / len(known) if known else None, "per_category": per_category}


def multiple_choice(answers: Sequence[str], truths: Sequence[str], kinds: Sequence[str]) -> dict[str, Any]:
    """Right letters, case and outer blanks ignored, over all and by kind (GAR-Bench's VQA)."""
    right: dict[str, list[bool]] = defaultdict(list)
    for answer, truth, kind in zip(answers, truths, kinds, strict=True):
        right[kind].append(answer.strip().lower() == truth.strip().lower())
    correct, total = sum(sum(v) for v in right.values()), len(answers)
    return {
        "accuracy": correct / total if total else None,
        "correct": correct,
        "per_type": {k: {"n": len(v), "accuracy": sum(v) / len(v)} for k, v in right.items()},
    }

"""Ferret-Bench: free answers about regions, marked beside a reference answer. One protocol, `judged`.

Scoring is offline, from review rows; `python -m eval.judge ferret_bench` makes them. `relative_score` is in
percent of the reference's marks. Rows without marks are left out of the means and counted in `failed`.
"""

from __future__ import annotations

from typing import Any

from eval.layouts.files import PathOrValue
from eval.layouts.judged import read_ferret_questions, read_reviews
from eval.layouts.rows import check_complete, check_known
from eval.metrics.judged import ferret_scores
from eval.scorers.options import DEFAULTS, Options

PROTOCOLS = ("judged",)


def score(
    gt: PathOrValue | None, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """`relative_score` (percent), `per_category`. `gt`: one category's folder, or None. Raises InputError."""
    marks, ids, failed = read_reviews(predictions)
    if gt is not None:
        questions = read_ferret_questions(gt)
        check_known(ids, questions, predictions, "question")
        check_complete(ids, list(questions), predictions, options.subset)
    return {
        **ferret_scores({k: sorted(v) for k, v in marks.items()}),
        "n": len(ids),
        "failed": failed,
        "protocol": protocol or PROTOCOLS[0],
    }

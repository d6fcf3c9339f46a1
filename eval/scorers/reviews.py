"""Free answers about regions, marked beside a reference answer by a judge: Ferret-Bench, Osprey, MDVP-Bench.

Scoring is offline, from review rows; `python -m eval.judge` makes them. `relative_score` is in percent of the
reference's marks, the mean of the categories'. Rows without marks are left out of the means and counted in
`failed`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eval.layouts.fields import Ids
from eval.layouts.files import PathOrValue
from eval.layouts.judged import Reviewed, read_reviews
from eval.layouts.rows import check_complete
from eval.metrics.judged import ferret_scores
from eval.scorers.options import Options

PROTOCOLS = ("judged",)
USES = frozenset({"subset"})


def score_reviews(
    read_questions: Callable[[PathOrValue], Reviewed],
    gt: PathOrValue | None,
    predictions: PathOrValue,
    options: Options,
) -> dict[str, Any]:
    """`relative_score` (percent), `per_category`. `gt`: the benchmark's files, or None. Raises InputError."""
    marks, ids, failed = read_reviews(predictions)
    if gt is not None:
        questions = read_questions(gt)
        Ids(questions, "question").find(ids, predictions, "question_id")
        check_complete(ids, list(questions), predictions, options.subset)
    else:
        options.refuse("subset", "without --gt every row counts")
    return {
        **ferret_scores({k: sorted(v) for k, v in marks.items()}),
        "n": len(ids),
        "failed": failed,
        "protocol": PROTOCOLS[0],
    }

"""MDVP-Bench: `gt` is one domain's file, `natural_brief_caption_box.json`. One protocol, `judged`."""

from __future__ import annotations

from typing import Any

from eval.layouts.files import PathOrValue
from eval.layouts.judged import read_mdvp_questions
from eval.scorers.options import DEFAULTS, Options
from eval.scorers.reviews import PROTOCOLS as PROTOCOLS
from eval.scorers.reviews import USES as USES
from eval.scorers.reviews import score_reviews


def score(
    gt: PathOrValue | None, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """`relative_score` (percent), `per_category`. Raises InputError."""
    return score_reviews(read_mdvp_questions, gt, predictions, options)

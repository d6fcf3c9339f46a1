"""Referring expression comprehension: "Region [x]." among candidates, or a box. Protocols:

- `continuous` [D]: a hit is IoU >= 0.5 of continuous boxes, what everybody reports.
- `plus-one`: boxes of whole pixels whose last one counts, as in the notebook of the refer toolbox.

Items that nothing in the picture fits are right when the answer says so; `no_match` counts them alone.
"""

from __future__ import annotations

from typing import Any

from eval.layouts.files import PathOrValue
from eval.layouts.referring import read_answers, read_expressions
from eval.layouts.rows import check_complete, check_known
from eval.metrics.referring import referring_scores
from eval.scorers.options import DEFAULTS, Options
from rgpt.errors import InputError

PROTOCOLS = ("continuous", "plus-one")


def score(
    gt: PathOrValue, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """`accuracy`, `precision_at_1`, `mean_iou`, `no_match`, `unparsed`. Raises InputError."""
    if not 0 < options.iou <= 1:
        raise InputError.about("iou", "more than 0, at most 1", str(options.iou), "use 0.5")
    expressions = read_expressions(gt, options.split, options.instances)
    answers = read_answers(predictions, expressions)
    if options.ids is not None:
        check_known(sorted(options.ids), expressions, "the given ids")
        expressions = {i: e for i, e in expressions.items() if i in options.ids}
    check_complete(answers, expressions, predictions, options.subset)
    asked = [i for i in expressions if i in answers]
    pixel = 1.0 if protocol == "plus-one" else 0.0
    truths = [expressions[i].box for i in asked]
    scores = referring_scores(truths, [answers[i] for i in asked], options.iou, pixel)
    return scores | {
        "iou": options.iou,
        "n": len(asked),
        "failed": sum(answers[i].failed is not None for i in asked),
        "protocol": protocol or PROTOCOLS[0],
    }

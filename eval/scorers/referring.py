"""Referring expression comprehension: "Region [x]." among candidates, or a box. Protocols:

- `continuous` [D]: a hit is IoU >= 0.5 of continuous boxes, what everybody reports.
- `plus-one`: boxes of whole pixels whose last one counts, as in the notebook of the refer toolbox.

Items that nothing in the picture fits are right when the answer says so; `no_match` counts them alone.
"""

from __future__ import annotations

from typing import Any

from eval.layouts.files import PathOrValue
from eval.layouts.referring import are_shikra, read_answers, read_expressions, read_shikra
from eval.layouts.rows import check_complete, read_predictions
from eval.metrics.referring import referring_scores
from eval.scorers.options import DEFAULTS, Options
from rgpt.errors import InputError

PROTOCOLS = ("continuous", "plus-one")
USES = frozenset({"ids", "subset", "split", "instances", "iou"})


def score(
    gt: PathOrValue | None, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """`accuracy`, `precision_at_1`, `mean_iou`, `no_match`, `unparsed`. Raises InputError."""
    iou = 0.5 if options.iou is None else options.iou
    if not 0 < iou <= 1:
        raise InputError.about("iou", "more than 0, at most 1", str(iou), "use 0.5")
    value = read_predictions(predictions)
    shikra = are_shikra(value)
    if gt is None:
        if not shikra:
            raise InputError.about("ground truth of referring", "a file", "none", "give --gt")
        options.refuse("instances", "the file has boxes")
        options.refuse("split", "the file has one")
    expressions = None if gt is None else read_expressions(gt, options.split, options.instances)
    if shikra:
        if protocol == "plus-one":
            raise InputError.about("protocol", "continuous", "plus-one", "Shikra's boxes are fractions")
        expressions, answers = read_shikra(value, expressions, predictions)
    else:
        assert expressions is not None
        answers = read_answers(value, expressions, predictions)
    wanted = options.chosen(expressions)
    check_complete(answers, wanted, predictions, options.subset)
    asked = [i for i in wanted if i in answers]
    pixel = 1.0 if protocol == "plus-one" else 0.0
    truths = [expressions[i].box for i in asked]
    scores = referring_scores(truths, [answers[i] for i in asked], iou, pixel)
    return scores | {
        "iou": iou,
        "n": len(asked),
        "failed": sum(answers[i].failed is not None for i in asked),
        "protocol": protocol or PROTOCOLS[0],
    }

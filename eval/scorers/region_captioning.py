"""Region (or picture) captions against references: METEOR, CIDEr, BLEU, ROUGE-L.

One protocol, `pycocoevalcap`: its metrics after its PTB tokeniser, one id a region. A failed item is scored
as an empty caption, so it costs what a caption without a right word costs. The ids are part of the result:
CIDEr's idf comes from the references at hand, and the choice of a subset moves it.
"""

from __future__ import annotations

from typing import Any

from eval.layouts.captions import read_hypotheses, read_references
from eval.layouts.files import PathOrValue
from eval.layouts.rows import check_complete
from eval.metrics.captions import caption_scores, require_java
from eval.scorers.options import DEFAULTS, Options
from rgpt.errors import InputError

PROTOCOLS = ("pycocoevalcap",)
USES = frozenset({"ids", "subset", "split", "tokenised"})


def score(
    gt: PathOrValue, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """`Bleu_1`…`Bleu_4`, `METEOR`, `ROUGE_L`, `CIDEr`, `ids`, `items` (scores by id). Raises InputError."""
    require_java()
    references = read_references(gt, options.split)
    hypotheses, failed = read_hypotheses(predictions, references)
    wanted = options.chosen(references)
    check_complete(hypotheses, wanted, predictions, options.subset)
    references = {i: references[i] for i in wanted if i in hypotheses}
    hypotheses = {i: hypotheses[i] for i in references}
    if not references:
        raise InputError.about("items", "at least one", "none", "check ids and split")
    scores, items = caption_scores(references, hypotheses, options.tokenised)
    return {
        **scores,
        "tokeniser": "none, given as tokens" if options.tokenised else "PTB (pycocoevalcap)",
        "n": len(references),
        "failed": sum(i in failed for i in references),
        "protocol": protocol or PROTOCOLS[0],
        "ids": list(references),
        "items": items,
    }

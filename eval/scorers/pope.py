"""POPE: is there a … in the image? Protocols:

- `author-script`: POPE's own reading of an answer, in which everything without a "no" or "not" is a yes.
- `strict` [D]: the first word must be yes or no; other answers are wrong, and counted in `unparsed`.
- `scored` [D]: the likelier of "yes" and "no" in each row's `scores`.
"""

from __future__ import annotations

from typing import Any

from eval.layouts import pope
from eval.layouts.files import PathOrValue, name_of, show
from eval.layouts.rows import Prediction, are_rows, check_complete, check_known, read_predictions, read_rows
from eval.metrics.yes_no import pope_answer, yes_no_scores
from eval.scorers.options import DEFAULTS, Options
from rgpt.errors import InputError
from rgpt.prompts import parse_yes_no

PROTOCOLS = ("author-script", "strict", "scored")


def score(
    gt: PathOrValue, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """accuracy, precision, recall, f1, yes_ratio, tp, fp, tn, fn. Raises InputError."""
    protocol = protocol or PROTOCOLS[0]
    questions, value = pope.read_questions(gt), read_predictions(predictions)
    if options.ids is not None:
        questions = [q for q in questions if q.id in options.ids]
    if are_rows(value):
        rows = read_rows(value, predictions)
        if options.ids is not None:
            rows = [r for r in rows if r.id in options.ids]
        check_known((r.id for r in rows), {q.id for q in questions}, predictions, "question_id")
        check_complete({r.id for r in rows}, [q.id for q in questions], predictions, options.subset)
    elif pope.are_answers(value):
        rows = pope.read_answers(value, questions, predictions, options.subset)
    else:
        raise InputError.about(
            name_of(predictions),
            "rows of eval.run or POPE answers",
            show(value),
            "eval/README.md shows the layouts",
        )
    by_id = {r.id: r for r in rows}
    asked = [q for q in questions if q.id in by_id]
    answers = [_answer(by_id[q.id], protocol) for q in asked]
    failed = sum(by_id[q.id].failed is not None for q in asked)
    scores = yes_no_scores([q.label for q in asked], answers)
    unparsed = sum(a is None for a in answers) - failed
    return scores | {"unparsed": unparsed, "n": len(asked), "failed": failed, "protocol": protocol}


def _answer(row: Prediction, protocol: str) -> bool | None:
    if row.failed:
        return None
    if protocol == "strict":
        return parse_yes_no(row.raw_answer)
    if protocol == "author-script":
        return pope_answer(row.raw_answer)
    scores = {parse_yes_no(name): likelihood for name, likelihood in row.scores.items()}
    if not {True, False} <= set(scores):
        raise InputError.about(
            f"id {row.id}",
            "scores of yes and of no under the protocol scored",
            show(dict(row.scores)),
            "predict with --protocol scored, or choose another protocol",
        )
    return scores[True] > scores[False]

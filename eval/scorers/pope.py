"""POPE: is there a … in the image? Protocols:

- `author-script`: POPE's own reading of an answer, in which everything without a "no" or "not" is a yes.
- `strict` [D]: the first word must be yes or no; other answers are wrong, and counted in `unparsed`.
- `scored` [D]: the likelier of "yes" and "no" in each row's `scores`.
"""

from __future__ import annotations

from typing import Any

from eval.layouts import pope
from eval.layouts.files import PathOrValue, name_of, show
from eval.layouts.rows import Prediction, are_rows, check_complete, read_predictions, read_rows
from eval.metrics.yes_no import pope_answer, yes_no_scores
from eval.scorers.options import DEFAULTS, Options
from rgpt.errors import InputError
from rgpt.prompts import parse_yes_no

PROTOCOLS = ("author-script", "strict", "scored")
USES = frozenset({"ids", "subset"})


def score(
    gt: PathOrValue, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """accuracy, precision, recall, f1, yes_ratio, tp, fp, tn, fn. Raises InputError."""
    protocol = protocol or PROTOCOLS[0]
    questions, value = pope.read_questions(gt), read_predictions(predictions)
    by_question = {q.id: q for q in questions}
    if are_rows(value):
        rows = read_rows(value, predictions, by_question, "question_id")
    elif pope.are_answers(value):
        rows = pope.read_answers(value, questions, predictions)
    else:
        raise InputError.about(
            name_of(predictions),
            "rows of eval.run or POPE answers",
            show(value),
            "eval/README.md shows the layouts",
        )
    wanted = options.chosen(by_question, "question_id")
    by_id = {r.id: r for r in rows}
    check_complete(by_id, wanted, predictions, options.subset)
    asked = [by_question[i] for i in wanted if i in by_id]
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
            f"{row.place}, scores",
            "scores of yes and of no under the protocol scored",
            show(dict(row.scores)),
            "predict with --protocol scored, or choose another protocol",
        )
    return scores[True] > scores[False]

"""GAR-Bench's VQA, multiple choice. Protocols:

- `author-script` [A]: the answer is the letter alone, case and outer blanks ignored; "B." is wrong.
- `letter` [D]: the answer begins with the letter: "B", "(b)", "B. the red one".

The ground truth may be left out where the answers stand beside the questions.
"""

from __future__ import annotations

import re
from typing import Any

from eval.layouts.files import PathOrValue, name_of, show
from eval.layouts.multiple_choice import are_outputs, read_choices, read_outputs
from eval.layouts.rows import are_rows, check_complete, read_predictions, read_rows
from eval.metrics.judged import multiple_choice
from eval.scorers.options import DEFAULTS, Options
from rgpt.errors import InputError

PROTOCOLS = ("author-script", "letter")
USES = frozenset({"ids", "subset"})
LETTER = re.compile(r"\W*([A-Za-z])(?:\W|$)")


def score(
    gt: PathOrValue | None, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """`accuracy`, `correct`, and `per_type` with n and accuracy. Raises InputError."""
    protocol, value = protocol or PROTOCOLS[0], read_predictions(predictions)
    if are_outputs(value):
        choices = read_choices(value if gt is None else gt)
        said, failed = read_outputs(value, choices, predictions), set()
    elif are_rows(value) and gt is not None:
        choices = read_choices(gt)
        rows = read_rows(value, predictions, choices)
        said, failed = {r.id: r.raw_answer for r in rows}, {r.id for r in rows if r.failed}
    else:
        raise InputError.about(
            name_of(predictions),
            "GAR-Bench's rows with model_output, or rows of answers and --gt",
            show(value),
            "eval/README.md shows the layouts",
        )
    wanted = options.chosen(choices)
    check_complete(said, wanted, predictions, options.subset)
    asked = [i for i in wanted if i in said]
    answers = [said[i] if protocol == "author-script" else _letter(said[i]) for i in asked]
    scores = multiple_choice(answers, [choices[i].answer for i in asked], [choices[i].kind for i in asked])
    return {**scores, "n": len(asked), "failed": len(failed & set(asked)), "protocol": protocol}


def _letter(answer: str) -> str:
    found = LETTER.match(answer)
    return found.group(1) if found else answer

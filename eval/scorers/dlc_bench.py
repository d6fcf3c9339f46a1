"""DLC-Bench: detailed descriptions of regions, judged by questions. One protocol, `judged`.

Scoring is offline, from a judged file; `python -m eval.judge dlc_bench` makes one. The ground truth
(`qa.json` or its folder) may be left out: then every record of the judged file counts.
"""

from __future__ import annotations

from typing import Any

from eval.layouts.fields import Ids
from eval.layouts.files import PathOrValue, name_of
from eval.layouts.judged import read_dlc_judged, read_dlc_questions
from eval.layouts.rows import check_complete
from eval.metrics.judged import dlc_scores
from eval.scorers.options import DEFAULTS, Options
from rgpt.errors import InputError

PROTOCOLS = ("judged",)
USES = frozenset({"ids", "subset"})


def score(
    gt: PathOrValue | None, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """`pos`, `neg`, `avg`, `recognised`. Raises InputError."""
    verdicts, failed = read_dlc_judged(predictions)
    if gt is None:
        options.refuse("subset", "without --gt every record counts")
        kept = options.chosen(verdicts)
    else:
        questions = read_dlc_questions(gt)
        own = dict(
            zip(verdicts, Ids(questions, "annotation id").find(list(verdicts), predictions), strict=True)
        )
        verdicts = {own[i]: v for i, v in verdicts.items()}
        failed = {own[i]: why for i, why in failed.items()}
        kept = options.chosen(questions)
        check_complete(verdicts, kept, predictions, options.subset)
        for id_, verdict in verdicts.items():
            kinds = [q["type"] for q in questions[id_]]
            asked = (kinds.count("positive"), kinds.count("negative"))
            judged = (len(verdict.positives), len(verdict.negatives))
            if asked != judged and id_ not in failed:
                raise InputError.about(
                    f"{name_of(predictions)}, id {id_}, positives and negatives",
                    f"{asked[0]} positive and {asked[1]} negative verdicts",
                    f"{judged[0]} and {judged[1]}",
                    "the questions may be of another version",
                )
    verdicts = {i: verdicts[i] for i in kept if i in verdicts}
    ordered = [verdicts[i] for i in sorted(verdicts)]  # sums do not depend on the order of the file
    return {
        **dlc_scores(ordered),
        "n": len(verdicts),
        "failed": len(failed.keys() & verdicts.keys()),
        "protocol": protocol or PROTOCOLS[0],
    }

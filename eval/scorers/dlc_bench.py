"""DLC-Bench: detailed descriptions of regions, judged by questions. One protocol, `judged`.

Scoring is offline, from a judged file; `python -m eval.judge dlc_bench` makes one. The ground truth
(`qa.json` or its folder) may be left out: then every record of the judged file counts.
"""

from __future__ import annotations

from typing import Any

from eval.layouts.files import PathOrValue
from eval.layouts.judged import read_dlc_judged, read_dlc_questions
from eval.layouts.rows import check_complete, check_known
from eval.metrics.judged import dlc_scores
from eval.scorers.options import DEFAULTS, Options
from rgpt.errors import InputError

PROTOCOLS = ("judged",)


def score(
    gt: PathOrValue | None, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """`pos`, `neg`, `avg`, `recognised`. Raises InputError."""
    verdicts, failed = read_dlc_judged(predictions)
    if options.ids is not None:
        check_known(sorted(options.ids), verdicts, "the given ids")
        verdicts = {i: v for i, v in verdicts.items() if i in options.ids}
    if gt is not None:
        questions = read_dlc_questions(gt)
        check_known(verdicts, questions, predictions, "annotation id")
        wanted = [i for i in questions if options.ids is None or i in options.ids]
        check_complete(verdicts, wanted, predictions, options.subset)
        for id_, verdict in verdicts.items():
            kinds = [q["type"] for q in questions[id_]]
            asked = (kinds.count("positive"), kinds.count("negative"))
            judged = (len(verdict.positives), len(verdict.negatives))
            if asked != judged and id_ not in failed:
                raise InputError.about(
                    f"id {id_}",
                    f"{asked[0]} positive and {asked[1]} negative verdicts",
                    f"{judged[0]} and {judged[1]}",
                    "the questions may be of another version",
                )
    ordered = [verdicts[i] for i in sorted(verdicts)]  # sums do not depend on the order of the file
    return {
        **dlc_scores(ordered),
        "n": len(verdicts),
        "failed": len(failed.keys() & verdicts.keys()),
        "protocol": protocol or PROTOCOLS[0],
    }

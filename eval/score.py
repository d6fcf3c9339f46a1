"""`python -m eval.score TASK --gt GT --predictions FILE`: scores of anybody's predictions, from files alone.

Which layouts each task reads is listed in `eval/README.md`. Every result has `n` (items scored), `failed`
(items recorded as failed: they count as wrong) and `protocol`. Figures are shares of one unless their
name says otherwise; null means that there was nothing to measure.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from eval.layouts.files import PathOrValue, name_of, read_json, show
from eval.scorers.options import Options, as_written, unused
from rgpt.errors import InputError
from rgpt.files import sha256, write_json, write_text

TASKS = (
    "region_classification",
    "detection",
    "region_captioning",
    "referring",
    "pope",
    "open_vocabulary",
    "dlc_bench",
    "ferret_bench",
    "osprey_description",
    "mdvp_bench",
    "gar_vqa",
)
UNFIT = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError)
"""What a value of the wrong type inside a file of the right layout leads to."""
WITHOUT_TRUTH = ("dlc_bench", "ferret_bench", "osprey_description", "mdvp_bench", "gar_vqa", "referring")
"""Tasks with files that hold both sides; of the others `--gt` is required."""


def score_task(
    task: str,
    gt: PathOrValue | None,
    predictions: PathOrValue,
    protocol: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The scores of one predictions file.

    Args:
        task: one of `TASKS`.
        gt: path of the ground truth, or its parsed content; None for files that hold both sides.
        predictions: path of the predictions (a folder means its `predictions.jsonl`), or parsed rows.
        protocol: one of the task's protocols (`protocols(task)`); None takes the one that suits the layout.
        options: fields of `eval.scorers.options.Options`; None and False are as good as not given.

    Returns:
        Scores that `json` can write, always with `task`, `n`, `failed`, `protocol`.

    Raises:
        InputError: with one sentence on whatever is wrong with the files or options.
    """
    scorer = _scorer(task)
    if protocol is not None and protocol not in scorer.PROTOCOLS:
        raise InputError.about(f"protocol of {task}", ", ".join(scorer.PROTOCOLS), repr(protocol))
    known = [f.name for f in dataclasses.fields(Options)]
    if unknown := sorted(set(options) - set(known)):
        raise InputError.about(
            "options", f"some of {', '.join(known)}", ", ".join(unknown), "remove what is unknown"
        )
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if idle := sorted(set(given) - scorer.USES):
        used = ", ".join(as_written(name) for name in sorted(scorer.USES))
        raise unused(idle[0], f"{task} uses {used} only")
    if gt is None and task not in WITHOUT_TRUTH:
        raise InputError.about(f"ground truth of {task}", "a file", "none", "give --gt")
    try:
        scores: dict[str, Any] = scorer.score(gt, predictions, protocol, Options(**given))
    except InputError:
        raise
    except UNFIT as error:  # what the readers do not check one by one; the cause stays attached
        said = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        raise InputError.about(
            f"{name_of(predictions)} or its ground truth",
            f"a layout of {task}",
            f"parts of another type or missing ({said})",
            "compare both files with eval/README.md",
        ) from error
    return {"task": task, **scores}


def protocols(task: str) -> tuple[str, ...]:
    """The protocols of a task, its usual one first. Raises InputError for an unknown task."""
    found: tuple[str, ...] = _scorer(task).PROTOCOLS
    return found


def read_base(text: str) -> tuple[str, ...]:
    """The names of `--base`, a vocabulary in any form of `rgpt recognize`. Raises InputError."""
    from rgpt.recognizers.vocabulary import read_vocabulary

    return read_vocabulary(text).given


def _scorer(task: str) -> Any:
    if task not in TASKS:
        raise InputError.about("task", f"one of {', '.join(TASKS)}", repr(task))
    return importlib.import_module(f"eval.scorers.{task}")


def write_scores(path: Path | str, scores: dict[str, Any]) -> None:
    """Write `scores` to `path`, whole or not at all; a list of ids goes into a file of its own beside it.

    The id list of captions belongs to the score (the choice of a subset moves CIDEr), so `<name>.ids.json`
    holds it and `scores` its name and SHA-256.
    """
    path = Path(path)
    ids = scores.get("ids")
    if ids is not None:
        beside = path.with_name(f"{path.stem}.ids.json")
        text = json.dumps(ids)
        scores = {k: v for k, v in scores.items() if k != "ids"} | {
            "ids_file": beside.name,
            "ids_sha256": sha256(text),
        }
        write_text(beside, text + "\n")
    write_json(path, scores)


def table(scores: dict[str, Any]) -> str:
    """The plain numbers of a result, one a line."""
    lines = []
    for name, value in scores.items():
        if isinstance(value, float):
            lines.append(f"{name:<28}{value:>12.4f}")
        elif value is None:
            lines.append(f"{name:<28}{'–':>12}")
        elif isinstance(value, int | str):
            lines.append(f"{name:<28}{value!s:>12}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m eval.score", description=__doc__)
    made.add_argument("task", choices=TASKS)
    made.add_argument(
        "--gt", nargs="+", metavar="FILE", help="ground truth (several reference files: text captions)"
    )
    made.add_argument("--predictions", required=True, metavar="FILE", help="or a folder of eval.run")
    made.add_argument("--protocol", help="how answers are read; eval/README.md lists each task's")
    made.add_argument(
        "--json", metavar="OUT", help="write the scores here, and the id list of captions beside it"
    )
    made.add_argument(
        "--ids",
        metavar="FILE",
        help="JSON list: score these ids only (pictures for classification, detection)",
    )
    made.add_argument("--subset", action="store_true", help="leave out items without a prediction")
    made.add_argument("--split", help="which split of a file that holds several")
    made.add_argument("--tokenised", action="store_true", help="the captions are tokenised already")
    made.add_argument(
        "--iou-type", choices=("bbox", "segm"), help="for detections and COCO results (default: bbox)"
    )
    made.add_argument(
        "--base", metavar='FILE|"a,b"', help="detection: names trained with; AP of these and of the others"
    )
    made.add_argument(
        "--detections-a-region", type=int, metavar="K", help="best K names, under scored (default: 1)"
    )
    made.add_argument("--embedder", help="sentence embedding model (folder or hub id), or none")
    made.add_argument(
        "--instances", metavar="FILE", help="COCO instances with the boxes of a refs or RefExp file"
    )
    made.add_argument("--iou", type=float, help="a box is found at this IoU: referring, VOC (default: 0.5)")
    return made


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        if args.json:
            Path(args.json).resolve().parent.mkdir(
                parents=True, exist_ok=True
            )  # before the work, not after it
        options = {f.name: getattr(args, f.name) for f in dataclasses.fields(Options)}
        if args.ids:
            options["ids"] = read_json(args.ids)
            if not isinstance(options["ids"], list):
                raise InputError.about(args.ids, "a JSON list of ids", show(options["ids"]))
        options["base"] = read_base(args.base) if args.base else None
        gt = args.gt[0] if args.gt and len(args.gt) == 1 else args.gt
        scores = score_task(args.task, gt, args.predictions, args.protocol, **options)
        print(table(scores))
        if args.json:
            write_scores(args.json, scores)
    except (InputError, OSError) as problem:
        print(f"eval: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`rgpt annotate`: names, captions and attributes for marked objects, in the format that came in.

Exit codes beside the usual: 3, stopped before the end; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rgpt.cli import MODEL_HELP, OneLineParser
from rgpt.errors import InputError
from rgpt.files import check_writable

if TYPE_CHECKING:
    from rgpt.annotate.records import Annotated
    from rgpt.annotate.run import Asking, Outcome
    from rgpt.annotate.sources import Source

EXAMPLES = """\
SOURCE: COCO, Label Studio's JSON or CVAT's XML; a folder of VOC or YOLO; our JSONL; a folder of pictures,
whose regions are then proposed (--proposals, as for `rgpt detect`).

examples:
  rgpt annotate instances.json --images pictures --ask name --ask caption --out annotated
  rgpt annotate export.json --images pictures --ask attributes --schema schema.json --try 5 --out annotated
  rgpt annotate annotations.xml --images pictures --ask "What is <region> made of?" \\
                --model openai:Qwen/Qwen2.5-VL-7B-Instruct@http://localhost:8000/v1 --out annotated

The same command goes on where it was stopped. OUT/result has the source's own format with the answers,
objects.csv (least certain first), objects.jsonl and report.html.
"""
STOPPED = 3


def build_parser() -> argparse.ArgumentParser:
    """The parser of `rgpt annotate`."""
    parser = OneLineParser(
        prog="rgpt annotate",
        description="Ask a model about every object that people have marked.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="annotations, or a folder; see below")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of journal and result")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="pictures (default: images/ beside SOURCE)"
    )
    formats = ("coco", "label-studio", "cvat", "voc", "yolo", "jsonl", "folder")
    parser.add_argument("--format", choices=formats, help="default: what the file looks like")
    parser.add_argument("--proposals", metavar="SOURCE", help="what finds regions on a folder of pictures")
    parser.add_argument(
        "--most", type=_positive, default=30, metavar="N", help="regions proposed of a picture"
    )
    asked = parser.add_argument_group("what is asked (stays the same for the life of OUT)")
    asked.add_argument("--model", metavar="M", help=f"{MODEL_HELP}; or openai:MODEL@URL, local:DIR")
    asked.add_argument(
        "--ask", action="append", default=[], metavar="WHAT",
        help='caption, name, attributes, or a question that mentions <region>; may be repeated',
    )  # fmt: skip
    asked.add_argument("--names", metavar="V", help='of --ask name: coco80, a file, or "a,b,c" (default: the '
                       "model's own, else the source's labels)")  # fmt: skip
    asked.add_argument("--schema", type=Path, metavar="FILE", help="of --ask attributes: a JSON Schema")
    asked.add_argument("--context", choices=("image", "crop", "both"), default="image",
                       help="the region on the whole image (default), on its crop, or the mean of both "
                       "rankings")  # fmt: skip
    asked.add_argument("--agree", metavar="MODEL2", help="ask a second model, and mark where the two differ")
    spent = parser.add_argument_group("how")
    spent.add_argument(
        "--try", dest="trial", type=_positive, metavar="N", help="show N answers first, and ask"
    )
    spent.add_argument(
        "--processes", type=_positive, default=1, metavar="N", help="of our models (default: 1)"
    )
    spent.add_argument("--concurrency", type=_positive, default=8, metavar="N", help="requests at a time "
                       "(default: 8)")  # fmt: skip
    spent.add_argument(
        "--budget-tokens", type=_positive, metavar="N", help="that an endpoint may take in all"
    )
    spent.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="of a request (default: 120)"
    )
    spent.add_argument("--tries", type=_positive, default=6, metavar="N", help="of a request (default: 6)")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run `rgpt annotate` and return the exit code.

    Raises:
        InputError: an argument, the source, the schema or the model is wrong, or the disk is full.
    """
    options = build_parser().parse_args(arguments)
    check_writable(options.out)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return _annotate(options, Path(scratch))
        except KeyboardInterrupt:
            print("Stopped: what was answered is on the disk; the same command goes on.", file=sys.stderr)
            return 130


def _annotate(options: argparse.Namespace, scratch: Path) -> int:
    from rgpt.annotate.questions import make_questions
    from rgpt.annotate.run import ask

    make_questions(options.ask, ["any"], options.schema)  # what is wrong with them is told before any reading
    source = _source(options, scratch)
    askings = {"journal.jsonl": _asking(options, options.model, source)}
    if options.agree:
        askings["journal-agree.jsonl"] = _asking(options, options.agree, source)
    (first, *_) = askings.values()
    if options.trial and not _tried(options, source, first):
        print("Nothing more was asked; without --try the same command goes on.")
        return STOPPED
    outcomes: list[Outcome] = []
    for name, asking in askings.items():
        outcome = ask(source, asking, options.out / name)
        outcomes.append(outcome)
        if outcome.stopped:
            answered = f"{len(outcome.done)} of {source.total} objects are answered"
            print(f"Stopped, {outcome.stopped}: {answered}; the same command goes on.", file=sys.stderr)
            return STOPPED
    objects = _annotated(source, *outcomes)
    from rgpt.annotate.writing import write_result

    result = write_result(options.out, source, first.questions, objects, first.model, _calibration(first))
    print(_told(source, first, objects, outcomes, result))
    return 0


def _source(options: argparse.Namespace, scratch: Path) -> Source:
    from rgpt.annotate.sources import images_beside, kind_of, open_source, propose_regions

    path: Path = options.source
    kind = kind_of(path, options.format)
    if kind != "folder":
        if options.proposals:
            raise InputError.about("--proposals", "a folder of pictures", kind, "leave it out")
        return open_source(path, kind, options.images or images_beside(path), scratch)
    regions = options.out / "regions.json"
    wanted = {"proposals": options.proposals, "most": options.most}
    if options.proposals is None:
        raise InputError.about(
            f"source {str(path)!r}", "objects, or --proposals to find some on its pictures", "neither",
            "write for example --proposals sam:facebook/sam-vit-base",
        )  # fmt: skip
    if not regions.is_file():
        propose_regions(path, options.proposals, options.most, regions)
    elif (found := json.loads(regions.read_text(encoding="utf-8")).get("info")) != wanted:
        raise InputError.about(f"{str(regions)!r}", str(wanted), str(found), "name another --out")
    return replace(open_source(regions, "coco", path, scratch), kind="folder")


def _asking(options: argparse.Namespace, model: str | None, source: Source) -> Asking:
    from rgpt.annotate.questions import NAME, make_questions
    from rgpt.annotate.run import Asking
    from rgpt.annotate.session_answers import check_context
    from rgpt.asking.caller import RetryPolicy
    from rgpt.backends import parse_backend
    from rgpt.commands.chat import choose_model

    model = model or choose_model()
    asking = Asking(
        model,
        (),
        options.context,
        options.processes,
        options.concurrency,
        options.budget_tokens,
        RetryPolicy(tries=options.tries, stop_after=5),
        options.timeout,
    )
    vocabulary, names = "", source.labels
    if asking.is_backend:
        parse_backend(model)
    else:
        from rgpt.model.loading import said_of

        about, _ = said_of(model)
        vocabulary, names = about.vocabulary, about.names or names
    if options.names:
        from rgpt.recognizers.vocabulary import read_vocabulary

        names = read_vocabulary(options.names).given
    elif NAME not in options.ask:
        names = ()
    questions = make_questions(options.ask, names, options.schema, vocabulary)
    if not asking.is_backend:
        check_context(options.context, questions)
    return replace(asking, questions=tuple(questions))


def _calibration(asking: Asking) -> Mapping[str, Any]:
    if asking.is_backend:
        return {}
    from rgpt.model.loading import said_of

    return said_of(asking.model)[1]


def _annotated(source: Source, first: Outcome, second: Outcome | None = None) -> list[Annotated]:
    from rgpt.annotate.records import Annotated

    return [
        Annotated(
            picture.name,
            target,
            first.done[target.key],
            second.done[target.key] if second else {},
        )
        for picture in source.pictures()
        for target in picture.targets
        if target.key in first.done
    ]


def _tried(options: argparse.Namespace, source: Source, asking: Asking) -> bool:
    """Ask about a few objects spread over the source, show them, and ask whether to go on."""
    from rgpt.annotate.report import write_report
    from rgpt.annotate.review import review_queue
    from rgpt.annotate.run import ask
    from rgpt.files import whole_file

    count = min(options.trial, source.total)
    keys = frozenset(source.keys[source.total * k // count] for k in range(count))
    outcome = ask(source, asking, options.out / "journal.jsonl", keys)
    queue = review_queue([item for item in _annotated(source, outcome) if item.target.key in keys])
    sheet = options.out / "try.html"
    with whole_file(sheet) as partial:
        write_report(partial, source, asking.questions, queue, asking.model, _calibration(asking))
    for item in queue:
        said = "; ".join(f"{key}: {a.text() or a.problem}" for key, a in item.answers.items())
        print(f"{item.picture} {item.target.key} {item.target.label}: {said}")
    print(f"{sheet} shows them.", flush=True)
    if outcome.stopped:
        print(f"Stopped, {outcome.stopped}.", file=sys.stderr)
        return False
    try:
        return input(f"Ask about all {source.total} objects? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _told(
    source: Source, asking: Asking, objects: Sequence[Annotated], outcomes: Sequence[Outcome], result: Path
) -> str:
    from rgpt.annotate.questions import NAME
    from rgpt.annotate.review import review_queue, worth

    names = next((q.choices for q in asking.questions if q.key == NAME), ())
    lines = [f"{len(objects)} objects are answered, {sum(bool(o.problems) for o in objects)} with a problem."]
    if source.skipped:
        why = ", ".join(f"{n} x {reason}" for reason, n in source.skipped.items())
        lines.append(f"Not asked about, and unchanged in the result: {why}.")
    if len(outcomes) > 1:
        lines.append(f"Two models differ on {sum(bool(o.differing) for o in objects)}.")
    if tokens := sum(outcome.tokens for outcome in outcomes):
        lines.append(f"{tokens} tokens were spent.")
    if found := worth(review_queue(objects), names):
        lines.append(f"{found}.")
    return "\n".join([*lines, f"{result} has the {source.kind} with the answers; begin with report.html."])


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)

"""`python -m data_recipes.recap run | status | score | samples`.

Exit codes: 0 all done, 2 something given was wrong, 3 stopped before the end (run the same command again to
continue), 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_recipes.output import stop_cleanly_when_terminated
from data_recipes.recap.run import Settings, Summary, recap
from data_recipes.recap.sources import Shard
from data_recipes.recap.wordings import STYLES
from rgpt.asking.budget import Prices
from rgpt.asking.caller import RetryPolicy
from rgpt.backends import FORMS, described_changes
from rgpt.errors import InputError
from rgpt.placement import add_placement

STOPPED = 3


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m data_recipes.recap",
        description="Detailed captions of regions in two stages, rephrased and filtered.",
        epilog="data_recipes/recap/README.md has the whole story, with a set-up for many GPUs.",
    )
    verbs = top.add_subparsers(dest="verb", required=True)
    _add_run(verbs.add_parser("run", help="ask, and write the journal; run again to continue"))
    status = verbs.add_parser("status", help="print what the journals say, as JSON")
    status.add_argument("folder", type=Path, help="the folder of the journals")
    score = verbs.add_parser("score", help="give every caption a CLIP score")
    score.add_argument("folder", type=Path, help="the folder of the journals")
    score.add_argument(
        "--clip", type=Path, required=True, metavar="DIR", help="transformers or open_clip CLIP"
    )
    score.add_argument("--batch", type=int, default=32, help="captions at a time (default: 32)")
    samples = verbs.add_parser("samples", help="write training samples")
    samples.add_argument("folder", type=Path, help="the folder of the journals")
    samples.add_argument("--out", type=Path, required=True, metavar="NEW", help="a new or an empty folder")
    samples.add_argument("--min-clip", type=float, metavar="X", help="leave out captions scored lower")
    samples.add_argument("--max-turns", type=int, default=6, help="regions a conversation (default: 6)")
    samples.add_argument("--seed", type=int, default=0, help="decides the questions' wordings (default: 0)")
    samples.add_argument(
        "--partial", action="store_true", help="take unfinished journals, missing shards too"
    )
    return top


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("input", type=Path, help="JSONL: detection records, or samples that classify regions")
    run.add_argument("--backend", required=True, help=FORMS)
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the journal")
    run.add_argument("--dry-run", action="store_true", help="print prompts and the price; ask nothing")
    asked = run.add_argument_group("what is asked (stays the same for the life of a journal)")
    asked.add_argument("--rephrasings", type=int, default=0, help="other wordings a caption (default: 0)")
    asked.add_argument("--rephrase-backend", help="who rephrases (default: the same)")
    asked.add_argument("--style", choices=STYLES, help="close-ups with context, or regions on whole pictures "
                       "(default: regions for an rgpt backend, else recapd)")  # fmt: skip
    asked.add_argument("--seed", type=int, default=0, help="decides the wordings (default: 0)")
    asked.add_argument("--max-tokens", type=int, default=300, help="of an answer (default: 300)")
    asked.add_argument("--temperature", type=float, default=0.2, help="default: 0.2")
    asked.add_argument("--rephrase-temperature", type=float, default=0.7, help="default: 0.7")
    asked.add_argument(
        "--margin", type=float, default=0.1, help="around a close-up (default: 0.1 of its side)"
    )
    asked.add_argument("--max-side", type=int, default=1024, help="pixels of pictures sent (default: 1024)")
    asked.add_argument("--min-side", type=int, default=112, help="pixels of close-ups sent (default: 112)")
    add_placement(run.add_argument_group("where a model runs that is no endpoint"))
    asked.add_argument("--shard", default="1/1", metavar="I/N", help="do part I of N (default: 1/1)")
    spent = run.add_argument_group("how much and how fast (may change from run to run)")
    spent.add_argument("--price", type=float, nargs=2, metavar=("IN", "OUT"), default=(0.0, 0.0),
                       help="money for a million tokens in and out")  # fmt: skip
    spent.add_argument("--rephrase-price", type=float, nargs=2, metavar=("IN", "OUT"), default=(0.0, 0.0),
                       help="of --rephrase-backend")  # fmt: skip
    spent.add_argument("--budget", type=float, help="money this journal may cost, all runs together")
    spent.add_argument("--budget-tokens", type=int, help="tokens it may take, all runs together")
    spent.add_argument("--image-tokens", type=int, help="of a picture, if known (default: from its size)")
    spent.add_argument("--concurrency", type=int, default=8, help="pictures at a time (default: 8)")
    spent.add_argument("--requests-per-minute", type=float, help="default: no limit")
    spent.add_argument("--tokens-per-minute", type=float, help="default: no limit")
    spent.add_argument("--timeout", type=float, default=120.0, help="seconds of a request (default: 120)")
    spent.add_argument("--tries", type=int, default=6, help="of a request (default: 6)")
    spent.add_argument(
        "--backoff", type=float, default=1.0, help="seconds after the first failed try (default: 1)"
    )
    spent.add_argument("--stop-after", type=int, default=20, help="failed requests in a row (default: 20)")
    spent.add_argument("--limit", type=int, help="pictures to do in this run")
    spent.add_argument("--api-key-env", metavar="NAME",
                       help="the variable with the key (at OpenAI itself: OPENAI_API_KEY)")  # fmt: skip


def settings_of(options: argparse.Namespace) -> Settings:
    """Raises InputError for options that do not go together."""
    if options.tries < 1 or options.stop_after < 1 or options.backoff < 0:
        raise InputError("--tries and --stop-after: expected at least 1, and --backoff at least 0.")
    plain = {
        name: getattr(options, name)
        for name in Settings.__dataclass_fields__
        if hasattr(options, name) and name != "shard"
    }
    return Settings(
        **plain,
        shard=Shard.parse(options.shard),
        prices=Prices(*options.price),
        rephrase_prices=Prices(*options.rephrase_price),
        retries=RetryPolicy(options.tries, options.backoff, stop_after=options.stop_after),
    )


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    stop_cleanly_when_terminated()
    try:
        return _VERBS[options.verb](options)
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: what was finished is on the disk; the same command continues.", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    if options.dry_run:
        from data_recipes.recap.dry_run import dry_run

        print(dry_run(settings))
        return 0
    summary = recap(settings)
    print(_told(summary))
    if summary.stopped or summary.failed:
        why = summary.stopped or f"{summary.failed} regions got no answer"
        print(f"Stopped before the end: {why}; the same command continues.", file=sys.stderr)
        return STOPPED
    return 0


def _told(summary: Summary) -> str:
    state = summary.state
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(state.statuses.items()))
    spent = state.spent
    torn = (
        f"; half a line of a killed run was cut off ({summary.torn_bytes} bytes)"
        if summary.torn_bytes
        else ""
    )
    changed = "".join(f"; {name}: {described_changes(what)}" for name, what in state.changed.items())
    return (
        f"{len(state.finished)} of {summary.regions} regions are finished ({statuses or 'none'}); "
        f"{spent.prompt} tokens in, {spent.completion} out, cost {spent.money:.6g}{changed}{torn}"
    )


def _status(options: argparse.Namespace) -> int:
    from data_recipes.recap.samples import describe

    print(describe(options.folder))
    return 0


def _score(options: argparse.Namespace) -> int:
    from data_recipes.recap.clip_score import ClipScorer, score

    if options.batch < 1:
        raise InputError(f"--batch: expected at least 1, got {options.batch}.")
    done = score(options.folder, ClipScorer(options.clip), options.clip.resolve().name, options.batch)
    print(f"{done} captions were scored")
    return 0


def _samples(options: argparse.Namespace) -> int:
    from data_recipes.recap.samples import SampleSettings, build

    report = build(
        SampleSettings(
            options.folder, options.out, options.min_clip, options.max_turns, options.seed, options.partial
        )
    )
    print(f"{report.kept} samples with {report.regions} regions are in {options.out}")
    return 0


_VERBS = {"run": _run, "status": _status, "score": _score, "samples": _samples}


if __name__ == "__main__":
    raise SystemExit(main())

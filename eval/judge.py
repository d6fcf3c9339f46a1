"""`python -m eval.judge BENCHMARK …`: a language model judges answers for `eval.score`.

    python -m eval.judge dlc_bench --gt DLC-Bench/annotations --predictions descriptions.json \\
        --judge openai:Qwen/Qwen3-8B@http://localhost:8000/v1 --out judged.jsonl
    python -m eval.score dlc_bench --gt DLC-Bench/annotations --predictions judged.jsonl

Judgements are appended as they come: a run that was stopped goes on where it was, and refuses to mix judges.
An item whose judge cannot be reached stops the run; one that the *model* failed is never shown to the judge.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.judging import JUDGES, Ask, Questions
from eval.layouts.captions import read_hypotheses
from eval.layouts.fields import Ids, has_rows
from eval.layouts.judged import read_mdvp_results
from eval.layouts.rows import check_complete, read_predictions
from rgpt.backends import Backend, BackendError, described_changes, open_backend
from rgpt.errors import InputError
from rgpt.formats.jsonl import dump_line, parse_line
from rgpt.placement import add_placement, placement

LONGEST_WAIT = 60.0  # seconds


def asking(backend: Backend, attempts: int, sleep: Callable[[float], Any] = time.sleep) -> Ask:
    """`ask(content, retry)`: one answer of the judge; `retry` counts earlier answers that could not be read.

    The first answer is greedy; later ones are drawn, since a greedy judge would say the same again. Raises
    InputError when the judge cannot be reached in `attempts` attempts.
    """

    def ask(content: str | list[dict[str, Any]], retry: int) -> str:
        messages = [{"role": "user", "content": content}]
        for attempt in range(1, attempts + 1):
            try:
                drawn = 0.7 if retry else 0.0
                return backend.complete(messages, max_tokens=512, temperature=drawn, seed=retry).text
            except BackendError as error:
                if not error.retryable or attempt == attempts:
                    raise InputError.about(
                        f"judge {backend.name}",
                        "an answer",
                        str(error)[:120],
                        "judged items are kept: run again to go on",
                    ) from error
                sleep(error.retry_after or min(LONGEST_WAIT, 2.0**attempt))
        raise AssertionError("unreachable")

    return ask


def earlier_changes(rows: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """`Backend.changed` as the judgements of an earlier run have it."""
    return {name: other for row in rows for name, other in row.get("judge_parameters", {}).items()}


def read_done(path: Path, judge: str) -> dict[str, dict[str, Any]]:
    """Judgements of an earlier run; a last line that was cut is dropped from the file.

    Raises InputError when another judge made them, or a line in the middle is broken.
    """
    if not path.is_file():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with open(path, "r+b") as stream:
            stream.truncate(len(whole))
    done = {}
    for number, line in enumerate(whole.decode().splitlines(), start=1):
        try:
            row = parse_line(line)
            other = row["judge"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError.about(
                f"{path}:{number}", "a judgement", line[:60], "name another --out"
            ) from error
        if other != judge:
            raise InputError.about(f"{path}:{number}", f"the judge {judge}", other, "name another --out")
        done[row["id"]] = row
    return done


def judge_all(
    items: Mapping[str, Callable[[], dict[str, Any]]], out: Path, judge: Backend, workers: int = 1
) -> Iterator[dict[str, Any]]:
    """Judge what is not judged yet, `workers` items at a time; yields and appends each row.

    A row says under `judge_parameters` what the judge's endpoint would not be told (`Backend.changed`).
    """
    done = read_done(out, judge.name)
    judge.changed.update(earlier_changes(done.values()))
    todo = {id_: work for id_, work in items.items() if id_ not in done}
    stop = threading.Event()

    def run(work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        return None if stop.is_set() else work()

    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as stream, ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(run, work): id_ for id_, work in todo.items()}
        try:
            for future in as_completed(futures):
                row = future.result()
                if row is not None:
                    row = {"id": futures[future], **row, "judge": judge.name}
                    row |= {"judge_parameters": dict(judge.changed)} if judge.changed else {}
                    stream.write(dump_line(row))
                    stream.flush()
                    yield row
        finally:
            stop.set()  # after an error: what waits is not begun


def read_answers(
    task: str, predictions: Path | str, questions: Questions
) -> tuple[dict[str, str], dict[str, str]]:
    """Answers by the id of their question, and why items failed. Raises InputError."""
    value = read_predictions(predictions) if Path(predictions).suffix != ".txt" else None
    if task == "mdvp_bench" and has_rows(value, "image_name", "prediction"):
        return read_mdvp_results(value, questions, predictions), {}
    texts, failed = read_hypotheses(predictions)
    whole = {id_: questions.alias(id_) for id_ in texts}
    Ids(questions).find(list(whole.values()), predictions)
    if len(set(whole.values())) < len(whole):
        twice = next(id_ for id_ in whole.values() if list(whole.values()).count(id_) > 1)
        raise InputError.about(str(predictions), "one answer for each question", f"two for {twice}")
    return {whole[i]: t for i, t in texts.items()}, {whole[i]: why for i, why in failed.items()}


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m eval.judge`."""
    parser = argparse.ArgumentParser(prog="python -m eval.judge", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("task", choices=sorted(JUDGES))
    parser.add_argument("--gt", required=True, help="the benchmark's folder or file (README)")
    parser.add_argument("--predictions", required=True, help="answers by id, in any caption layout")
    parser.add_argument("--judge", required=True, help="openai:MODEL@URL, local:MODEL_DIR")
    parser.add_argument("--out", required=True, help="judgements, JSON lines")
    add_placement(parser)
    parser.add_argument(
        "--instructions", help="file with the judge's instructions, instead of the usual ones"
    )
    parser.add_argument("--images", help="folder of the pictures, which MDVP-Bench's judge is shown")
    parser.add_argument("--workers", type=int, default=4, help="requests at a time")
    parser.add_argument("--attempts", type=int, default=5, help="per request")
    parser.add_argument("--subset", action="store_true", help="leave out items without an answer")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if args.workers < 1 or args.attempts < 1:
            raise InputError("--workers and --attempts: expected at least 1 each, got less; raise them.")
        shown = {"images": args.images} if args.task == "mdvp_bench" else {}
        if args.images and not shown:
            raise InputError(f"--images has no effect: {args.task}'s judge is shown none; leave it out.")
        questions, judge_one = JUDGES[args.task](args.gt, args.instructions, **shown)
        texts, failed = read_answers(args.task, args.predictions, questions)
        check_complete(texts, questions, args.predictions, args.subset)
        backend = open_backend(args.judge, where=placement(args))
        ask = asking(backend, args.attempts)

        def work(id_: str) -> Callable[[], dict[str, Any]]:
            return lambda: judge_one(id_, texts[id_], failed.get(id_), ask)

        items = {id_: work(id_) for id_ in questions if id_ in texts}
        workers = args.workers if backend.concurrent else 1
        rows = judge_all(items, Path(args.out), backend, workers)
        for _ in tqdm(rows, desc=args.task, unit="item", disable=None, total=len(items)):
            pass
    except (InputError, OSError) as problem:
        print(f"eval: {problem}", file=sys.stderr)
        return 2
    if backend.changed:
        print(f"the judge was asked with other settings: {described_changes(backend.changed)}")
    print(f"judged: {args.out}; now: python -m eval.score {args.task} --predictions {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

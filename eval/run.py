"""`python -m eval.run TASK --model M --data … --out DIR`: predictions first, then scores, then a report.

Tasks: shapes, photographs, region_classification, detection, region_captioning, referring, pope.
`--data shapes` asks about drawn scenes instead of a data set. Under `torchrun` the pictures are divided
between the processes.
Several models give one table: `--model tiny regionspot clip-crop`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval import compare, pictures, recognizers, report
from eval.arguments import Drawn, build_parser, build_task, check
from eval.score import write_scores
from eval.store import Store, to_do
from eval.tasks.base import Task
from rgpt.errors import InputError
from rgpt.files import sha256, sole_writer, write_text
from rgpt.placement import placement

PHOTOGRAPHS = (
    "names", "names_not_person", "names_generated", "mAP", "CIDEr", "METEOR",
    "yes_no_without_picture", "which", "which_by_yes",
)  # fmt: skip
SHAPES = (
    "classification", "classification_small", "relation", "yes_no", "referring", "referring_likelihood",
    "no_match",
    "count", "brief_caption", "inside_vocabulary",
)  # fmt: skip
HEADLINE = (*PHOTOGRAPHS, *SHAPES)
"""Figures in the order they are printed in."""
WHERE_AND_HOW = (
    "out",
    "json",
    "threads",
    "device",
    "batch_size",
    "retry_failed",
    "no_sheet",
    "model",
    "task",
)
"""Options that cannot change an answer, or are kept elsewhere."""


def table(scores: Mapping[str, Any]) -> str:
    """Every figure with the number of its items; the headline first."""
    names = [k for k in HEADLINE if isinstance(scores.get(k), float)]
    names += [k for k, v in scores.items() if isinstance(v, float) and k not in names]
    lines = [f"{'':<32}{'value':>8}{'n':>8}"]
    for name in names:
        n = scores.get(f"n_{name}", scores.get("n_referring") if name == "referring_likelihood" else "")
        lines.append(f"{name:<32}{scores[name]:>8.4f}{n!s:>8}{report.between(scores, name)}")
    lines.append(f"items {scores['n']}, failed {scores['failed']}, protocol: {scores['protocol']}")
    return "\n".join(lines)


def revision(session: Any, name: str) -> str:
    """Which weights answered: the commit of a hub model, or a digest of the folder's weights and config.

    Of files above 64 MiB the digest reads the size and a mebibyte at either end: 7B weights take half a
    minute to read in whole.
    """
    from rgpt.model.loading import PACKAGED

    if isinstance(session, recognizers.RecognizerSession | recognizers.DetectorSession):
        from rgpt.recognizers.token_cache import fingerprint

        return f"weights:{fingerprint(session.network)}"
    folder = PACKAGED.get(name, Path(name))
    # A folder first: the configuration of one that names its base is the base's, and so is its commit.
    if not folder.is_dir() and (commit := getattr(session.model.config, "_commit_hash", None)):
        return str(commit)
    return digest_of([*folder.glob("*.safetensors"), *folder.glob("*.json")])


def digest_of(files: Iterable[Path]) -> str:
    """`sha256:…` of files; of those above 64 MiB their size and a mebibyte at either end."""

    def pieces() -> Iterator[bytes]:
        for file in sorted(files):
            size = file.stat().st_size
            yield f"{file.name} {size}".encode()
            with open(file, "rb") as stream:
                yield stream.read(2**20 if size > 2**26 else -1)
                if size > 2**26:
                    stream.seek(-(2**20), os.SEEK_END)
                    yield stream.read()

    return f"sha256:{sha256(pieces())[:16]}"


@contextlib.contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """(rank, world) of this process under torchrun; (0, 1) without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    import torch.distributed as dist

    dist.init_process_group("gloo")  # only to wait for each other: no tensor is sent
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()


def together(problem: InputError | OSError | None, world: int) -> None:
    """Wait for all processes; if one has a problem, every one stops, with that sentence."""
    if world > 1:
        import torch.distributed as dist

        problems: list[str | None] = [None] * world
        dist.all_gather_object(problems, None if problem is None else str(problem))
        if problem is None and (other := next((p for p in problems if p is not None), None)):
            raise InputError(other)
    if problem is not None:
        raise problem


def predict(
    args: argparse.Namespace,
    task: Task,
    folder: Path,
    rank: int,
    world: int,
    held: contextlib.ExitStack,
) -> tuple[Any, Any]:
    """Ask everything that is not answered yet: (run, rows); rows are None in all processes but the first.

    `held` keeps the folder for the first process, until the scores are written too.
    """
    import torch

    torch.set_num_threads(args.threads)
    problem: InputError | OSError | None = None
    run: dict[str, Any] = {}
    store = Store(folder, rank, world)
    asked: Sequence[Any] = []
    try:
        asked = task.pictures()  # bad data is refused before the model is opened
        options = placement(args)
        if world > 1 and torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count()
            options.setdefault("device", f"cuda:{local}")
        session = task.open_session(args.model, **options)
        run = describe(args, task, revision(session, args.model))
        run["parameters"] = recognizers.parameters(session)
        if rank == 0:
            if not folder.exists():
                folder.mkdir(parents=True)
            held.enter_context(sole_writer(folder))
            store.open(run)
    except (InputError, OSError) as found:
        problem = found
    together(problem, world)
    left, kept = to_do(asked, store.rows(), args.retry_failed)
    together(None, world)  # all have read what there was before anybody writes
    if rank == 0:
        store._write(kept)
    together(None, world)
    try:
        mine = left[rank::world]
        for picture in tqdm(mine, desc=task.name, unit="picture", disable=None if rank == 0 else True):
            store.add(task.rows(session, picture))
    except (InputError, OSError) as found:
        problem = found
    together(problem, world)
    return (run, store.finish(asked)) if rank == 0 else (run, None)


def describe(args: argparse.Namespace, task: Task, weights: str) -> dict[str, Any]:
    """What `run.json` holds: enough to know these predictions from any others."""
    chosen = {
        k: str(v) if isinstance(v, Path) else v
        for k, v in sorted(vars(args).items())
        if k not in WHERE_AND_HOW
    }
    command = ["python", "-m", "eval.run", args.task, "--model", args.model]
    for name, value in chosen.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            command.append(flag)
        elif value is not None and value is not False and value != "":
            command += [flag, str(value)]
    run = {
        "model": args.model,
        "revision": weights,
        "task": args.task,
        "protocol": task.protocol,
        "args": chosen,
        "command": shlex.join(command),
    }
    if proposals := getattr(args, "proposals", None):
        run["proposals"] = source_revision(str(proposals))
    return run


def source_revision(name: str) -> str:
    """What stands behind `--proposals`: a digest of its file or folder, else the name itself."""
    where = Path(name.partition(":")[2].partition("?")[0] or name)
    if where.is_file():
        return digest_of([where])
    return digest_of([*where.glob("*.safetensors"), *where.glob("*.json")]) if where.is_dir() else name


def score(
    args: argparse.Namespace, task: Task, folder: Path, run: Mapping[str, Any], rows: Any
) -> dict[str, Any]:
    """Scores of the rows, with what they are scores of; writes `gt.json` where the data was made here."""
    gt = task.ground_truth()
    if isinstance(gt, dict | list):
        write_text(folder / "gt.json", json.dumps(gt) + "\n")
        gt = folder / "gt.json"
    scores = task.score(gt, rows, whole=args.limit is None)
    kept = ("model", "revision", "parameters", "args")
    return {**scores, **{k: run[k] for k in kept}, "seed": args.seed}


def evaluate(args: argparse.Namespace, folder: Path) -> dict[str, Any] | None:
    """Predictions, scores, report; the scores in the first process, None in the others."""
    drawn = Drawn(args.seed, args.count) if getattr(args, "data", "shapes") == "shapes" else None
    task = build_task(args, drawn)
    with contextlib.ExitStack() as held:
        with processes() as (rank, world):
            if world > 1 and args.out is None:
                raise InputError("Several processes share a folder: give --out.")
            run, rows = predict(args, task, folder, rank, world, held)
        return None if rank != 0 else write_all(args, task, folder, run, rows)


def write_all(
    args: argparse.Namespace, task: Task, folder: Path, run: Mapping[str, Any], rows: Any
) -> dict[str, Any]:
    """Scores, and with --out pictures and a report beside them."""
    scores = score(args, task, folder, run, rows)
    write_scores(folder / "scores.json", scores)
    if args.out:
        shown = {"confusion.png": pictures.confusion(scores)}
        if not args.no_sheet:
            asked = task.pictures()
            shown["detections.png"] = pictures.detections(task, asked, rows)
            shown["mistakes.png"] = pictures.contact_sheet(task, asked, rows)
        for name, picture in shown.items():
            (folder / name).unlink(missing_ok=True)
            if picture is not None:
                pictures.write(picture, folder / name)
        names = [name for name, picture in shown.items() if picture is not None]
        write_text(folder / "report.md", report.markdown(run, scores, rows, names))
    return scores


def run_one(args: argparse.Namespace, folder: Path) -> dict[str, Any] | None:
    """One model: its scores, printed and written; None in all processes but the first."""
    check(args)
    if args.json:
        Path(args.json).resolve().parent.mkdir(parents=True, exist_ok=True)  # before the work
    scores = evaluate(args, folder)
    if scores is not None:
        print(table(scores))
        if args.json:
            write_scores(args.json, scores)
    return scores


def run_several(args: argparse.Namespace, folder: Path) -> None:
    """Every model in a folder of its own, on the same items, and one table of them. Raises InputError."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("Several models and several processes: run one model at a time, see eval.compare.")
    alone = [argparse.Namespace(**{**vars(args), "model": model, "json": None}) for model in args.model]
    for one in alone:
        if args.task == "detection" and recognizers.proposes_itself(one.model):
            one.proposals = None  # they are for the others; the table says where each one's regions are from
        check(one)  # all of them, before the first is asked
        one.out = str(folder / compare.folder_name(one.model)) if args.out else None
    if args.json:
        Path(args.json).resolve().parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for one in alone:
        own = folder / compare.folder_name(one.model)
        print(f"{one.model}:", file=sys.stderr)
        evaluate(one, own)
        rows.append(compare.read_row(own))
    compare.check_same(rows)
    print(compare.table(rows))
    if args.out:
        write_text(folder / "table.md", compare.table(rows) + "\n")
    if args.json:
        write_scores(args.json, {"models": rows})


def main(argv: list[str] | None = None) -> int:
    """The command. 0, or 2 and one sentence on stderr."""
    args = build_parser().parse_args(argv)
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(args.out or stack.enter_context(tempfile.TemporaryDirectory()))
            if len(args.model) > 1:
                run_several(args, folder)
            else:
                args.model = args.model[0]
                run_one(args, folder)
        except (InputError, OSError) as problem:
            print(f"eval: {problem}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs a recipe: options, workers, the leakage guard, files that appear whole, the report, the contact sheet.

A recipe says two things. `open` turns its files into a stream of records, in this process, and gives the
function that turns one record into samples; the runner calls that function in any number of processes. Every
record has its own random numbers, drawn from the seed and the record's id, and results are written in the
order of the records: the files do not depend on the number of workers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import random
import signal
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data_recipes.captioned import Captioned
from data_recipes.detections import Detection
from data_recipes.output import Report, Reservoir, contact_sheet, new_folder, stop_cleanly_when_terminated
from data_recipes.pictures import read_keys
from rgpt.data.schema import Sample
from rgpt.errors import InputError
from rgpt.formats.jsonl import parse_line
from rgpt.formats.paths import check_folder, holds_pictures, is_file

BATCH = 32
"""Records that travel to a worker at once."""
EXCLUDED = "in --exclude-images"
MISSING = "picture file is missing"
REFUSED = "refused by the sample type"
REFUSED_FIRST = "refused: "
"""Begins the one example of these that a report shows."""


Item = Sample | Detection | Captioned
"""What a line of a recipe's file may be."""


class Record(NamedTuple):
    """One unit of a source: usually a picture with what is said about it.

    Args:
        id: unique in the source; seeds the record's choices.
        image: the picture's path, None for text alone.
        keys: the picture's keys (`data_recipes.pictures`), for the leakage guard.
        content: whatever the recipe's `convert` needs; it travels to another process.
    """

    id: str
    image: str | None
    keys: tuple[str, ...]
    content: Any


@dataclass
class Made:
    """What a record became: samples, the tasks of each one's turns, and what was left out or mended.

    Without samples, `dropped` says why.
    """

    samples: list[Item] = field(default_factory=list)
    tasks: list[tuple[str, ...]] = field(default_factory=list)
    dropped: str = ""
    regions_read: int = 0
    regions_dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    picture: bool | None = None
    """Whether the record's picture is there; None for text alone, and where nobody looked."""

    def add(self, sample: Item, *tasks: str) -> None:
        """One more sample, with the task of every turn."""
        self.samples.append(sample)
        self.tasks.append(tasks)

    def drop_region(self, reason: str, count: int = 1) -> None:
        if count:
            self.regions_dropped[reason] += count


Convert = Callable[[Record, random.Random], Made]


@dataclass
class Source:
    """An opened data set.

    Args:
        records: streamed; memory must not grow with the data set.
        convert: turns a record into samples; picklable, and depends on its arguments alone.
        form: "samples", "detections" or "captions", the name of the file.
        facts: anything else worth a line of the report; read after the last record (with `--limit`, before
            the first).
    """

    records: Iterable[Record]
    convert: Convert
    form: str = "samples"
    facts: dict[str, Any] = field(default_factory=dict)


class Recipe(NamedTuple):
    """A data set's name, its help text, its options, and how it is opened (options, scratch folder)."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    open: Callable[[argparse.Namespace, Path], Source]


class Line(NamedTuple):
    """A sample as it is written, with what the report counts."""

    text: str
    regions: int
    turns: int
    words: int
    tasks: tuple[str, ...]


class Written(NamedTuple):
    """A record's lines and the rest of its `Made`."""

    lines: list[Line]
    made: Made


@dataclass(frozen=True)
class Worker:
    """Converts records to lines; the same object in every process."""

    convert: Convert
    seed: int
    folder: str
    excluded: frozenset[str]
    skip_missing: bool

    def __call__(self, records: Sequence[Record]) -> list[Written]:
        return [self._one(record) for record in records]

    def _one(self, record: Record) -> Written:
        if not self.excluded.isdisjoint(record.keys):
            return Written([], Made(dropped=EXCLUDED))
        there = None if record.image is None else is_file(Path(record.image))
        if self.skip_missing and there is False:
            return Written([], Made(dropped=MISSING, picture=False))
        try:
            made = self.convert(record, random.Random(f"{self.seed} {record.id}"))
            lines = [_line(*pair, self.folder) for pair in zip(made.samples, made.tasks, strict=True)]
        except InputError as error:
            # Nothing a data set contains may end a run of hours; the first one is shown in the report.
            made = Made(
                dropped=REFUSED, repaired=Counter({f"{REFUSED_FIRST}{error}"[:300]: 1}), picture=there
            )
            return Written([], made)
        made.picture = there
        made.samples = []  # the lines travel back, not the objects
        return Written(lines, made)


def _line(sample: Item, tasks: tuple[str, ...], folder: str) -> Line:
    text = json.dumps(sample.to_json(folder), ensure_ascii=False, separators=(", ", ": "))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = ascii(text[error.start : error.start + 1])
        raise InputError.about(f"sample {sample.id!a}", "text of whole characters", found) from error
    if isinstance(sample, Detection):
        return Line(text, len(sample.regions), 0, sum(len(name.split()) for name in sample.names), tasks)
    if isinstance(sample, Captioned):
        return Line(text, 0, 0, sum(len(caption.split()) for caption in sample.captions), tasks)
    words = sum(len(text.split()) for turn in sample.turns for text in turn)
    return Line(text, len(sample.regions), len(sample.turns), words, tasks)


def run(recipe: Recipe, options: argparse.Namespace) -> Report:
    """Write the data set into the new folder `options.out`.

    Raises:
        InputError: for options that cannot be, a source that cannot be read, a folder that is not empty, a
            folder of pictures that is missing or holds none of them (it may be empty, while they are still to
            come), and a run that kept nothing. Nothing is left behind then.
    """
    for name, least in (("seed", 0), ("workers", 1), ("limit", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError.about(f"--{name}", f"at least {least}", str(value), "give a larger number")
    images = getattr(options, "images", None)
    if images:
        check_folder(images)
    excluded = read_keys(options.exclude_images)
    shown = {key: _plain(value) for key, value in vars(options).items() if key not in ("out", "workers")}
    report = Report(recipe.name, shown)
    with new_folder(options.out) as folder:
        with tempfile.TemporaryDirectory(dir=folder, prefix="scratch-") as scratch:
            source = recipe.open(options, Path(scratch))
            known = dict(source.facts)
            chosen: Reservoir[str] = Reservoir(options.seed)
            worker = Worker(
                source.convert, options.seed, str(folder), excluded, options.skip_missing_pictures
            )
            path = folder / f"{source.form}.jsonl"
            with open(path, "w", encoding="utf-8", newline="\n") as stream:
                for line in _lines(source.records, worker, options, report):
                    stream.write(line + "\n")
                    chosen.offer(line)
            # How far a limited run read on depends on its workers, so what only the end tells is left out.
            report.facts = source.facts if options.limit is None else known
        if not report.kept:
            raise _kept_nothing(recipe.name, report)
        missing = report.pictures[False]
        if images and missing and not report.pictures[True] and holds_pictures(images):
            raise InputError.about(
                f"--images {str(images)!r}",
                f"the pictures of {recipe.name}",
                f"none of {missing}, such as {Path(parse_line(chosen.samples[0])['image'] or '').name!r}",
                "name the folder they lie in",
            )
        contact_sheet([_shown(line, folder) for line in chosen.samples]).save(folder / "contact_sheet.png")
        report.write(folder / "report.json")
    return report


def _lines(
    records: Iterable[Record], worker: Worker, options: argparse.Namespace, report: Report
) -> Iterator[str]:
    """The lines to write, counted in `report`; ends at `--limit`."""
    with _mapped(worker, records, options.workers) as results:
        for written in results:
            kept = written.lines[: None if options.limit is None else options.limit - report.kept]
            _count(report, kept, written.made)
            yield from (line.text for line in kept)
            if options.limit is not None and report.kept >= options.limit:
                return


def _count(report: Report, lines: Sequence[Line], made: Made) -> None:
    if made.dropped:
        report.drop(made.dropped)
    elif not lines:
        report.drop("nothing left to ask about")
    else:
        report.read += 1
        report.records_kept += 1
    report.kept += len(lines)
    report.regions += sum(line.regions for line in lines)
    report.turns += sum(line.turns for line in lines)
    report.words += sum(line.words for line in lines)
    for line in lines:
        report.tasks.update(line.tasks)
    if made.picture is not None:
        report.pictures[made.picture] += 1
    report.regions_read += made.regions_read
    report.regions_dropped.update(made.regions_dropped)
    for reason, count in made.repaired.items():
        if reason.startswith(REFUSED_FIRST) and any(k.startswith(REFUSED_FIRST) for k in report.repaired):
            continue  # one example is enough, and their number is in `dropped`
        report.repaired[reason] += count


@contextmanager
def _mapped(worker: Worker, records: Iterable[Record], workers: int) -> Iterator[Iterator[Written]]:
    """Results in the order of the records, over this process or over `workers` others."""
    if workers == 1:
        yield (written for record in records for written in worker([record]))
        return
    # Fresh processes: a fork would copy whatever threads and locks the caller has.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(worker,)
    )
    try:
        yield _in_order(pool, records, 2 * workers + 2)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, records: Iterable[Record], ahead: int) -> Iterator[Written]:
    """Never more than `ahead` batches under way: a fast reader must not fill the memory."""
    pending: deque[Future[list[Written]]] = deque()
    stream = iter(records)
    while batch := list(itertools.islice(stream, BATCH)):
        pending.append(pool.submit(_work, batch))
        if len(pending) >= ahead:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


_worker: Worker | None = None


def _start_worker(worker: Worker) -> None:
    global _worker
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the parent's to handle: it ends its workers itself
    _worker = worker


def _work(records: Sequence[Record]) -> list[Written]:
    assert _worker is not None
    return _worker(records)


def _shown(line: str, folder: Path) -> Sample:
    value = parse_line(line)
    for kind, key in ((Detection, "names"), (Captioned, "captions")):
        if key in value:
            return kind.from_json(value, folder).as_sample()
    return Sample.from_json(value, folder)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _kept_nothing(name: str, report: Report) -> InputError:
    reasons = [f"{count} {reason}" for reason, count in report.dropped.most_common(3)]
    reasons += [f"{count} regions: {reason}" for reason, count in report.regions_dropped.most_common(3)]
    reasons += [text.rstrip(".") for text in report.repaired if text.startswith(REFUSED_FIRST)]
    return InputError.about(
        f"{name}: samples",
        "at least one",
        f"none from {report.read} records ({'; '.join(reasons) or 'the source is empty'})",
        "check the options and files; nothing was written",
    )


def build_parser(recipe: Recipe) -> argparse.ArgumentParser:
    """The recipe's own options and those that every recipe has."""
    first, _, rest = recipe.help.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=f"python -m data_recipes.{recipe.name}",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipe.add_arguments(parser)
    shared = parser.add_argument_group("options of every recipe")
    shared.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    shared.add_argument("--seed", type=int, default=0, help="of every random choice (default: 0)")
    shared.add_argument("--workers", type=int, default=1, help="processes; they change nothing but the time")
    shared.add_argument("--limit", type=int, metavar="N", help="stop after N samples")
    shared.add_argument(
        "--exclude-images",
        type=Path,
        nargs="+",
        default=[],
        metavar="LIST",
        help="pictures that must not be used (python -m data_recipes.eval_pictures makes lists)",
    )
    shared.add_argument(
        "--skip-missing-pictures", action="store_true", help="leave out records whose picture file is missing"
    )
    return parser


def main(recipe: Recipe, arguments: Sequence[str] | None = None) -> int:
    """Parse, run, say in one line what was made. 2: refused, 130: interrupted; nothing is left then."""
    options = build_parser(recipe).parse_args(arguments)
    stop_cleanly_when_terminated()
    try:
        report = run(recipe, options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: nothing was written.", file=sys.stderr)
        return 130
    print(closing_line(report, options.out))
    return 0


def closing_line(report: Report, out: Path) -> str:
    """What was made, and what of records and regions was not, with the reasons."""
    line = f"{report.kept} samples with {report.regions} regions from {report.read} records are in {out}"
    missing = report.pictures[False]
    parts = [f"{missing} pictures are not there yet"] if missing else []
    for what, counts in (
        ("records dropped", report.dropped),
        ("regions dropped", report.regions_dropped),
        ("mended", Counter({k: n for k, n in report.repaired.items() if not k.startswith(REFUSED_FIRST)})),
    ):
        if total := sum(counts.values()):
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
            parts.append(f"{total} {what}: {reasons}")
    return "; ".join([line, *parts])

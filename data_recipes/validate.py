"""Check a JSONL file of samples or detection records, or LLaVA's JSON, and say what is in it.

Every line is checked: it is a sample (counts of regions and mentions match, nothing unknown in it), its id
is its own, its picture exists and can be read, every region lies in the picture, answers name regions that
are there, and the conversation fits into --max-length tokens. Problems are named by line; 0 is returned when
there are none, 1 when there are some.

    python -m data_recipes.validate DIR/samples.jsonl
    python -m data_recipes.validate DIR/samples.jsonl --model regiongpt-7b --max-length 2048
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_recipes.detections import Detection
from data_recipes.token_lengths import histogram, length_counter, quantiles
from rgpt import prompts
from rgpt.data.sample_files import SampleFile
from rgpt.data.schema import Sample
from rgpt.errors import InputError
from rgpt.formats.jsonl import parse_line
from rgpt.formats.llava import has_image_mark
from rgpt.formats.size_claims import PictureHeader, fits, read_header
from rgpt.regions import Box, Point, Polygon, Region, Scribble

BATCH = 64
SHOWN = 20
UNMENTIONED = "region that no turn mentions"
REACHES_PAST = "region that reaches past its picture"
UNTURNED = "region of the unturned picture"
Counted = Callable[[Sequence[Sample]], list[int]]


@dataclass
class Findings:
    """What a file holds and what is wrong with it.

    Attributes:
        problems: how many lines have each kind of problem.
        examples: the first of them, as "line: sentence".
        notes: what is odd but no error.
        lengths: tokens of every sample, when they were counted.
    """

    lines: int = 0
    samples: int = 0
    detections: int = 0
    text_only: int = 0
    regions: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    words: int = 0
    names: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)

    def problem(self, line: int, kind: str, sentence: str) -> None:
        self.problems[kind] += 1
        if len(self.examples) < SHOWN:
            self.examples.append(f"{line}: {sentence}")


def validate(
    path: Path,
    *,
    images: Path | None = None,
    check_pictures: bool = True,
    count: Counted | None = None,
    max_length: int | None = None,
) -> Findings:
    """Check every line of `path`, or every record of LLaVA's JSON (`.json`).

    Args:
        images: the folder that LLaVA's picture paths start from; default: the file's own.
        check_pictures: open every picture (its header) and check regions against its size.
        count: tokens of samples; None leaves lengths out.
        max_length: in tokens.

    Raises:
        InputError: the file is missing, or is no JSON list. What is wrong inside is in the findings.
    """
    if not path.is_file():
        actual = "a folder" if path.is_dir() else "nothing at this path"
        raise InputError.about(f"file {str(path)!r}", "an existing JSONL or JSON file", actual)
    findings, seen = Findings(), _Seen()
    good = _checked(path, images, findings, seen, check_pictures)
    while batch := list(itertools.islice(good, BATCH)):
        if count is None:
            continue
        for (number, sample), length in zip(batch, count([sample for _, sample in batch]), strict=True):
            findings.lengths[length] += 1
            if max_length is not None and length > max_length:
                findings.problem(
                    number,
                    "too long",
                    f"{sample.id!r} has {length} tokens, more than {max_length}; shorten it.",
                )
    findings.pictures = len(seen.pictures)
    return findings


class _Seen:
    """Ids and pictures met so far, as hashes: eight bytes and their place in a set, whatever they are."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self.pictures: set[int] = set()


def _checked(
    path: Path, images: Path | None, findings: Findings, seen: _Seen, check_pictures: bool
) -> Iterator[tuple[int, Sample]]:
    """(line, sample) of every line that is a sample; everything is counted on the way."""
    llava = path.suffix == ".json"
    for number, read in _llava_records(path, images) if llava else _lines(path):
        findings.lines += 1
        try:
            record = read()
        except InputError as error:
            findings.problem(number, "not a sample", str(error))
            continue
        if not llava:  # there ids repeat: they are those of COCO's pictures
            _check_id(number, record, findings, seen)
        _check_common(number, record, findings, seen, check_pictures)
        if isinstance(record, Sample):
            _check_sample(number, record, findings)
            yield number, record
        else:
            findings.detections += 1
            findings.names.update(record.names)


Read = Callable[[], Sample | Detection]


def _lines(path: Path) -> Iterator[tuple[int, Read]]:
    """(number, how it is read) of every line that is not blank."""
    with (
        open(path, "rb") as stream,
        tqdm(
            total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, delay=2, disable=None
        ) as bar,
    ):
        for number, line in enumerate(stream, start=1):
            bar.update(len(line))
            if line.strip():
                yield number, partial(_record, line, path.parent)


def _llava_records(path: Path, images: Path | None) -> Iterator[tuple[int, Read]]:
    """(line on which it begins, how it is read) of every record of LLaVA's JSON."""
    file = SampleFile(path, images=images, check=False)
    for n in tqdm(range(len(file)), desc=path.name, unit="record", delay=2, disable=None):
        yield file.line(n), partial(file.__getitem__, n)


def _record(line: bytes, folder: Path) -> Sample | Detection:
    value = parse_line(line)
    if isinstance(value, dict) and "names" in value:
        return Detection.from_json(value, folder)
    return Sample.from_json(value, folder)


def _check_id(number: int, record: Sample | Detection, findings: Findings, seen: _Seen) -> None:
    if (known := hash(record.id)) in seen.ids:
        findings.problem(number, "id used twice", f"the id {record.id!r} was used before; give another.")
    seen.ids.add(known)


def _check_common(
    number: int, record: Sample | Detection, findings: Findings, seen: _Seen, check_pictures: bool
) -> None:
    findings.regions.update(type(region).__name__.lower() for region in record.regions)
    if record.image is None:
        findings.text_only += 1
        return
    seen.pictures.add(hash(str(record.image)))
    if not check_pictures:
        return
    header = read_header(record.image)
    if header is None:
        there = "cannot be read" if record.image.exists() else "is missing"
        findings.problem(number, f"picture {there}", f"the picture {str(record.image)!r} {there}.")
        return
    size = header.upright
    if isinstance(record, Detection) and size != (record.height, record.width):
        findings.problem(
            number,
            "size is not the picture's",
            f"the record says {record.width} x {record.height}, the picture is {size[1]} x {size[0]}.",
        )
    _check_inside(number, record.regions, header, findings)


def _check_inside(number: int, regions: Sequence[Region], header: PictureHeader, findings: Findings) -> None:
    for n, region in enumerate(regions, start=1):
        x, y = _reach(region)
        if not fits(x, y, header.upright) and header.sideways and fits(x, y, header.stored):
            findings.problem(
                number,
                UNTURNED,
                f"region {n} reaches to ({x:g}, {y:g}): in the picture as stored, not in the upright one, "
                f"{header.upright[1]} x {header.upright[0]}; turn it as EXIF turns the picture.",
            )
            continue
        try:
            region.check_inside(*header.upright)
        except InputError as error:
            findings.problem(number, "region outside its picture", f"region {n}: {error}")
            continue
        if not fits(x, y, header.upright):
            findings.notes[REACHES_PAST] += 1


def _reach(region: Region) -> tuple[float, float]:
    """The largest x and y of a region; a mask has its picture's."""
    if isinstance(region, Box):
        return region.x2, region.y2
    if isinstance(region, Polygon):
        points = [point for ring in region.rings for point in ring]
    elif isinstance(region, Scribble):
        points = [point for stroke in region.points for point in stroke]
    elif isinstance(region, Point):
        return region.x, region.y
    else:
        return region.size[1], region.size[0]
    return max(x for x, _ in points), max(y for _, y in points)


def _check_sample(number: int, sample: Sample, findings: Findings) -> None:
    findings.samples += 1
    findings.turns += len(sample.turns)
    findings.words += sum(len(text.split()) for turn in sample.turns for text in turn)
    text = " ".join(text for turn in sample.turns for text in turn)
    for n in range(1, len(sample.regions) + 1):
        findings.notes[UNMENTIONED] += prompts.mention(n) not in text
    for turn in sample.turns:
        asked = prompts.REFERRING_GUIDE in turn.question
        named = prompts.parse_region_answer(turn.answer) if turn.answer.startswith("Region [") else 0
        if asked and named is not None and named > len(sample.regions):
            findings.problem(
                number,
                "answer names no region",
                f"the answer {turn.answer[:40]!r} names a region but there are {len(sample.regions)}.",
            )
        if has_image_mark(turn.question) or has_image_mark(turn.answer):
            findings.problem(
                number, "<image> in the text", "the picture's place is the template's; remove it."
            )


def described(findings: Findings, max_length: int | None) -> str:
    """Findings as text: statistics, the histogram of token lengths, problems."""
    regions = ", ".join(f"{count} {kind}" for kind, count in findings.regions.most_common()) or "none"
    lines = [
        f"lines      {findings.lines}: {findings.samples} samples, {findings.detections} detection records",
        f"pictures   {findings.pictures} different; {findings.text_only} lines without one",
        f"regions    {sum(findings.regions.values())} ({regions})",
        f"turns      {findings.turns}, {findings.words} words",
    ]
    if findings.names:
        common = ", ".join(f"{name} {count}" for name, count in findings.names.most_common(8))
        lines.append(f"names      {len(findings.names)} different; {common}")
    if findings.lengths:
        lines += ["", f"tokens     {quantiles(findings.lengths)}"]
        lines += histogram(findings.lengths, max_length)
    lines += [f"note       {count} times: {note}" for note, count in findings.notes.items() if count]
    if findings.problems:
        lines += ["", "problems   " + ", ".join(f"{n} {kind}" for kind, n in findings.problems.most_common())]
        lines += findings.examples
        if (more := sum(findings.problems.values()) - len(findings.examples)) > 0:
            lines.append(f"… and {more} more")
    else:
        lines += ["", "problems   none"]
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m data_recipes.validate",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="samples or detection records, one a line; or LLaVA's .json"
    )
    parser.add_argument(
        "--model", default="tiny", help="whose tokens and picture tokens are counted (default: tiny)"
    )
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="in tokens (default: the model's context)"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="the folder that the paths of LLaVA's JSON start from"
    )
    parser.add_argument("--no-tokens", action="store_true", help="do not count tokens")
    parser.add_argument("--no-pictures", action="store_true", help="do not look at the pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the findings")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        count, max_length = None, options.max_length
        if options.max_length is not None and options.max_length < 1:
            raise InputError(f"--max-length: expected at least 1, got {options.max_length}; give another.")
        if not options.no_tokens and not _only_detections(options.file):
            count, context = length_counter(options.model)
            max_length = max_length or context
        findings = validate(
            options.file,
            images=options.images,
            check_pictures=not options.no_pictures,
            count=count,
            max_length=max_length,
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(described(findings, max_length))
    if options.json:
        options.json.write_text(json.dumps(_plain(findings), indent=1, ensure_ascii=False), encoding="utf-8")
    return 1 if findings.problems else 0


def _only_detections(path: Path) -> bool:
    """Whether the first line is a detection record: then no model needs to be opened."""
    if not path.is_file():
        return True
    with open(path, "rb") as stream:
        return b'"names"' in next(iter(stream), b"")


def _plain(findings: Findings) -> dict[str, Any]:
    return {
        key: dict(value) if isinstance(value, Counter) else value for key, value in vars(findings).items()
    }


if __name__ == "__main__":
    sys.exit(main())

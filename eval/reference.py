"""`python -m eval.reference --data DIR [--list FILE]`: published figures beside ours, computed anew.

A list is JSON, one record a comparison:

    [{"id": "dlc_dam_3b_v1_judged",
      "score": {"task": "dlc_bench", "predictions": "dlc_bench/dam_3b_v1_judged_scores.json"},
      "expected": {"pos": 0.51, "neg": 0.83, "avg": 0.67},
      "source": "NVlabs/describe-anything, evaluation/README.md"}]

`score` names the arguments of `eval.score` (`task`, `gt`, `predictions`, `protocol`, `ids`, …), with paths
that are looked for in each DIR. `expected` holds keys of the result (`per_class.dog.AP` goes inside) and
figures as published: 0.51, 67.951 percent as "67.951%", 34 of 69 as "34/69", -1 for nothing to measure. A
figure is reproduced when it agrees to every digit given: rounded or cut to that many decimals, or within
1e-12 where it is stated in full. In place of a path, `gt` and `predictions` may be the parsed content, or

    {"each": FILE, "id": KEY, "answer": KEY}    answers made of the rows of a file, or with "words" one answer
    {"first": FILE}, {"rest": FILE}             the first reference of every id that has several; the others
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from eval.layouts.captions import read_references
from eval.layouts.fields import as_object, field_of, words_of
from eval.layouts.files import read_json, row_name, show
from eval.score import score_task
from rgpt.errors import InputError

OURS = Path(__file__).parent / "reference_figures.json"
FULL = 14
"""From this many decimals on a figure counts as stated in full."""
TOLERANCE = 1e-12
KEYS = {"id", "score", "expected", "source", "note"}
FILES = ("gt", "predictions", "ids", "instances")


class Figure(NamedTuple):
    """One number: as published, and as computed here (None: there was nothing to measure)."""

    set_id: str
    name: str
    published: float | str
    ours: float | None

    @property
    def reproduced(self) -> bool:
        ours = -1.0 if self.ours is None else self.ours
        value, decimals = read_figure(self.published)
        if decimals is None:
            return abs(value - ours) <= TOLERANCE
        unit = 10.0**-decimals  # some sources round the last digit, some cut
        return any(abs(f(ours / unit) * unit - value) < unit / 2 for f in (round, math.trunc))


def read_figure(published: float | str) -> tuple[float, int | None]:
    """A figure as a share of one, and its decimals; None where it is stated in full. Raises InputError."""
    text = published.strip() if isinstance(published, str) else repr(published)
    try:
        if "/" in text:
            return float(Fraction(text)), None
        number = Decimal(text.removesuffix("%"))
        exponent = number.as_tuple().exponent
        if isinstance(published, bool) or not isinstance(exponent, int):
            raise ValueError
    except (ValueError, ZeroDivisionError, InvalidOperation) as error:
        raise InputError.about("figure", 'a number, "67.9%" or "34/69"', show(published)) from error
    percent = text.endswith("%")
    decimals = max(0, -exponent) + 2 * percent
    full = isinstance(published, int) or decimals >= FULL
    return float(number) / (100 if percent else 1), None if full else decimals


class Record(NamedTuple):
    """One comparison of a list."""

    id: str
    arguments: dict[str, Any]
    expected: dict[str, Any]


def read_list(path: Path | str) -> list[Record]:
    """The records of a list, each checked. Raises InputError."""
    value = read_json(path)
    if not isinstance(value, list) or not value:
        raise InputError.about(str(path), "a list of records", show(value))
    records: list[Record] = []
    for index, row in enumerate(value):
        thing = row_name(path, index)
        id_ = words_of(row, "id", thing)
        if unknown := sorted(set(row) - KEYS):
            raise InputError.about(thing, f"the keys {', '.join(sorted(KEYS))}", unknown[0])
        arguments = dict(as_object(field_of(row, "score", thing), f"{thing}, score"))
        for key in ("task", "predictions"):
            field_of(arguments, key, f"{thing}, score")
        expected = as_object(field_of(row, "expected", thing), f"{thing}, expected")
        for name, published in expected.items():
            try:
                read_figure(published)
            except InputError as error:
                raise InputError(f"{thing}, expected, {name}: {error}") from error
        words_of(row, "source", thing)
        if id_ in {record.id for record in records}:
            raise InputError.about(f"{thing}, id", "every id once", f"{id_!r} again")
        records.append(Record(id_, arguments, dict(expected)))
    return records


def figures(record: Record, folders: list[Path]) -> list[Figure]:
    """The published numbers of a record beside ours. Raises InputError."""
    arguments = dict(record.arguments)
    for key in FILES:
        if key in arguments:
            arguments[key] = _content(arguments[key], folders)
    if isinstance(arguments.get("ids"), Path):
        arguments["ids"] = read_json(arguments["ids"])
    scores = score_task(arguments.pop("task"), arguments.pop("gt", None), **arguments)
    return [
        Figure(record.id, name, published, _at(scores, name, record.id))
        for name, published in record.expected.items()
    ]


def _at(scores: Any, name: str, id_: str) -> float | None:
    value, rest = scores, name
    while rest and isinstance(value, Mapping):
        key = next((k for k in sorted(value, key=len, reverse=True) if f"{rest}.".startswith(f"{k}.")), None)
        if key is None:
            break
        value, rest = value[key], rest[len(key) + 1 :]
    if rest or isinstance(value, bool) or not isinstance(value, int | float | None):
        raise InputError.about(f"{id_}, expected", f"a number of the result, {', '.join(scores)}", repr(name))
    return value


def _content(spec: Any, folders: list[Path]) -> Any:
    """What stands for a file: its path, several paths, the parsed content, or what is made of a file."""
    if isinstance(spec, str):
        return _find(spec, folders)
    if isinstance(spec, list) and all(isinstance(name, str) for name in spec) and spec:
        return [str(_find(name, folders)) for name in spec]
    if not isinstance(spec, Mapping):
        return spec
    for key, make in MADE.items():
        if isinstance(spec.get(key), str):
            return make(_find(spec[key], folders), spec)
    return spec


def _find(name: str, folders: list[Path]) -> Path:
    found = next((folder / name for folder in folders if (folder / name).exists()), None)
    if found is None:
        raise InputError.about(name, f"a file in {', '.join(map(str, folders))}", "none", "give its --data")
    return found


def _answers(path: Path, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = read_json(path)
    return [
        {
            "id": field_of(row, spec["id"], row_name(path, n)),
            "answer": spec["words"] if "words" in spec else words_of(row, spec["answer"], row_name(path, n)),
        }
        for n, row in enumerate(rows)
    ]


def _several(path: Path) -> dict[str, list[str]]:
    return {id_: texts for id_, texts in read_references(path).items() if len(texts) > 1}


MADE: dict[str, Callable[[Path, Mapping[str, Any]], Any]] = {
    "each": _answers,
    "first": lambda path, spec: {id_: texts[0] for id_, texts in _several(path).items()},
    "rest": lambda path, spec: {id_: texts[1:] for id_, texts in _several(path).items()},
}


def compare(records: list[Record], folders: list[Path]) -> Iterator[Figure]:
    """Every figure of the records, one by one, after all files have been found. Raises InputError."""
    for record in records:
        for key in FILES:
            spec = record.arguments.get(key)
            made = [spec[k] for k in MADE if isinstance(spec.get(k), str)] if isinstance(spec, dict) else []
            for name in [spec] if isinstance(spec, str) else made:
                _find(name, folders)
    for record in records:
        yield from figures(record, folders)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.reference", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--list", default=OURS, metavar="FILE", help=f"default: {OURS.name}, beside this")
    parser.add_argument(
        "--data", action="append", metavar="DIR", help="where its paths begin; may be given again"
    )
    parser.add_argument("--only", metavar="ID", help="one record")
    args = parser.parse_args(argv)
    wrong = count = 0
    try:
        records = read_list(args.list)
        chosen = [record for record in records if args.only in (None, record.id)]
        if not chosen:
            raise InputError.about("--only", f"one of {', '.join(r.id for r in records)}", repr(args.only))
        folders = [Path(folder) for folder in args.data or ["."]]
        if missing := [folder for folder in folders if not folder.is_dir()]:
            raise InputError.about("--data", "a folder", str(missing[0]))
        print(f"{'record':<34}{'figure':<36}{'published':>22}{'ours':>22}  agrees")
        for figure in compare(chosen, folders):
            count += 1
            wrong += not figure.reproduced
            shown = f"{figure.published!s:>22}{figure.ours!r:>22}"
            print(f"{figure.set_id:<34}{figure.name:<36}{shown}  {'yes' if figure.reproduced else 'NO'}")
    except (InputError, OSError) as problem:
        print(f"eval: {problem}", file=sys.stderr)
        return 2
    print(f"{count - wrong} of {count} figures reproduced to every digit given")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

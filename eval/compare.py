"""`python -m eval.compare DIR DIR …`: results of `eval.run` on the same items, side by side in one table.

    | model | AP | Acc | ms a region | trained | all parameters |

`ms a region` is what the model took, pictures read and decoded beforehand: the median over pictures of the
picture's seconds by its regions, so the first picture, which pays for start-up, does not decide it. `trained`
are the parameters that training changes, see `eval.recognizers.parameters`. Detection has a column for where
the regions are from (runs with several sources may stand in one table) and `ms a picture`, which includes
finding them.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.store import FINAL, read_rows
from rgpt.errors import InputError
from rgpt.formats.outward import markdown_text

FIGURES = {
    "mAP": "AP", "AP": "AP", "AP50": "AP50", "AP_base": "AP base", "AP_novel": "AP novel",
    "AP50_base": "AP50 base", "AP50_novel": "AP50 novel", "APr": "APr", "APc": "APc", "APf": "APf",
    "accuracy": "Acc",
}  # fmt: skip
MAY_DIFFER = ("guide", "closed", "dtype", "vocabulary", "proposals")
"""Options of a run that only some models have."""


def folder_name(model: str) -> str:
    """A model's name as the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model"


def read_row(folder: Path) -> dict[str, Any]:
    """What the table says of one finished run. Raises InputError when the folder holds none."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        rows = read_rows(folder / FINAL)
        row = {key: run[key] for key in ("model", "task", "protocol", "args", "parameters")}
    except (OSError, ValueError, KeyError) as error:
        raise InputError.about(
            str(folder),
            "a finished run of eval.run",
            f"{type(error).__name__}: {error}"[:120],
            "run it to its end, with --out",
        ) from error
    seconds: dict[str, list[float]] = {}
    for answer in rows:
        seconds.setdefault(str(answer["image_id"]), []).append(answer["seconds"])
    pictures = [statistics.fmean(values) for values in seconds.values()]
    figures = {name: scores.get(name) for name in FIGURES}
    milliseconds = 1000 * statistics.median(pictures) if pictures else None
    return {**row, **figures, "ms": milliseconds, "n": scores["n"], "failed": scores["failed"]}


def check_same(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rows of other items, or other questions. Raises InputError naming the option."""
    first = rows[0]
    for row in rows[1:]:
        for key in ("task", "protocol", "n"):
            if row[key] != first[key]:
                raise _unlike(row, key, first[key], row[key], first["model"])
        options = sorted({*first["args"], *row["args"]} - set(MAY_DIFFER))
        for key in options:
            if row["args"].get(key) != first["args"].get(key):
                raise _unlike(row, f"--{key}", first["args"].get(key), row["args"].get(key), first["model"])


def _unlike(row: Mapping[str, Any], what: str, expected: Any, actual: Any, other: str) -> InputError:
    return InputError.about(
        f"{what} of {row['model']}",
        f"{expected!r}, as of {other}",
        repr(actual),
        "compare runs on the same items",
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; figures as shares of one."""
    shown = [name for name in FIGURES if any(row.get(name) is not None for row in rows)]
    first = rows[0]
    found = first["task"] == "detection"  # then a row says, too, where its regions are from
    item = "picture" if found else "region"
    titles = ["model", *["regions from"] * found, *(FIGURES[n] for n in shown)]
    titles += [f"ms a {item}", "trained", "all parameters"]
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---|" * (len(titles) - 1)]
    for row in rows:
        cells = ["–" if row.get(n) is None else f"{row[n]:.4f}" for n in shown]
        cells.append("–" if row["ms"] is None else f"{row['ms']:.2f}")
        cells += [f"{row['parameters'][k]:,}" for k in ("trained", "all")]
        origin = [markdown_text(row["args"].get("proposals") or "itself")] * found
        cells = [markdown_text(row["model"]), *origin, *cells]
        lines.append("| " + " | ".join(cells) + " |")
    failed = ", ".join(f"{markdown_text(row['model'])} {row['failed']}" for row in rows if row["failed"])
    lines += ["", f"{first['task']}, {first['n']} {item}s, protocol {markdown_text(first['protocol'])}"]
    return "\n".join(lines) + (f"; failed: {failed}" if failed else "")


def main(argv: list[str] | None = None) -> int:
    """The command. 0, or 2 and one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m eval.compare", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders given to eval.run --out")
    try:
        rows = [read_row(folder) for folder in parser.parse_args(argv).runs]
        check_same(rows)
    except InputError as problem:
        print(f"eval: {problem}", file=sys.stderr)
        return 2
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

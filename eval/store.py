"""A predictions folder: rows are added picture by picture, a run that was stopped goes on where it was.

    run.json            model, revision, task, protocol and options, on one line
    gt.json             the ground truth, where it was made and not given as a file
    predictions.jsonl   one row an item
    scores.json, report.md, mistakes.png

Each process of a run writes a file of its own (process 0 the final one), so none waits for another; at the
end process 0 puts all rows into the order of the data. The order in which pictures are asked, and by how many
processes, therefore leaves no trace but the seconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.tasks.base import Picture
from rgpt.errors import InputError
from rgpt.files import write_text
from rgpt.formats.jsonl import dump_line, parse_line

FINAL = "predictions.jsonl"


class Store:
    """The folder of one run, as process `rank` of `world` sees it."""

    def __init__(self, folder: Path, rank: int = 0, world: int = 1) -> None:
        self.folder, self.rank, self.world = folder, rank, world
        self.file = folder / (FINAL if rank == 0 else f"predictions.{rank}.part.jsonl")

    def open(self, run: Mapping[str, Any]) -> None:
        """Make the folder, or check that it belongs to this run; process 0 only, before all others.

        Raises:
            InputError: the folder holds something else, or predictions of another model, task or options.
        """
        run = json.loads(json.dumps(run))
        file = self.folder / "run.json"
        if file.is_file():
            before = _json(file)
            unlike = [k for k in {**before, **run} if before.get(k) != run.get(k)]
            if unlike:
                raise InputError.about(
                    f"--out {str(self.folder)!r}",
                    f"a run with {unlike[0]} = {_short(run.get(unlike[0]))}",
                    f"predictions with {_short(before.get(unlike[0]))}",
                    "name another folder, or remove this one",
                )
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError.about(
                f"--out {str(self.folder)!r}",
                "a new or empty folder, or one with a run.json",
                "something else",
                "name another",
            )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(file, dump_line(run))
        rows = self._all_rows()
        self._write(rows)

    def rows(self) -> list[dict[str, Any]]:
        """What the final file holds. Raises InputError when it is not what a run writes."""
        return read_rows(self.folder / FINAL)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append the rows of one picture to this process's file."""
        text = "".join(map(dump_line, rows))
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(text)

    def finish(self, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
        """Gather what all processes wrote, in the order of `pictures`; process 0 only, after all others."""
        place = {str(picture.id): k for k, picture in enumerate(pictures)}
        rows = [row for row in self._all_rows() if str(row["image_id"]) in place]
        rows.sort(key=lambda row: place[str(row["image_id"])])
        self._write(rows)
        return rows

    def _all_rows(self) -> list[dict[str, Any]]:
        """Rows of every file; of an item answered twice, the first."""
        found: dict[str, dict[str, Any]] = {}
        for file in (self.folder / FINAL, *sorted(self.folder.glob("predictions.*.part.jsonl"))):
            for row in read_rows(file):
                found.setdefault(row["id"], row)
        return list(found.values())

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        write_text(self.folder / FINAL, "".join(map(dump_line, rows)))
        for part in self.folder.glob("predictions.*.part.jsonl"):
            part.unlink()


def to_do(
    pictures: Sequence[Picture], rows: Sequence[Mapping[str, Any]], retry_failed: bool = False
) -> tuple[list[Picture], list[dict[str, Any]]]:
    """The pictures not answered yet, and the rows to keep: a picture is asked as a whole or not at all.

    Where the number of questions is not known beforehand, the last picture of the file is asked again: its
    rows may be cut off.
    """
    ids: dict[str, list[str]] = {}
    failed = set()
    for row in rows:
        ids.setdefault(str(row["image_id"]), []).append(str(row["id"]))
        if "failed" in row:
            failed.add(str(row["image_id"]))
    last = str(rows[-1]["image_id"]) if rows else None
    left, done = [], set()
    for picture in pictures:
        key = str(picture.id)
        known = ids.get(key, [])
        whole = bool(known) and (key != last if picture.ids is None else set(picture.ids) <= set(known))
        if whole and not (retry_failed and key in failed):
            done.add(key)
        else:
            left.append(picture)
    return left, [dict(row) for row in rows if str(row["image_id"]) in done]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Rows of a file of ours; a last line that was cut off is dropped, and said so.

    Raises:
        InputError: naming the line, when one before the last is no row.
    """
    if not file.is_file():
        return []
    lines = file.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_line(line)
            if not isinstance(row, dict) or not {"id", "image_id"} <= set(row):
                raise ValueError("no id or image_id")
        except ValueError as problem:
            if number == len(lines):
                print(f"eval: {file}:{number} was cut off and is asked again", file=sys.stderr)
                continue
            raise InputError.about(
                f"{file}:{number}",
                "one row of predictions",
                str(problem)[:80],
                "remove the line, and its item is asked again",
            ) from problem
        rows.append(row)
    return rows


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError.about(str(path), "the options of a run", "no JSON object", "name another folder")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

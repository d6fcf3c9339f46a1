"""What a run leaves to read: log.jsonl, the loss curve, answers, bad samples, versions."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rgpt import __version__
from rgpt.files import whole_file, write_text
from rgpt.formats.jsonl import BrokenLine, dump_line, numbered_lines, parse_line

LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "peft", "numpy", "tokenizers")


def versions() -> dict[str, Any]:
    """Git revision of this code (with `+` when files differ from it), Python and libraries."""
    root = Path(__file__).parents[2]
    found: dict[str, Any] = {"python": platform.python_version(), "rgpt": __version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    revision = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    found["revision"] = revision and revision + ("+" if changed else "")
    return found


def _git(root: Path, *words: str) -> str | None:
    try:
        run = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL log, up to the first line that is none, as one is that a kill cut short."""
    rows: list[dict[str, Any]] = []
    if path.is_file():
        with suppress(BrokenLine):
            for _, line in numbered_lines(path):
                row = parse_line(line)
                if not isinstance(row, dict) or not isinstance(row.get("step", 0), int):
                    break
                rows.append(row)
    return rows


def cut_log(path: Path, step: int) -> None:
    """Forget what was logged after `step`: it will be computed, and logged, again."""
    rows = [row for row in read_log(path) if row.get("step", 0) <= step]
    if path.is_file():
        write_text(path, "".join(map(dump_line, rows)))


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row. JSON has no NaN: numbers that are not finite are left out."""
    row = {key: value for key, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(dump_line(row))


def draw_curve(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """The loss by step, training and held out, and held-out accuracy, as a PNG; lines where a step was passed
    over."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120)
    for key, label in (("loss", "training"), ("held_out_loss", "held out")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if key != "loss" else None, ms=3)
    for number, row in enumerate(row for row in rows if "nonfinite" in row):
        label = "_" if number else "not finite, passed over"  # the legend leaves out "_"
        axes.axvline(row["step"], color="red", lw=0.8, ls=":", label=label)
    axes.set(title=title, xlabel="step", ylabel="loss a token (nats)")
    axes.grid(alpha=0.3)
    lines = list(axes.get_lines())
    if right := [(row["step"], row["held_out_accuracy"]) for row in rows if "held_out_accuracy" in row]:
        share = axes.twinx()
        share.set(ylim=(0, 1), ylabel="right answers")
        lines += share.plot(*zip(*right, strict=True), label="held-out accuracy", marker="o", ms=3, c="C2")
    if lines:
        axes.legend(handles=[line for line in lines if not str(line.get_label()).startswith("_")])
    figure.tight_layout()
    with whole_file(path) as partial:
        figure.savefig(partial)
    pyplot.close(figure)


def answer_table(rows: Sequence[dict[str, str]], step: int) -> str:
    """Question, true answer, model's answer, as lines of text."""
    lines = [f"held-out answers at step {step}"]
    for row in rows:
        lines += [f"  {row['question']}", f"    true   {row['truth']}", f"    model  {row['answer']}"]
    return "\n".join(lines)

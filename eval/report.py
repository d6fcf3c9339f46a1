"""A report for people: what was asked of which model and how, figures with n, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rgpt.formats.outward import markdown_code, markdown_text

TITLES = {
    "confusion.png": "Confusion: true class by row, answer by column",
    "detections.png": "What was found on the first pictures, the surest by name",
    "mistakes.png": "Worst mistakes: wrong answers, the most confident first",
}
CLASSES = 40
"""Rows of the per-class table: the commonest classes."""
CONFUSED = 12
"""Classes along a side of the confusion table."""


def markdown(
    run: Mapping[str, Any], scores: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], shown: Sequence[str]
) -> str:
    """The report. Every figure in it comes from `scores`."""
    lines = [f"# {run['task']}: {markdown_text(run['model'])}", ""]
    lines += [
        f"- model revision: {markdown_code(run['revision'])}",
        f"- protocol: {markdown_text(run['protocol'])}",
        f"- items: {scores.get('n')}, failed: {scores.get('failed')}",
        f"- seconds an item: {sum(r['seconds'] for r in rows) / max(1, len(rows)):.3f}",
        "- options: " + ", ".join(markdown_code(f"{k}={v}") for k, v in run["args"].items() if v is not None),
        f"- again: {markdown_code(run['command'])}",
        "",
        "| figure | value |",
        "|---|---|",
    ]
    lines += [
        f"| {name} | {'–' if value is None else f'{value:.4f}' if isinstance(value, float) else value}"
        f"{between(scores, name)} |"
        for name, value in scores.items()
        if value is None or isinstance(value, int | float | str)
    ]
    for title, key in (("By size", "per_size"), ("By frequency", "per_frequency"), ("By class", "per_class")):
        if table := scores.get(key):
            lines += ["", f"## {title}", "", *_table(table)]
    if scores.get("confusions"):
        lines += ["", "## Confusions", "", *_confusions(scores)]
    failed = [row for row in rows if "failed" in row]
    if failed:
        lines += ["", f"## Failed items ({len(failed)})", ""]
        lines += [f"- {markdown_code(row['id'])}: {markdown_text(row['failed'])}" for row in failed[:20]]
        if len(failed) > 20:
            lines.append(f"- … and {len(failed) - 20} more, in predictions.jsonl")
    for name in shown:
        lines += ["", f"## {TITLES[name]}", "", f"![{TITLES[name]}]({name})"]
    return "\n".join(lines) + "\n"


def between(scores: Mapping[str, Any], name: str) -> str:
    """The 95% interval of a figure, where there is one."""
    interval = (scores.get("intervals") or {}).get(name)
    return f"  ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""


def _table(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    shown = sorted(table.items(), key=lambda pair: -int(pair[1].get("n", 0)))[:CLASSES]
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, row in shown:
        cells = [row.get(column) for column in columns]
        text = ["–" if c is None else f"{c:.4f}" if isinstance(c, float) else str(c) for c in cells]
        lines.append(f"| {markdown_text(name)} | " + " | ".join(text) + " |")
    if len(table) > len(shown):
        lines += ["", f"The {len(shown)} commonest of {len(table)}; all are in scores.json."]
    return lines


def _confusions(scores: Mapping[str, Any]) -> list[str]:
    """True class in rows, answer in columns, for the classes most often confused."""
    counts = {(true, said): n for true, said, n in scores["confusions"]}
    weight: dict[str, int] = {}
    for (true, said), n in counts.items():
        for name in (true, said):
            weight[name] = weight.get(name, 0) + n
    names = sorted(sorted(weight, key=lambda name: (-weight[name], name))[:CONFUSED])
    lines = [
        "| true \\ said | " + " | ".join(map(markdown_text, names)) + " |",
        "|---|" + "---|" * len(names),
    ]
    for true in names:
        cells = [str(counts.get((true, said), "·")) for said in names]
        lines.append(f"| {markdown_text(true)} | " + " | ".join(cells) + " |")
    return lines

"""README.md beside a run's weights: what they were trained on and how, and what was measured on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rgpt.train.arguments import Run

POINTS = 10
"""Rows of the loss table, spread over the run."""


def model_card(
    run: Run,
    inputs: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    about_samples: str,
    best: tuple[float, int] | None = None,
) -> str:
    """Markdown.

    Args:
        inputs: by name, what `rgpt.train.inputs.inputs_of` found.
        rows: of log.jsonl.
        about_samples: how many were skipped and cut, in words.
        best: least held-out loss, and its step.
    """
    lines = [
        f"# A RegionGPT, stage {run.stage}",
        "",
        f"Trained on `{run.model}` with method {run.method}, objective {run.objective}, in {run.precision}.",
        "`run.yaml` has every setting, `versions.json` the code and libraries, `inputs.json` all hashes.",
        "",
        "| read | bytes | SHA-256 |",
        "|---|---|---|",
    ]
    for name, facts in inputs.items():
        size = f"{facts['size']:,}" if "size" in facts else ""
        lines.append(f"| {name} | {size} | `{facts['sha256'][:16]}…` |")
    lines += ["", f"{about_samples}.", "", "| step | loss | held-out loss |", "|---|---|---|"]
    held_out = {row["step"]: row["held_out_loss"] for row in rows if "held_out_loss" in row}
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    steps = sorted(losses)
    chosen = {*steps[:: max(1, len(steps) // POINTS)], *steps[-1:], *held_out}
    for step in sorted(chosen):
        cells = [f"{each[step]:.4f}" if step in each else "" for each in (losses, held_out)]
        lines.append(f"| {step} | {cells[0]} | {cells[1]} |")
    if best is not None and run.keep_best:
        lines += ["", f"These are the weights of step {best[1]}, whose held-out loss was the least."]
    passed_over = sum("nonfinite" in row for row in rows)
    if passed_over:
        lines += ["", f"{passed_over} steps were passed over because loss or gradient was not finite."]
    lines += ["", "Losses are nats a learned token. No task was scored here: `python -m eval.run` does that."]
    return "\n".join(lines) + "\n"

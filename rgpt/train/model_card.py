"""README.md beside a run's weights: what they were trained on and how, and what was measured on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rgpt.formats.outward import markdown_code, markdown_text
from rgpt.train.arguments import Run

if TYPE_CHECKING:
    from rgpt.train.evaluation import Best

POINTS = 10
"""Rows of the loss table, spread over the run."""


def model_card(
    run: Run,
    inputs: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    about_samples: str,
    best: Best | None = None,
) -> str:
    """Markdown.

    Args:
        inputs: by name, what `rgpt.train.inputs.inputs_of` found.
        rows: of log.jsonl.
        about_samples: how many were skipped and cut, in words.
        best: the best look at the held-out samples.
    """
    lines = [
        f"# A RegionGPT, stage {run.stage}",
        "",
        f"Trained on {markdown_code(run.model)} with method {run.method}, objective {run.objective}, "
        f"in {run.precision}.",
        "`run.yaml` has every setting, `versions.json` the code and libraries, `inputs.json` all hashes.",
        "",
        "| read | bytes | SHA-256 |",
        "|---|---|---|",
    ]
    for name, facts in inputs.items():
        size = f"{facts['size']:,}" if "size" in facts else ""
        lines.append(f"| {markdown_text(name)} | {size} | `{facts['sha256'][:16]}…` |")
    lines += ["", f"{about_samples}.", ""]
    keys = {"loss": "loss", "held_out_loss": "held-out loss"}
    if run.held_out is not None and run.held_out.accuracy:
        keys["held_out_accuracy"] = "held-out accuracy"
    lines += [f"| step | {' | '.join(keys.values())} |", f"|---|{'---|' * len(keys)}"]
    curves = {key: {row["step"]: row[key] for row in rows if key in row} for key in keys}
    steps = sorted(curves["loss"])
    chosen = {*steps[:: max(1, len(steps) // POINTS)], *steps[-1:], *curves["held_out_loss"]}
    for step in sorted(chosen):
        cells = [f"{curve[step]:.4f}" if step in curve else "" for curve in curves.values()]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    if best is not None and run.keep_best:
        lines += ["", f"These are the weights of step {best.step}, whose held-out {best}."]
    passed_over = sum("nonfinite" in row for row in rows)
    if passed_over:
        lines += ["", f"{passed_over} steps were passed over because loss or gradient was not finite."]
    lines += [
        "",
        "Losses are nats a learned token; accuracy is the share of right greedy answers among those",
    ]
    lines[-1] += (
        " that have one (yes or no, a region, a count, a name). `python -m eval.run` scores whole tasks."
    )
    return "\n".join(lines) + "\n"

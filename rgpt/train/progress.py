"""What a person sees while a run goes on, and what stays of it: a bar, log.jsonl, curve.png."""

from __future__ import annotations

import contextlib
import importlib.util
import netrc
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from rgpt.train import record

SHOWN = ("loss", "held_out_loss", "held_out_accuracy", "tokens_per_second", "mfu")


class Record(TrainerCallback):
    """A bar with the time left on stderr, one row a log in log.jsonl, the curve however it ends."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder, self.title = folder, title
        self._bar: Any = None
        self._shown: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)  # a checkpoint's state holds those of the run before it
        if state.is_world_process_zero:
            record.cut_log(self.folder / "log.jsonl", state.global_step)
            record.cut_log(self.folder / "answers.jsonl", state.global_step)
            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self.title, unit="step", mininterval=1
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        record.append(self.folder / "log.jsonl", {"step": state.global_step, **logs})
        if self._bar is not None:
            self._shown.update({key: logs[key] for key in SHOWN if key in logs})
            self._bar.set_postfix_str(" ".join(f"{k} {v:.4g}" for k, v in self._shown.items()), refresh=False)

    def close(self) -> None:
        """End the bar's line and draw the curve."""
        if self._bar is None:
            return
        self._bar.close()
        self._bar = None
        rows = record.read_log(self.folder / "log.jsonl")
        with contextlib.suppress(OSError):  # the run may be ending because the disk is full
            record.draw_curve(rows, self.folder / "curve.png", self.title)


def trackers() -> list[str]:
    """TensorBoard, and Weights & Biases where it is installed and somebody is logged in."""
    found = []
    if importlib.util.find_spec("tensorboard"):
        found.append("tensorboard")
    if importlib.util.find_spec("wandb") and (os.environ.get("WANDB_API_KEY") or _in_netrc("api.wandb.ai")):
        found.append("wandb")
    return found


def _in_netrc(host: str) -> bool:
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False

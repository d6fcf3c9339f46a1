"""Runs of two ranks: `python -m tests.train.two_ranks RUN.yaml[:WHAT:STEP] ...` prints exit codes.

The libraries are imported once and ranks are forked. WHAT comes to the second rank alone, after that step: a
signal, or `infinite`, a gradient that is not finite although the loss is.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainerCallback

import rgpt.train.trainer  # noqa: F401 - before forking
from rgpt.train import run
from scripts.bench_equal import start, wait


class InfiniteGradient(TrainerCallback):
    """Of one parameter in one step of the second rank."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.hooks: list[Any] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.after and args.process_index == 1:
            last = [parameter for parameter in model.parameters() if parameter.requires_grad][-1]
            self.hooks.append(last.register_hook(lambda gradient: torch.full_like(gradient, torch.inf)))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        while self.hooks:
            self.hooks.pop().remove()


def with_more(plain: Any, added: list[Any], *given: Any) -> list[Any]:
    return [*plain(*given), *added]


def main(words: list[str]) -> None:
    codes = []
    plain = run.callbacks
    for word in words:
        path, _, asked = word.partition(":")
        name, _, step = asked.partition(":")
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        added = [InfiniteGradient(int(step))] if name == "infinite" else []
        run.callbacks = partial(with_more, plain, added)
        ranks = start(settings, 2)
        if name.startswith("SIG") and wait(ranks, Path(settings["out"]), int(step)):
            os.kill(ranks[1].pid, signal.Signals[name])
        for rank in ranks:
            rank.join(300)
        codes.append([rank.exitcode for rank in ranks])
    print(json.dumps(codes))


if __name__ == "__main__":
    main(sys.argv[1:])

"""`python -m rgpt.train.recognizers CONFIG.yaml`: train one recognizer, write it to the config's `out`.

Any number of processes: `accelerate launch --num_processes 8 -m rgpt.train.recognizers CONFIG.yaml`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rgpt.errors import InputError
from rgpt.files import check_writable, sole_writer
from rgpt.train.leaving import Left, leaving

LEAVE_SECONDS = 25.0
"""From SIGTERM or Ctrl-C to a checkpoint: Slurm and Kubernetes kill after 30."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the config, train, save; 2 when something given was wrong."""
    parser = argparse.ArgumentParser(prog="python -m rgpt.train.recognizers", description=__doc__)
    parser.add_argument("config", nargs="+", help="YAML files, run one after another")
    parser.add_argument("--out", help="instead of the config's (one config only)")
    parser.add_argument("--steps", type=int, help="instead of the config's")
    parser.add_argument("--resume", action="store_true", help="go on from <out>/checkpoint")
    options = parser.parse_args(arguments)
    try:
        if options.out and len(options.config) > 1:
            raise InputError("--out: expected a single config with it, got several; leave it out.")
        from rgpt.train.recognizers.config import read_config

        configs = [read_config(path, out=options.out, steps=options.steps) for path in options.config]
        with leaving.heard(lambda: "begin again, or --resume where there is a checkpoint"):
            for config in configs:
                run(config, options.resume)
    except (InputError, Left) as error:
        print(f"rgpt.train.recognizers: {' '.join(str(error).split())}", file=sys.stderr)
        return error.status if isinstance(error, Left) else 2
    return 0


def run(config, resume: bool = False) -> None:  # type: ignore[no-untyped-def]
    """One run: data, recipe, steps, result."""
    from rgpt.train.recognizers.data import Batches, open_data
    from rgpt.train.recognizers.loop import fit
    from rgpt.train.recognizers.recipes import open_recipe

    check_writable(config.out)
    sources = [open_data(settings) for settings in config.data]
    recipe = open_recipe(config)
    trained = sum(p.numel() for p in recipe.parameters() if p.requires_grad)
    first = int(os.environ.get("RANK", "0")) == 0  # of several processes one writes
    if first:
        print(f"{config.recipe}: {trained:,} parameters train, {config.steps:,} steps", file=sys.stderr)
    out = Path(config.out)
    with contextlib.ExitStack() as held:
        if first and not resume:
            out.mkdir(parents=True, exist_ok=True)
        if first and out.is_dir():
            held.enter_context(sole_writer(out))
        with leaving.deferred(LEAVE_SECONDS, lambda: "the last checkpoint is whole; --resume goes on"):
            history = fit(recipe, Batches(sources, config.batch_size, config.seed), config, resume)
        if first:
            recipe.eval().cpu()
            recipe.save(out)
    if first:
        said = (
            f"loss {history[0]['loss']:.4f} -> {history[-1]['loss']:.4f}" if history else "no step was left"
        )
        print(f"{config.out}: {said}")


if __name__ == "__main__":
    sys.exit(main())

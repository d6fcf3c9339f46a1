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
from typing import TYPE_CHECKING

from rgpt.errors import InputError
from rgpt.files import sole_writer
from rgpt.train.leaving import Left, command_to_continue, leaving

if TYPE_CHECKING:
    from rgpt.train.recognizers.config import RunConfig

LEAVE_SECONDS = 25.0
"""From SIGTERM or Ctrl-C to a checkpoint: Slurm and Kubernetes kill after 30."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the config, train, save; 2 when something given was wrong."""
    parser = argparse.ArgumentParser(prog="python -m rgpt.train.recognizers", description=__doc__)
    parser.add_argument("config", nargs="+", help="YAML files, run one after another")
    parser.add_argument("--out", help="instead of the config's (one config only)")
    parser.add_argument("--steps", type=int, help="instead of the config's")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in <out>")
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="with --resume: go on although data or models have changed, and record it",
    )
    options = parser.parse_args(arguments)
    try:
        if options.out and len(options.config) > 1:
            raise InputError("--out: expected a single config with it, got several; leave it out.")
        if options.accept_changed_data and not options.resume:
            raise InputError("--accept-changed-data: expected --resume with it; a new run needs none.")
        from rgpt.train.recognizers.config import read_config

        configs = [read_config(path, out=options.out, steps=options.steps) for path in options.config]
        with leaving.heard(lambda: f"go on with {command_to_continue()}"):
            for config in configs:
                run(config, options.resume, options.accept_changed_data)
    except (InputError, Left) as error:
        if os.environ.get("RANK", "0") == "0" or not said_by_all(error):
            print(f"rgpt.train.recognizers: {' '.join(str(error).split())}", file=sys.stderr)
        return error.status if isinstance(error, Left) else 2
    return 0


def run(config: RunConfig, resume: bool = False, accept_changed_data: bool = False) -> None:
    """One run: data, recipe, steps, result. Raises InputError and Left, as `fit`."""
    from rgpt.train.endings import last_checkpoint, one_sentence
    from rgpt.train.environment import launched, refuse_contradictions
    from rgpt.train.inputs import check_out, compare_inputs, record_inputs
    from rgpt.train.recognizers.config import inputs_of, refuse_other_config
    from rgpt.train.recognizers.data import Batches, open_data
    from rgpt.train.recognizers.loop import fit
    from rgpt.train.recognizers.recipes import open_recipe

    rank, _ = launched()
    precision = {"ACCELERATE_MIXED_PRECISION": {config.precision}}
    refuse_contradictions(os.environ, config.precision == "no", precision)
    out, first = Path(config.out), rank == 0  # of several processes one writes
    going_on = False
    if first:
        going_on = check_out(out, resume)
        if going_on:
            refuse_other_config(config, out / "run.yaml")
        elif resume:
            print(f"--resume: {out} holds no run yet; this one begins at its first step", flush=True)
    with contextlib.ExitStack() as held:
        held.enter_context(one_sentence(out))
        sources = [open_data(settings) for settings in config.data]
        recipe = open_recipe(config)
        inputs = inputs_of(config)
        trained = sum(p.numel() for p in recipe.parameters() if p.requires_grad)
        if first:
            print(f"{config.recipe}: {trained:,} parameters train, {config.steps:,} steps", file=sys.stderr)
            if going_on:
                compare_inputs(out, inputs, accept_changed_data)
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(sole_writer(out))
            check_out(out, resume)  # another process may have been at it meanwhile
            record_inputs(out, inputs)
        with leaving.deferred(LEAVE_SECONDS, lambda: last_checkpoint(out)):
            history = fit(recipe, Batches(sources, config.batch_size, config.seed), config, resume, inputs)
            if first:
                recipe.eval().cpu()
                recipe.save(out)
    if first:
        said = (
            f"loss {history[0]['loss']:.4f} -> {history[-1]['loss']:.4f}" if history else "no step was left"
        )
        print(f"{config.out}: {said}")


def said_by_all(error: BaseException) -> bool:
    """Whether every process raises it, so that one may speak for them."""
    from rgpt.train.endings import Ended

    return isinstance(error, Ended | Left)


if __name__ == "__main__":
    sys.exit(main())

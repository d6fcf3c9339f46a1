"""The training loop of all recognizers, on accelerate: any number of processes, bf16/fp16, resumable.

State is written as safetensors and JSON, never pickled: `model.safetensors`, `optimizer.safetensors`,
`state.json` in `<out>/checkpoints/checkpoint-N`, with the hashes of all. A batch and all random numbers of a
step are decided by the step (those of torch's own generator by the process, too), so a resumed run goes on as
if it had not stopped; under fp16 but for the gradient scaler, which finds its scale again.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rgpt.errors import InputError
from rgpt.formats.jsonl import dump_line
from rgpt.train import checkpoints
from rgpt.train.endings import Ended, gathered, last_checkpoint, not_finite, refuse_ranks_that_differ, summed
from rgpt.train.leaving import Left, leaving
from rgpt.train.recognizers.config import RunConfig, write_config
from rgpt.train.recognizers.data import Batches
from rgpt.train.record import cut_log

KEEP = 2
"""Checkpoints: should the newest be damaged, the run goes on from the one before."""
UNUSED = ("regionclip-transfer", "rovit-detector", "sam")
"""Recipes whose step may leave a head without gradient: no masks, no positive region, one of SAM's heads."""
NO_DECAY = ("bias", "positions", "positional_embedding", "logit", "temperature", "log_theta")


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters in two groups: decayed, and norms, biases, positions and scalars without decay.

    A module may name more that does not decay: `undecayed`, beginnings of parameters' names.
    """
    spared: tuple[str, ...] = getattr(module, "undecayed", ())  # type: ignore[assignment]
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            free = parameter.dim() < 2 or any(word in name.rpartition(".")[2] for word in NO_DECAY)
            free = free or name.startswith(spared)
            (plain if free else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def build_optimizer(module: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over `parameter_groups`. Raises InputError when nothing trains."""
    groups = parameter_groups(module, config.weight_decay)
    if not any(group["params"] for group in groups):
        raise InputError(f"recipe {config.recipe}: nothing is to be trained; unfreeze something.")
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, config.learning_rate)


def fit(
    recipe: nn.Module,
    batches: Batches,
    config: RunConfig,
    resume: bool = False,
    inputs: Mapping[str, Any] | None = None,
) -> list[dict[str, float]]:
    """Train `recipe`, whose forward takes a `Batch` and returns named losses, and return the logged means.

    A step of which no process has a gradient that is not 0 makes no update: neither decay nor momentum.

    Args:
        inputs: what this process reads, with digests; all processes must have the same.

    Raises:
        InputError: loss, gradient or weights are not finite, which every process hears of before the update,
            nothing was learned in any step, or a checkpoint does not fit.
        Left: the process was asked to leave, and the step that was done is saved.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from tqdm import tqdm

    torch.manual_seed(config.seed)
    unused = DistributedDataParallelKwargs(find_unused_parameters=config.recipe in UNUSED)
    accelerator = Accelerator(mixed_precision=config.precision, kwargs_handlers=[unused])
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:  # they would train copies of their own into one folder
        raise InputError.about(
            "processes",
            f"the {started} that were started to work together",
            f"{accelerator.num_processes} in accelerate's eyes",
            "on a CPU set ACCELERATE_USE_CPU=true",
        )
    refuse_ranks_that_differ({"settings": asdict(config), **(inputs or {})})
    optimizer = build_optimizer(recipe, config)
    out, start = Path(config.out), 0
    if resume:  # first: what cannot go on writes nothing
        checkpoint = checkpoints.newest(out / "checkpoints", accelerator.num_processes)
        start = 0 if checkpoint is None else load_checkpoint(checkpoint, recipe, optimizer)
        if accelerator.is_main_process:
            said = (
                f"from {checkpoint.name}"
                if checkpoint
                else "from the beginning: there is no whole checkpoint"
            )
            print(f"--resume: going on after step {start}, {said}", flush=True)
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        checkpoints.remove_leftovers(out / "checkpoints")
        write_config(config, out)
        cut_log(out / "losses.jsonl", start)
    for group in optimizer.param_groups:
        group["initial_lr"] = config.learning_rate  # what a schedule asks for that begins after step 0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.rate, last_epoch=start - 1)
    recipe.to(accelerator.device)
    wrapped, running = accelerator.prepare(recipe, optimizer)
    wrapped.train()
    history: list[dict[str, float]] = []
    window: dict[str, list[float]] = {}
    learned = start > 0

    def save(step: int) -> None:
        module = accelerator.unwrap_model(wrapped)
        save_checkpoint(out, module, optimizer, step, accelerator.num_processes)

    progress = tqdm(
        range(start, config.steps),
        initial=start,
        total=config.steps,
        desc=config.recipe,
        unit="step",
        disable=None if accelerator.is_main_process else True,
    )
    for step in progress:
        torch.manual_seed(step_seed(config.seed, step, accelerator.process_index))
        batch = batches(step, accelerator.process_index, accelerator.num_processes)
        losses: dict[str, Tensor] = wrapped(batch)
        total = torch.stack(list(losses.values())).sum()
        loss = total.item()
        wrong, leave = summed([not math.isfinite(loss), leaving.asked > 0], total.device)
        if wrong:
            where = gathered([] if math.isfinite(loss) else [f"{loss} in {batch.source}"])
            raise Ended(f"step {step + 1}: the loss is {'; '.join(where)}; lower the learning rate.")
        if leave:
            if accelerator.is_main_process and step > start:
                save(step)
            accelerator.wait_for_everyone()
            raise Left(leaving.asked or signal.SIGTERM, f"stopped after step {step}: {last_checkpoint(out)}")
        running.zero_grad()
        accelerator.backward(total)
        if config.precision != "fp16":  # whose scaler passes such a step over itself
            gradients = {n: p.grad for n, p in wrapped.named_parameters() if p.grad is not None}
            norm = torch.nn.utils.get_total_norm(
                gradients.values()
            )  # summed over processes: the same on each
            if not norm.isfinite():
                name = not_finite(gradients.items()) or "all weights together"
                raise Ended(
                    f"step {step + 1}: the gradient of {name} is not finite; lower the learning rate."
                )
            if not norm:
                running.zero_grad()
            learned = learned or bool(norm)
        clip(accelerator, wrapped, config)
        running.step()
        schedule.step()
        for name, value in {**losses, "loss": total}.items():
            window.setdefault(name, []).append(value.item())
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            means = {name: sum(values) / len(values) for name, values in window.items()}
            rate = float(schedule.get_last_lr()[0])
            history.append({"step": step + 1, "rate": rate, **means})
            progress.set_postfix(loss=f"{means['loss']:.4f}")
            window = {}
            if accelerator.is_main_process:
                with open(out / "losses.jsonl", "a", encoding="utf-8") as stream:
                    stream.write(dump_line(history[-1]))
        due = (step + 1) % config.save_every == 0 or step + 1 == config.steps
        if due and accelerator.is_main_process:
            save(step + 1)
    accelerator.wait_for_everyone()
    check_finite(recipe, config.steps)
    if not learned and config.precision != "fp16":
        raise InputError(
            "nothing was learned: all gradients of all steps were 0; look at the data's regions and names."
        )
    return history


def check_finite(module: nn.Module, step: int) -> None:
    """Raises InputError for weights that are not finite: they are neither saved nor published."""
    if (name := not_finite(module.named_parameters())) is not None:
        raise InputError(f"step {step}: the weights {name} are not finite: lower the learning rate.")


def step_seed(seed: int, step: int, process: int) -> int:
    """The random numbers of one step (dropout, crops): of no other process, and the same after a resume."""
    return random.Random(f"step {seed} {step} {process}").getrandbits(63)


def clip(accelerator: Any, module: nn.Module, config: RunConfig) -> None:
    """Bound the gradients' norm: of the whole model, or of every parameter by itself."""
    if not config.gradient_clip:
        return
    trained = [p for p in module.parameters() if p.grad is not None]
    for group in [[p] for p in trained] if config.clip_per_parameter else [trained]:
        accelerator.clip_grad_norm_(group, config.gradient_clip)


def save_checkpoint(
    out: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, processes: int = 1
) -> None:
    """Parameters, buffers and optimizer, as a folder of `<out>/checkpoints` that appears whole. Raises
    InputError for weights that are not finite."""
    from safetensors.torch import save_file

    check_finite(module, step)
    weights = {k: v.detach().cpu().clone().contiguous() for k, v in module.state_dict().items()}
    states = optimizer.state_dict()["state"]
    kept = {f"{i}.{k}": torch.as_tensor(v).cpu().clone() for i, own in states.items() for k, v in own.items()}
    folder = out / "checkpoints"
    partial = checkpoints.staging(folder, step)
    checkpoints.remove_leftovers(folder)
    partial.mkdir(parents=True)
    save_file(weights, partial / "model.safetensors")
    save_file(kept, partial / "optimizer.safetensors")
    (partial / "state.json").write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")
    # A batch is drawn for each process: with another number of them the run would see other samples.
    checkpoints.publish(partial, folder / f"checkpoint-{step}", step=step, processes=processes, sharded=True)
    checkpoints.tidy(folder, KEEP)


def load_checkpoint(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Read what `save_checkpoint` wrote and return the number of steps done. Raises InputError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(folder / "model.safetensors"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in load_file(folder / "optimizer.safetensors").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return int(json.loads((folder / "state.json").read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError.about(
            f"checkpoint {str(folder)!r}",
            "a whole state of this very run",
            f"{type(error).__name__}: {' '.join(str(error).split())}"[:160],
            "name another out for a new run",
        ) from error

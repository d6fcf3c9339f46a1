"""Runs that must come out the same: how far loss and weights of a run are from those of its plain form.

    python -m scripts.bench equal [--quick] [--json FILE]

A small random model learns drawn scenes in float32. The same run is made again with micro-batches, packing,
checkpointed gradients, data workers, two ranks, ZeRO-2 and ZeRO-3, and interrupted: by SIGKILL at random
moments, and by SIGTERM. What is said to be exact must differ by 0; sums in another order may differ in their
last bits. Processes are forked after the libraries are imported, so that many interruptions take minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from scripts.bench_train import scene_sample
from scripts.measuring import Figure

LIMIT = 900.0
"""Seconds without a step after which a run counts as hanging."""
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
ZERO = "scripts/deepspeed/zero{}.json"


class Case(NamedTuple):
    """One way to make a run: what differs from the plain one, on how many ranks, how often interrupted."""

    name: str
    changes: dict[str, Any]
    ranks: int = 1
    by: signal.Signals | None = None
    times: int = 0
    bound: float = 1e-5


def cases(quick: bool) -> list[tuple[Case, list[Case]]]:
    """(plain run, runs that must equal it). Of a run that is interrupted nothing may differ."""
    variants = [
        Case("the same again", {}, bound=0.0),
        Case("accumulation 4 x 2", {"micro_batch_size": 2}),
        Case("packing rows", {"packing": "rows"}),
        Case("packing one-row", {"packing": "one-row"}),
        Case("gradient checkpointing", {"gradient_checkpointing": True}),
        Case("2 data workers", {"workers": 2}, bound=0.0),
        Case("2 ranks", {"micro_batch_size": 4}, ranks=2),
        Case("2 ranks, ZeRO-2", {"micro_batch_size": 4, "deepspeed": ZERO.format(2)}, ranks=2),
        Case("2 ranks, ZeRO-3", {"micro_batch_size": 4, "deepspeed": ZERO.format(3)}, ranks=2),
    ]
    full = Case("full", {"packing": "none"})
    groups = [(full, [case._replace(changes={**full.changes, **case.changes}) for case in variants])]
    kill, term = signal.SIGKILL, signal.SIGTERM
    for plain, ranks, share in (
        (Case("LoRA with dropout", {**LORA, "workers": 1}), 1, 10),
        (Case("2 ranks", {"micro_batch_size": 4}, 2), 2, 5),
        (Case("2 ranks, ZeRO-2", {"micro_batch_size": 4, "deepspeed": ZERO.format(2)}, 2), 2, 5),
    ):
        times = 1 if quick else share
        groups.append(
            (
                plain,
                [
                    Case(f"{plain.name}, {times} x {by.name}", plain.changes, ranks, by, times, 0.0)
                    for by in (kill, term)
                ],
            )
        )
    return groups[:2] if quick else groups


class Bench:
    """A folder with model and samples, and the runs made in it."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.chance = random.Random(0)
        self.made = 0
        child = multiprocessing.get_context("fork").Process(target=make_inputs, args=(folder,))
        child.start()
        child.join()
        if child.exitcode:
            raise SystemExit("bench: model and samples could not be made.")

    def make(self, case: Case) -> Path:
        """The folder of the finished run."""
        out = self.folder / f"run-{self.made}"
        self.made += 1
        settings = {
            "stage": "tune", "model": str(self.folder / "model"), "skip_stage_1": True, "out": str(out),
            "data": [{"path": str(self.folder / "samples.jsonl")}], "batch_size": 8, "micro_batch_size": 8,
            "max_steps": self.steps, "lr": 1e-3, "precision": "fp32", "max_length": 1024, "workers": 0,
            "log_every": 1, "save_every": 3, "seed": 1, **case.changes,
        }  # fmt: skip
        words: list[str] = []
        interrupted = 0
        for _ in range(case.times):
            processes = start(settings, case.ranks, words)
            at = last_step(out) + self.chance.randint(2, max(3, self.steps // (case.times + 1)))
            if wait(processes, out, at):
                time.sleep(self.chance.uniform(0, 0.2))  # anywhere in a step or a checkpoint
                for process in processes:
                    os.kill(process.pid, case.by)
            for process in processes:
                process.join(LIMIT)
            interrupted += any(process.exitcode for process in processes)
            words = ["--resume"]
        if interrupted < case.times:
            raise SystemExit(f"bench: {case.name}: interrupted {interrupted} times before the run's end.")
        self.finish(settings, case.ranks, words, out)
        return out

    def finish(self, settings: Mapping[str, Any], ranks: int, words: list[str], out: Path) -> None:
        processes = start(settings, ranks, words)
        wait(processes, out, self.steps + 1)
        for process in processes:
            process.join(LIMIT)
        if any(process.exitcode for process in processes):
            tail = Path(f"{out}.output").read_text(errors="replace")[-2000:]
            raise SystemExit(f"bench: a run ended with {processes[0].exitcode}:\n{tail}")


def start(settings: Mapping[str, Any], ranks: int, words: Sequence[str] = ()) -> list[Any]:
    """The processes of a run, one a rank; what they print is in `<out>.output`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = Path(str(settings["out"]) + ".yaml")
    path.write_text(json.dumps(settings))  # JSON is YAML
    made = [
        multiprocessing.get_context("fork").Process(
            target=run_one, args=([str(path), *words], rank, ranks, port, path.with_suffix(".output"))
        )
        for rank in range(ranks)
    ]
    for process in made:
        process.start()
    return made


def wait(processes: list[Any], out: Path, step: int) -> bool:
    """Whether the run came to `step` before it ended."""
    until, seen = time.monotonic() + LIMIT, -1
    while all(process.is_alive() for process in processes):
        if (now := last_step(out)) >= step:
            return True
        if now != seen:
            until, seen = time.monotonic() + LIMIT, now
        if time.monotonic() > until:
            for process in processes:
                process.kill()
            raise SystemExit(f"bench: {out.name} hangs at step {now}; see {out}.output")
        time.sleep(0.05)
    return False


def make_inputs(folder: Path) -> None:
    """A random model with the processor of `tiny`, and 48 samples of drawn scenes."""
    import torch

    from rgpt.data.schema import QuestionAnswer, Sample, write_jsonl
    from rgpt.model import RegionGPTForConditionalGeneration, load

    model, processor = load("tiny")
    config = model.config
    config.text_config.num_hidden_layers, config.text_config.intermediate_size = 1, 128
    torch.manual_seed(0)
    RegionGPTForConditionalGeneration(config).float().save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    samples: list[Sample] = []
    seed = 8_200_000
    while len(samples) < 48:
        seed += 1
        sample = scene_sample(seed, folder, questions=2)
        if sample is None:
            continue
        samples.append(sample)
        samples.append(
            Sample(f"{seed}-text", None, (), (QuestionAnswer("Say red.", "red " * (seed % 7 + 1)),))
        )
    write_jsonl(folder / "samples.jsonl", samples)


def run_one(words: list[str], rank: int, ranks: int, port: int, output: Path) -> None:
    """One rank, in a process of its own."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if ranks > 1:
        os.environ.update({name: str(value) for name, value in where.items()})
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.argv = ["run", *words]
    import torch

    torch.set_num_threads(1)
    from rgpt.train.run import main

    sys.exit(main(words))


def last_step(out: Path) -> int:
    return max(losses(out), default=0)


def losses(out: Path) -> dict[int, float]:
    """Loss by step, as logged."""
    from rgpt.train.record import read_log

    return {row["step"]: row["loss"] for row in read_log(out / "log.jsonl") if "loss" in row}


def difference(plain: Path, other: Path) -> tuple[float, float]:
    """Largest difference of a step's loss, and of a weight."""
    from safetensors.torch import load_file

    one, two = losses(plain), losses(other)
    if one.keys() != two.keys():
        raise SystemExit(f"bench: {other.name} logged other steps than {plain.name}.")
    (first,), (second,) = (list(out.glob("[am]*/*model.safetensors")) for out in (plain, other))
    here, there = load_file(first), load_file(second)
    assert here.keys() == there.keys()
    apart = max(float((here[name].float() - there[name].float()).abs().max()) for name in here)
    return max(abs(one[step] - two[step]) for step in one), apart


def bench_equal(options: argparse.Namespace) -> list[Figure]:
    """Every run beside its plain one."""
    # The ranks are forked from here, and take it from this process; whoever called keeps its own environment.
    with mock.patch.dict(os.environ, {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **os.environ}):
        return _figures(options)


def _figures(options: argparse.Namespace) -> list[Figure]:
    import transformers  # noqa: F401 - before forking, once for all
    from tqdm import tqdm

    import rgpt.train.trainer  # noqa: F401

    figures: list[Figure] = []
    groups = cases(options.quick)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        bench = Bench(Path(name), 8)
        with tqdm(total=sum(1 + len(others) for _, others in groups), desc="runs") as bar:
            for plain, others in groups:
                few, many = (8, 40) if options.quick else (20, 100)
                bench.steps = few if others[0].by is None else many
                first = bench.make(plain)
                bar.update()
                for case in others:
                    loss, weight = difference(first, bench.make(case))
                    figures.append(Figure(f"{case.name}: loss", "nats", [loss], at_most=case.bound))
                    figures.append(Figure("  weights", "", [weight], at_most=100 * case.bound))
                    bar.update()
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m scripts.bench equal`."""
    parser.add_argument("--quick", action="store_true", help="few steps, two interruptions")
    parser.set_defaults(run=bench_equal, repeats=1)

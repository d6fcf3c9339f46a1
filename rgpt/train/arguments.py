"""A training run as one YAML file: typed, unknown keys refused, everything checked before any work.

`RUN.yaml [key=value ...]`: overrides use dots for what is inside (`held_out.every=50`, `data.0.weight=2`).
Paths are relative to the folder the command runs in.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rgpt.errors import InputError
from rgpt.formats.plain_yaml import parse_yaml, read_yaml

METHODS = ("full", "lora", "qlora")
MOST = 10**9
"""Of whatever is counted: beyond it a number is a slip, and libraries overflow."""
CHOICES = {
    "stage": ("align", "tune"),
    "objective": ("answers", "names"),
    "method": METHODS,
    "precision": ("bf16", "fp32"),
    "packing": ("none", "rows", "one-row"),
    "region_form": ("given", "box", "mixed"),
    "on_bad_sample": ("stop", "skip"),
    "on_nonfinite": ("stop", "skip"),
    "keep_best": (None, "loss", "accuracy"),
}


@dataclass
class DataFile:
    """A file of samples; `weight` says how often an epoch sees it (see `rgpt.data.mixture`)."""

    path: str
    weight: float = 1.0
    kind: str | None = None
    images: str | None = None


@dataclass
class HeldOut:
    """Samples that training never sees: every `every` steps the loss of the first `samples`, `answers` shown
    answers, and with `accuracy` the share of right ones among all turns of those samples that have a right
    answer: yes or no, `Region [n]`, a count, a name (`rgpt.answers`)."""

    path: str
    kind: str | None = None
    images: str | None = None
    every: int = 200
    samples: int = 64
    answers: int = 4
    accuracy: bool = False


@dataclass
class Lora:
    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05


@dataclass
class Run:
    """Every setting of a run. Defaults are LLaVA-1.5's where the paper is silent [D].

    stage, model, out: what trains, from which checkpoint, into which new folder. Stage `tune` wants the
        `model/` or `delta/` folder of a finished stage 1, or `skip_stage_1: true`.
    objective: `answers` is the loss of the language model; `names`, in stage align only, pulls region vectors
        towards the word embeddings of their names and runs no language model (`rgpt.train.name_loss`); it
        takes one process.
    delta: of stage `align`, write into `delta/` only what was trained and the name of the model it was
        trained on, in place of a whole `model/`.
    batch_size: samples a step over all processes; accumulation follows from it and `micro_batch_size`.
    lr, connector_lr: of everything, and of refinement, connector and region projector where it differs.
    packing: `rows` (short samples share a row), `one-row` (for FlashAttention), `none`.
    on_bad_sample: `stop` or `skip` (and count) a sample that cannot be read or of which nothing is learned.
    on_nonfinite: `stop` at a loss or gradient that is not finite, or `skip` the update of such a step, of at
        most `nonfinite_in_a_row` in a row.
    features: a folder of `rgpt cache-features`, in place of running the tower.
    deepspeed: a JSON of scripts/deepspeed; null trains without it.
    save_every, save_minutes: a checkpoint every so many steps, and also when the last one is so old.
    keep_best: `loss` (or true) or `accuracy`: the result is that of the step with the least held-out loss or
        the greatest held-out accuracy, kept in `best/` meanwhile; null (or false): of the last step.
    early_stop: end after so many looks at the held-out samples in a row without a better one, by what
        `keep_best` names, else by the loss.
    leave_seconds: what SIGTERM or Ctrl-C gives a run to save a checkpoint in (Slurm and Kubernetes kill after
        30 seconds).
    peak_tflops: of one device, for the share of it that is used (MFU); known GPUs need none.
    """

    stage: str
    model: str
    out: str
    data: list[DataFile]
    held_out: HeldOut | None = None
    skip_stage_1: bool = False
    objective: str = "answers"
    method: str = "full"
    delta: bool = False
    lora: Lora = field(default_factory=Lora)
    batch_size: int = 128
    micro_batch_size: int = 16
    epochs: float = 1.0
    max_steps: int | None = None
    lr: float = 2e-5
    connector_lr: float | None = None
    weight_decay: float = 0.0
    warmup: float = 0.03
    max_grad_norm: float = 1.0
    precision: str = "bf16"
    max_length: int = 2048
    truncation: bool = False
    chat_template: str | None = None
    region_form: str = "mixed"
    packing: str = "rows"
    group_by_length: bool = True
    on_bad_sample: str = "stop"
    on_nonfinite: str = "stop"
    nonfinite_in_a_row: int = 3
    features: str | None = None
    gradient_checkpointing: bool = False
    attention: str | None = None
    deepspeed: str | None = None
    workers: int = 4
    seed: int = 0
    log_every: int = 10
    save_every: int = 500
    save_minutes: float | None = None
    keep_best: str | None = None
    early_stop: int | None = None
    leave_seconds: float = 25.0
    keep: int = 2
    peak_tflops: float | None = None

    def accumulation(self, processes: int) -> int:
        """Micro-batches a step and process. Raises InputError when the batch cannot be cut evenly."""
        steps, rest = divmod(self.batch_size, self.micro_batch_size * processes)
        if rest or not steps:
            raise InputError.about(
                "batch_size",
                f"a multiple of micro_batch_size {self.micro_batch_size} x {processes} processes",
                str(self.batch_size),
                "change one of them",
            )
        return steps

    def to_yaml(self) -> str:
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)


# What may differ between a run and its continuation: nothing that changes which sample is seen when, or how.
FREE_ON_RESUME = {
    "held_out", "workers", "log_every", "save_every", "keep", "peak_tflops", "on_bad_sample", "on_nonfinite",
    "nonfinite_in_a_row", "micro_batch_size", "save_minutes", "leave_seconds",
    "keep_best", "early_stop",
}  # fmt: skip


def read_run(path: Path | str, overrides: Sequence[str] = ()) -> Run:
    """The run of a YAML file with `key=value` overrides applied; values are checked, files not yet.

    Raises InputError for anything unknown, missing, mistyped or out of range.
    """
    values = _settings(Path(path))
    given: set[str] = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise InputError.about("override", "key=value", repr(override), "write it without blanks")
        if key in given:
            _refuse(f"override {key}", "each key once", override, "command line")
        given.add(key)
        _put(values, key, parse_yaml(text, override))
    return run_from(values, str(path))


def run_from(values: Mapping[str, Any], where: str = "run") -> Run:
    """A checked `Run` of plain values. Raises InputError."""
    if isinstance(values.get("keep_best"), bool):
        values = {**values, "keep_best": "loss" if values["keep_best"] else None}
    run = _build(Run, values, where)
    for name, choices in CHOICES.items():
        if getattr(run, name) not in choices:
            _refuse(name, f"one of {', '.join(map(str, choices))}", getattr(run, name), where)
    for name in (
        "batch_size",
        "micro_batch_size",
        "max_steps",
        "max_length",
        "log_every",
        "save_every",
        "keep",
        "nonfinite_in_a_row",
        "early_stop",
    ):
        value = getattr(run, name)
        if value is not None and not 1 <= value <= MOST:
            _refuse(name, f"at least 1 and at most {MOST:,}", value, where)
    for name in (
        "epochs",
        "lr",
        "connector_lr",
        "max_grad_norm",
        "peak_tflops",
        "save_minutes",
        "leave_seconds",
    ):
        value = getattr(run, name)
        if value is not None and not value > 0:
            _refuse(name, "a number above 0", value, where)
    if not 0 <= run.warmup < 1:
        _refuse("warmup", "a share of the steps from 0 to below 1", run.warmup, where)
    for name, most in (("weight_decay", None), ("workers", 1024), ("seed", 2**32 - 1)):
        value = getattr(run, name)
        if value < 0 or (most is not None and value > most):
            _refuse(name, "nothing below 0" + (f" or above {most:,}" if most else ""), value, where)
    if run.leave_seconds > threading.TIMEOUT_MAX:
        _refuse("leave_seconds", f"at most {threading.TIMEOUT_MAX:.0f}", run.leave_seconds, where)
    for number, item in enumerate(run.data):
        if not 0 < item.weight <= MOST:
            _refuse(f"data.{number}.weight", f"a number above 0, at most {MOST:,}", item.weight, where)
    if run.held_out is not None:
        for name, least in (("every", 1), ("samples", 1), ("answers", 0)):
            if not least <= getattr(run.held_out, name) <= MOST:
                _refuse(f"held_out.{name}", f"{least} to {MOST:,}", getattr(run.held_out, name), where)
    for name in ("rank", "alpha"):
        if not 1 <= getattr(run.lora, name) <= MOST:
            _refuse(f"lora.{name}", f"at least 1 and at most {MOST:,}", getattr(run.lora, name), where)
    if not 0 <= run.lora.dropout < 1:
        _refuse("lora.dropout", "a share from 0 to below 1", run.lora.dropout, where)
    if not run.data:
        _refuse("data", "at least one file", "none", where)
    if run.held_out is None and (run.keep_best or run.early_stop):
        _refuse("keep_best and early_stop", "held_out, whose loss or accuracy they go by", "none", where)
    accuracy = run.held_out is not None and run.held_out.accuracy
    if run.keep_best == "accuracy" and not accuracy:
        _refuse("keep_best", "loss, or held_out with accuracy: true", run.keep_best, where)
    if accuracy and run.objective == "names":
        _refuse("held_out.accuracy", "false with objective names, which generates nothing", "true", where)
    if run.objective == "names" and run.stage != "align":
        _refuse("objective", "answers in stage tune: names trains no language model", run.objective, where)
    if run.method != "full" and run.stage == "align":
        _refuse("method", "full in stage align, which trains no language model", run.method, where)
    if run.delta and run.stage != "align":
        _refuse("delta", "false in stage tune, which trains most of the model", "true", where)
    return run


def check_files(run: Run, processes: int = 1) -> None:
    """Refuse what cannot work before anything is loaded: missing files, a stage 1 that is not there.

    Raises InputError.
    """
    run.accumulation(processes)
    if run.objective == "names" and (processes > 1 or run.deepspeed is not None):
        # It calls parts of the model, past what shares gradients between processes.
        _refuse("objective", "answers with several processes or DeepSpeed", run.objective, "run")
    named = [("data", item.path, item.images) for item in run.data]
    if run.held_out:
        named.append(("held_out", run.held_out.path, run.held_out.images))
    for name, path, images in named:
        if not Path(path).is_file():
            _missing(name, path, "an existing file")
        if images is not None and not Path(images).is_dir():
            _missing(f"images of {name}", images, "an existing folder")
    if run.held_out and Path(run.held_out.path).resolve() in {Path(i.path).resolve() for i in run.data}:
        _refuse("held_out", "a file that is not trained on", run.held_out.path, "run")
    if run.deepspeed is not None and not Path(run.deepspeed).is_file():
        _missing("deepspeed", run.deepspeed, "one of scripts/deepspeed/*.json")
    if run.features is not None and not (Path(run.features) / "cache.json").is_file():
        raise InputError.about(
            "features",
            "a folder written by rgpt cache-features",
            f"{run.features!r}, which is none or of an older form",
            "run rgpt cache-features into a new folder",
        )
    if not (Path(run.model) / "config.json").is_file():
        _check_base(run)
    if run.stage == "tune" and not run.skip_stage_1 and stage_of(run.model) != "align":
        raise InputError.about(
            "model of stage tune",
            "the model/ folder of a finished stage-1 run, or its delta/",
            repr(run.model),
            "run scripts/pretrain.sh first, or set skip_stage_1: true for a connector aligned elsewhere",
        )


def _check_base(run: Run) -> None:
    """A model that is an embedded one, or a folder that names its base. Raises InputError."""
    from rgpt.model.bases import FETCHED, PACKAGED, is_layer, lineage  # imports torch

    if run.model not in PACKAGED and run.model not in FETCHED and not is_layer(run.model):
        _missing("model", run.model, "an embedded model or a folder with a RegionGPT")
    _, layers = lineage(run.model)
    if layers and run.method == "qlora":
        raise InputError.about(
            "model of method qlora",
            "a whole model, which is quantised while it is loaded",
            f"{run.model!r}, which names its base",
            "make a plain checkpoint of it with rgpt merge-lora, or use lora",
        )


def stage_of(model: str) -> str | None:
    """The stage whose run wrote this folder, from the run.yaml beside the weights."""
    path = Path(model) / "run.yaml"
    values = read_yaml(path) if path.is_file() else None
    return values.get("stage") if isinstance(values, dict) else None


def refuse_other_run(run: Run, saved: Path) -> None:
    """Raises InputError when `saved` (run.yaml of the run to continue) is not this run."""
    # A setting younger than the run had its default.
    no_default = dataclasses.MISSING
    before = {item.name: item.default for item in dataclasses.fields(Run) if item.default is not no_default}
    before |= _settings(saved)
    now = dataclasses.asdict(run)
    free = FREE_ON_RESUME - (
        {"micro_batch_size"} if run.objective == "names" else set()
    )  # its contrast is in it
    changed = sorted(
        key for key in set(before) | set(now) if before.get(key) != now.get(key) and key not in free
    )
    if changed:
        raise InputError.about(
            f"--resume of {saved.parent}",
            "the settings it began with",
            f"another {', '.join(changed)}",
            "use those, or another out for a new run",
        )


# ------------------------------------------------------------------------------------------- plain values


def _settings(path: Path) -> dict[str, Any]:
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError.about(f"run {str(path)!r}", "key: value lines", type(values).__name__, "see a run")
    return values


def _put(values: Any, key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        if isinstance(values, list) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
            continue
        if not isinstance(values, dict):
            _refuse(f"override {key}", "a key of the run", part, "command line")
        if values.get(part) is None:
            values[part] = {}
        values = values[part]
    if isinstance(values, list) and last.isdigit() and int(last) < len(values):
        values[int(last)] = value
    elif isinstance(values, dict):
        values[last] = value
    else:
        _refuse(f"override {key}", "a key of the run", last, "command line")


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        _refuse(kind.__name__.lower(), "key: value lines", values, where)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    if unknown := [str(key) for key in values if key not in fields]:
        _refuse("keys", f"only {', '.join(fields)}", ", ".join(unknown), where)
    no_default = dataclasses.MISSING
    needed = [n for n, f in fields.items() if f.default is no_default and f.default_factory is no_default]
    if lacking := [name for name in needed if values.get(name) is None]:
        _refuse("keys", f"a value for {', '.join(lacking)}", "none", where)
    hints = typing.get_type_hints(kind)
    return kind(**{key: _typed(hints[key], value, key, where) for key, value in values.items()})


def _typed(hint: Any, value: Any, name: str, where: str) -> Any:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _typed(next(item for item in inside if item is not type(None)), value, name, where)
    if origin is list:
        if not isinstance(value, list):
            _refuse(name, "a list", value, where)
        return [_typed(inside[0], item, f"{name}.{number}", where) for number, item in enumerate(value)]
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{where}, {name}")
    if hint is float and isinstance(value, str):
        try:  # YAML 1.1 reads 2e-5 as text
            value = float(value)
        except ValueError:
            _refuse(name, "a number", value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        _refuse(name, "a finite number", value, where)
    if type(value) is not hint:
        _refuse(name, f"a value of type {hint.__name__}", value, where)
    return value


def _refuse(name: str, expected: str, actual: Any, where: str) -> typing.NoReturn:
    raise InputError.about(f"{name} in {where}", expected, str(actual)[:120], "correct or remove it")


def _missing(name: str, path: str, expected: str) -> typing.NoReturn:
    raise InputError.about(name, expected, f"nothing at {path!r}")

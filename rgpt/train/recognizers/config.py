"""What a run is: one YAML file, typed, unknown keys refused, written back resolved beside the result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.files import write_text
from rgpt.formats.plain_yaml import read_yaml
from rgpt.train.inputs import digest_of, folder_digest

RECIPES = (
    "clip", "sam", "regionspot", "regionclip", "regionclip-transfer", "rovit", "rovit-detector", "proposals",
)  # fmt: skip
OPTIMIZERS = ("adamw", "sgd")
FREE_ON_RESUME = {"out", "steps", "log_every", "save_every"}
"""The rate and the batch of a step follow from the step, so more steps may follow."""
PRECISIONS = ("no", "bf16", "fp16")


@dataclass
class RunConfig:
    """Args:
    recipe: one of RECIPES. out: folder of the result. init: a recognizer's folder to start from.
    model: what the recipe builds, see `rgpt.train.recognizers.recipes`.
    data: data sets, see `rgpt.train.recognizers.data.open_data`; each batch holds one of them, drawn evenly.
    batch_size: pictures a process and step.
    milestones, decay: the rate is multiplied by `decay` at each of these steps.
    warmup, warmup_from: steps of linear warm-up and the share of the rate it starts at.
    gradient_clip: norm; 0 is off. clip_per_parameter: each parameter by itself (detectron2's "norm").
    precision: bf16 or fp16 (with a scaler, which accelerate adds) or no.
    """

    recipe: str
    out: str
    init: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    data: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 1000
    batch_size: int = 2
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: list[int] = field(default_factory=list)
    decay: float = 0.1
    warmup: int = 0
    warmup_from: float = 0.01
    gradient_clip: float = 0.0
    clip_per_parameter: bool = False
    precision: str = "no"
    seed: int = 0
    log_every: int = 50
    save_every: int = 5000

    def __post_init__(self) -> None:
        for name, value, known in (
            ("recipe", self.recipe, RECIPES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise InputError.about(name, f"one of {', '.join(known)}", repr(value), "choose one")
        for name in ("steps", "batch_size", "log_every", "save_every"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError.about(
                    name, "a whole number of at least 1", repr(getattr(self, name)), "correct it"
                )
        for name, least, most in (
            ("learning_rate", 0.0, math.inf),
            ("momentum", 0.0, 1.0),
            ("weight_decay", 0.0, math.inf),
            ("decay", 0.0, math.inf),
            ("warmup", 0, math.inf),
            ("warmup_from", 0.0, 1.0),
            ("gradient_clip", 0.0, math.inf),
            ("seed", 0, 2**32 - 1),
        ):
            if not least <= getattr(self, name) <= most:
                expected = f"{least:g} to {most:g}" if most < math.inf else f"at least {least:g}"
                raise InputError.about(name, expected, repr(getattr(self, name)), "correct it")
        if not self.learning_rate:
            raise InputError.about("learning_rate", "a number above 0", "0", "correct it")
        if not all(type(step) is int and step >= 0 for step in self.milestones):
            raise InputError.about("milestones", "steps, counted from 0", repr(self.milestones), "correct it")
        for name, number in _numbers({"model": self.model, "data": self.data}):
            if not math.isfinite(number):
                raise InputError.about(name, "a finite number", repr(number), "correct it")
        if not self.data:
            raise InputError.about("data", "at least one data set", "none", "name one")

    def rate(self, step: int) -> float:
        """The learning rate's factor at a step, counted from 0."""
        if step < self.warmup:
            return self.warmup_from + (1 - self.warmup_from) * step / self.warmup
        return self.decay ** sum(step >= milestone for milestone in self.milestones)


def read_config(path: Path | str, **changes: Any) -> RunConfig:
    """Read a run's YAML file; `changes` that are not None replace its entries.

    Raises:
        InputError: not a mapping, an unknown or missing key, a value of another type.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError.about(
            f"config {str(path)!r}", "keys and values", type(values).__name__, "write key: value"
        )
    values |= {key: value for key, value in changes.items() if value is not None}
    known = {f.name: f for f in fields(RunConfig)}
    if unknown := sorted(set(map(str, values)) - set(known)):
        raise InputError.about(
            f"config {str(path)!r}", "known keys", ", ".join(unknown), "remove or correct them"
        )
    if missing := [name for name in ("recipe", "out") if name not in values]:
        raise InputError.about(f"config {str(path)!r}", f"the key {missing[0]}", "none", "add it")
    for name, value in values.items():
        kind = str(known[name].type).partition("[")[0]
        expected: Any = {"str": str, "int": int, "bool": bool, "dict": dict, "list": list}.get(kind)
        if kind == "float":
            expected = (int, float)
        if not isinstance(value, expected) or (isinstance(value, bool) and kind != "bool"):
            fix = "YAML reads 1e-4 as text: write 1.0e-4" if kind == "float" else "correct it"
            raise InputError.about(f"{name} in {str(path)!r}", kind, repr(value)[:60], fix)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError.about(f"{name} in {str(path)!r}", "a finite number", repr(value), "correct it")
    return RunConfig(**values)


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Fractional numbers anywhere within, by dotted names."""
    if isinstance(value, float):
        yield name, value
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from _numbers(item, f"{name}.{key}" if name else str(key))


def inputs_of(config: RunConfig) -> dict[str, Any]:
    """By name, size and hash of every file, and of every model's folder, that the settings name."""
    found: dict[str, Any] = {}

    def look(value: Any, name: str) -> None:
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if key != "cache":  # which grows
                    look(item, f"{name}.{key}" if name else str(key))
        elif isinstance(value, str):
            # `regionspot@FOLDER`, `rpn:FILE`
            for text in (value, value.partition("@")[2], value.partition(":")[2]):
                if text and len(text) < 4096 and "\n" not in text:
                    path = Path(text)
                    if path.is_file():
                        found[f"{name} {text}"] = digest_of(path)
                    elif path.is_dir():
                        found[f"{name} {text}"] = folder_digest(path)

    look({"init": config.init, "model": config.model, "data": config.data}, "")
    return found


def refuse_other_config(config: RunConfig, saved: Path) -> None:
    """Raises InputError when `saved` (run.yaml of the run to continue) is not this run."""
    before, now = read_yaml(saved), asdict(config)
    if not isinstance(before, dict):
        raise InputError.about(f"run {str(saved)!r}", "keys and values", type(before).__name__, "put it back")
    changed = sorted(key for key in now if key not in FREE_ON_RESUME and before.get(key) != now[key])
    if changed:
        raise InputError.about(
            f"--resume of {saved.parent}",
            "the settings it began with",
            f"another {', '.join(changed)}",
            "use those, or another out for a new run",
        )


def write_config(config: RunConfig, folder: Path) -> None:
    """The resolved config as `run.yaml`."""
    import yaml

    write_text(folder / "run.yaml", yaml.safe_dump(asdict(config), sort_keys=False))

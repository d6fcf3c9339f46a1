"""What libraries read from the environment, and from a DeepSpeed JSON, must not contradict the run.

accelerate and transformers take many of their settings from variables when nobody passes them; a run says in
its YAML all that it is, so a variable that says something else is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.train.arguments import Run

OFF = {"", "0", "no", "none", "off", "false", "n", "f", "auto", "default"}
PREFIXES = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "FP8_", "XLA_")
HARMLESS = (
    "ACCELERATE_CONFIG_FILE", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE", "ACCELERATE_DISABLE_RICH",
    "ACCELERATE_ENABLE_RICH", "ACCELERATE_LOG_LEVEL", "ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU",
    "ACCELERATE_DYNAMO_MODE",
)  # fmt: skip
TF32 = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
"""They make float32 products on a GPU keep 10 bits."""


def launched(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(rank, processes) as the launcher says; (0, 1) without one. Raises InputError for half of one."""
    ours = ("RANK", "WORLD_SIZE")
    said = {name: environment.get(name, "").strip() for name in (*ours, "MASTER_ADDR", "MASTER_PORT")}
    wrong = [name for name in ours if said[name] and not said[name].isdecimal()]
    rank, processes = (0, 1) if wrong else (int(said["RANK"] or 0), int(said["WORLD_SIZE"] or 1))
    if processes > 1:
        wrong += [name for name, value in said.items() if not value]
    if wrong or not rank < processes:
        raise InputError.about(
            f"{', '.join(dict.fromkeys(wrong)) or 'RANK'} in the environment",
            "what a launcher sets",
            ", ".join(f"{name}={value}" for name, value in said.items() if value) or "nothing",
            "unset RANK and WORLD_SIZE, or start with torchrun",
        )
    return rank, processes


def check_environment(run: Run, processes: int = 1, environment: Mapping[str, str] = os.environ) -> None:
    """Raises InputError for a variable that says another thing than the run does."""
    refuse_contradictions(
        environment,
        run.precision == "fp32",
        {
            "ACCELERATE_MIXED_PRECISION": {"bf16"} if run.precision == "bf16" else {"fp32"},
            "ACCELERATE_USE_DEEPSPEED": {"true", "1"} if run.deepspeed else set(),
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": {str(run.accumulation(processes))},
        },
    )


def refuse_contradictions(
    environment: Mapping[str, str], exact: bool, allowed: Mapping[str, set[str]]
) -> None:
    """Raises InputError for a variable with another value than those allowed.

    Args:
        exact: products are in float32.
        allowed: by name; none of what is not named.
    """
    for name, value in sorted(environment.items()):
        given = value.strip().lower()
        if given in OFF or name in HARMLESS:
            continue
        if name.startswith(PREFIXES) or (name in TF32 and exact):
            wanted = allowed.get(name, set())
            if given not in wanted:
                raise InputError.about(
                    f"{name} in the environment",
                    f"{' or '.join(sorted(wanted)) or 'nothing'}, as the run's settings say it",
                    repr(value),
                    "unset it; settings of a run belong into its YAML",
                )


def deepspeed_config(run: Run, processes: int) -> dict[str, Any] | None:
    """The run's DeepSpeed JSON with all that the YAML decides written out; None without DeepSpeed.

    Raises:
        InputError: the file is none, or says another thing than the YAML.
    """
    if run.deepspeed is None:
        return None
    try:
        config = json.loads(Path(run.deepspeed).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError.about("deepspeed", "JSON", f"{run.deepspeed}: {error}", "repair it") from error
    if not isinstance(config, dict):
        raise InputError.about("deepspeed", "a JSON object", type(config).__name__, "see scripts/deepspeed")
    for name in ("optimizer", "scheduler"):
        if name in config:
            raise InputError.about(
                f"{name} in {run.deepspeed}", "none", "one", "remove it: lr, weight_decay and warmup say it"
            )
    for path, value in (
        ("bf16.enabled", run.precision == "bf16"),
        ("fp16.enabled", False),
        ("gradient_clipping", run.max_grad_norm),
        ("train_batch_size", run.batch_size),
        ("train_micro_batch_size_per_gpu", run.micro_batch_size),
        ("gradient_accumulation_steps", run.accumulation(processes)),
    ):
        *sections, key = path.split(".")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
        if place.get(key, "auto") not in ("auto", value):
            raise InputError.about(
                f"{path} in {run.deepspeed}", f"auto, or {value} as in the run", repr(place[key]), "change it"
            )
        place[key] = value
    zero = config.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") not in (0, 1, 2, 3):
        raise InputError.about(
            f"zero_optimization.stage in {run.deepspeed}", "0 to 3", repr(zero), "see scripts/deepspeed"
        )
    # A step whose gradients are not finite must be left out, not taken.
    config["bf16"]["check_grad_overflow"] = True
    return config

"""Parameter groups with their rates, and the table that says so at the start of a run."""

from __future__ import annotations

from typing import Any

from torch import nn

from rgpt.errors import InputError
from rgpt.train.stages import PARTS, STAGES, part_of

CONNECTING = STAGES["align"].trains
"""The parts that `connector_lr` is for."""


def parameter_groups(
    model: nn.Module, lr: float, connector_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Groups for an optimiser: every trainable parameter in exactly one, by part, with or without decay.

    Weight decay is for matrices and kernels only, not for biases and norms.

    Raises:
        InputError: when nothing is trainable, or a parameter belongs to no part.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name)
        # Sharded parameters have lost their shape; DeepSpeed keeps it as ds_shape.
        decays = len(getattr(parameter, "ds_shape", parameter.shape)) > 1 and weight_decay > 0
        rate = connector_lr if connector_lr is not None and part in CONNECTING else lr
        group = groups.setdefault(
            (part, decays),
            {"name": part, "params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0},
        )
        group["params"].append(parameter)
    if not groups:
        raise InputError("nothing in the model is trainable: choose another stage or method.")
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    grouped = [id(p) for group in groups.values() for p in group["params"]]
    assert len(grouped) == len(set(grouped)) and set(grouped) == trainable, "groups must partition"
    return list(groups.values())


def rate_table(model: nn.Module, groups: list[dict[str, Any]], hidden: int = 0, title: str = "") -> str:
    """Part, parameters, trainable ones, learning rate, weight decay; `hidden` parameters of the tower."""
    counts = {part: [0, 0] for part in PARTS}
    counts["vision_tower"][0] += hidden
    for name, parameter in model.named_parameters():
        size = getattr(parameter, "ds_numel", parameter.numel())
        counts[part_of(name)][0] += size
        counts[part_of(name)][1] += size if parameter.requires_grad else 0
    rates = {group["name"]: group["lr"] for group in groups}
    decays = {
        group["name"]: max(g["weight_decay"] for g in groups if g["name"] == group["name"])
        for group in groups
    }
    rows = [f"{title or 'part':<18}{'parameters':>16}{'trainable':>16}{'lr':>10}{'decay':>8}"]
    for part, (size, trained) in counts.items():
        if size:
            rate = f"{rates[part]:>10.2g}{decays[part]:>8.2g}" if trained else f"{'frozen':>10}{'':>8}"
            rows.append(f"{part:<18}{size:>16,}{trained:>16,}{rate}".rstrip())
    whole, learned = (sum(count[i] for count in counts.values()) for i in (0, 1))
    rows.append(f"{'all':<18}{whole:>16,}{learned:>16,}")
    return "\n".join(rows)

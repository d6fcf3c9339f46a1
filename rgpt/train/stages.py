"""What trains in which stage, in one table.

RegionGPT trains in two stages with the vision tower frozen in both [P]: stage 1 aligns the refinement and the
connector to a frozen language model, stage 2 tunes everything but the tower.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from rgpt.errors import InputError

PARTS = (
    "vision_tower",
    "refinement",
    "connector",
    "region_projector",
    "region_geometry",
    "language_model",
    "lm_head",
)
"""Names of a RegionGPT's parts, as they appear in parameter names."""


@dataclass(frozen=True)
class Stage:
    name: str
    trains: tuple[str, ...]


STAGES = {
    "align": Stage("align", ("refinement", "connector", "region_projector", "region_geometry")),
    "tune": Stage(
        "tune",
        ("refinement", "connector", "region_projector", "region_geometry", "language_model", "lm_head"),
    ),
}


def part_of(parameter_name: str) -> str:
    """The part a parameter belongs to. Raises InputError when it belongs to none or to several."""
    found = [part for part in PARTS if part in parameter_name.split(".")]
    if len(found) != 1:
        raise InputError(
            f"parameter {parameter_name} belongs to {found or 'no part'}: expected exactly one of {PARTS}."
        )
    return found[0]


def apply_stage(model: nn.Module, stage_name: str) -> dict[str, list[nn.Parameter]]:
    """Freeze and unfreeze parameters for a stage, and return the trainable ones by part.

    Every parameter is counted in exactly one part, so the parts partition the model; a tied head counts once,
    as `lm_head` or `language_model`, whichever name torch lists first.

    Raises:
        InputError: for an unknown stage, or a parameter that belongs to no part.
    """
    if stage_name not in STAGES:
        raise InputError(f"unknown stage {stage_name!r}: expected one of {', '.join(STAGES)}.")
    stage = STAGES[stage_name]
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part in stage.trains)
        if parameter.requires_grad:
            groups.setdefault(part, []).append(parameter)
    model.train()
    return groups


def stage_table(model: nn.Module, stage_name: str) -> str:
    """A printed table: part, parameters, trained or frozen."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    trains = STAGES[stage_name].trains
    rows = [f"{'part':<18}{'parameters':>14}  stage {stage_name}"]
    rows += [f"{p:<18}{n:>14,}  {'trained' if p in trains else 'frozen'}" for p, n in counts.items() if n]
    rows.append(f"{'all':<18}{sum(counts.values()):>14,}")
    return "\n".join(rows)

"""From whatever a vision tower returns to one square feature map.

Axes: B pictures, N tokens, C channels, h = w = the tower's grid.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def tower_features(
    tower: nn.Module, pixel_values: Tensor, *, layer: int | None, strategy: str, grid: int
) -> Tensor:
    """Run the tower and lay the chosen layer out as a map.

    Args:
        tower: a `transformers` vision model; its layer output is `[B, (1+)N, C]` tokens or a `[B, C, h, w]`
            map.
        pixel_values: `[B, 3, S, S]`, normalised.
        layer: index into `hidden_states`, or `None` for `last_hidden_state`.
        strategy: `default` (drop what stands before the patches) or `full` (every token is a patch).
        grid: cells along a side.

    Returns:
        `[B, C, h, w]`, row 0 at the top of the picture, column 0 at its left.
    """
    inputs = pixel_values.to(next(tower.parameters()).dtype)
    if layer is None:
        return as_map(tower(inputs, return_dict=True).last_hidden_state, strategy=strategy, grid=grid)
    output: Any = tower(inputs, output_hidden_states=True, return_dict=True)
    return as_map(output.hidden_states[layer], strategy=strategy, grid=grid)


def as_map(features: Tensor, *, strategy: str, grid: int) -> Tensor:
    """`[B, (1+)N, C]` tokens or a `[B, C, h, w]` map -> `[B, C, h, w]`; only shapes are looked at."""
    if features.ndim == 4:
        if tuple(features.shape[-2:]) != (grid, grid):
            raise ValueError(
                f"the vision tower gave a {tuple(features.shape[-2:])} map but vision_grid is {grid}: "
                "set vision_grid to the map's side, or resize the pictures."
            )
        return features
    tokens = features
    if strategy == "default":
        tokens = tokens[:, max(tokens.shape[1] - grid**2, 0) :]  # class and register tokens come first
    if tokens.shape[1] != grid**2:
        raise ValueError(
            f"the vision tower gave {features.shape[1]} tokens but vision_grid {grid} needs "
            f"{grid**2} patches with vision_feature_select_strategy {strategy!r}: "
            "check the picture size and the strategy."
        )
    return tokens.transpose(1, 2).unflatten(2, (grid, grid))


def is_frozen(module: nn.Module) -> bool:
    """Whether nothing in the module is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())

"""From a picture to its fine feature map: the tower's map, and its refinement.

The tower's map is coarse; the refined one is four times finer, so that small regions keep cells. Paper, "two
deconvolutions, x4" [P]; layer order, norm and its epsilon follow the authors' public code [A].
Axes: B pictures, N tokens, C channels, h = w the tower's grid.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel

from rgpt.errors import InputError

WITHOUT_AUTO = {
    "altclip_vision_model": "AltCLIPVisionModel",
    "clipseg_vision_model": "CLIPSegVisionModel",
    "metaclip_2_vision_model": "MetaClip2VisionModel",
    "owlv2_vision_model": "Owlv2VisionModel",
    "owlvit_vision_model": "OwlViTVisionModel",
}
"""Towers that transformers has but its `AutoModel` does not: the vision side of other models."""


def build_tower(vision_config: Any) -> Any:
    """The tower of a configuration. Raises InputError when transformers has none of its type."""
    kind = WITHOUT_AUTO.get(vision_config.model_type)
    if kind is not None:
        return getattr(transformers, kind)._from_config(vision_config)
    if type(vision_config) not in MODEL_MAPPING:
        raise InputError(
            f"transformers builds no model of type {vision_config.model_type!r} by itself: choose another "
            "tower."
        )
    return AutoModel.from_config(vision_config)


def layer_output(tower: nn.Module, pixel_values: Tensor, layer: int | None) -> Tensor:
    """What a tower gives at a layer: tokens `[B, k + N, C]`, a map `[B, C, h, w]` or `[B, h, w, C]`.

    Args:
        pixel_values: `[B, 3, S, S]`.
        layer: index into its layers, or `None` for `last_hidden_state`.

    Raises:
        InputError: the tower offers no such layer.
    """
    pixel_values = pixel_values.to(next(tower.parameters()).dtype)
    if layer is None:
        chosen: Any = getattr(tower(pixel_values, return_dict=True), "last_hidden_state", None)
        if not torch.is_tensor(chosen):
            raise InputError(
                f"a {type(tower).__name__} gives no last_hidden_state: choose one of its layers with "
                "--vision-layer."
            )
    else:
        output: Any = tower(pixel_values, return_dict=True, output_hidden_states=True)
        # Where the library lays layers out as maps, these: Hiera's tokens stand window by window.
        offered = getattr(output, "reshaped_hidden_states", None) or getattr(output, "hidden_states", None)
        layers = offered if offered and all(map(torch.is_tensor, offered)) else ()
        if not -len(layers) <= layer < len(layers):
            raise InputError(
                f"the configuration takes layer {layer} of its tower, which offers {len(layers)} "
                f"({type(tower).__name__}): choose another with --vision-layer, or the last by itself."
            )
        chosen = layers[layer]
    if chosen.ndim == 3 and len(chosen) == 1:  # Pixtral lays all pictures one behind the other in one row
        chosen = chosen.reshape(len(pixel_values), -1, chosen.shape[-1])
    return chosen


def tower_features(
    tower: nn.Module, pixel_values: Tensor, *, layer: int | None, strategy: str, grid: int
) -> Tensor:
    """Run the tower and lay the chosen layer out as a map.

    Args:
        tower: a `transformers` vision model (see `layer_output`).
        pixel_values: `[B, 3, S, S]`, normalised.
        layer: index into `hidden_states`, or `None` for `last_hidden_state`.
        strategy: `default` (drop what stands before the patches) or `full` (every token is a patch).
        grid: cells along a side.

    Returns:
        `[B, C, h, w]`, row 0 at the top of the picture, column 0 at its left.
    """
    return as_map(layer_output(tower, pixel_values, layer), strategy=strategy, grid=grid)


def as_map(features: Tensor, *, strategy: str, grid: int) -> Tensor:
    """Tokens `[B, k + N, C]`, a map `[B, C, h, w]` or `[B, h, w, C]` -> `[B, C, h, w]`, by shape alone."""
    if features.ndim == 4:
        if tuple(features.shape[-2:]) == (grid, grid):
            return features
        if tuple(features.shape[1:3]) == (grid, grid):
            return features.permute(0, 3, 1, 2)
        raise ValueError(
            f"the vision tower gave a {tuple(features.shape[-2:])} map but vision_grid is {grid}: "
            "set vision_grid to the map's side, or resize the pictures."
        )
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


class Deconvolution(nn.ConvTranspose2d):
    """Stride 2, kernel 2, over cells `[B, h, w, C]` -> `[B, 2h, 2w, C]`; the weights are ConvTranspose2d's.

    Its blocks do not overlap: every cell writes 2 x 2 cells of its own, so the layer is one product of
    matrices and a change of order. Channels stay last, where the norm and the pooling want them, too. On a
    CPU this trains several times as fast as ConvTranspose2d itself (docs/benchmarks.md).
    """

    def __init__(self, channels: int, std: float) -> None:
        super().__init__(channels, channels, kernel_size=2, stride=2)
        self.init_std = std  # of the weights in a fresh model
        self.bias: nn.Parameter  # always there

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """`[B, h, w, C]` -> `[B, 2h, 2w, C]`; `output_size` is torch's and not used."""
        b, h, w, c = input.shape
        blocks = input @ self.weight.permute(0, 2, 3, 1).flatten(1)  # [B, h, w, row, column, C] but flat
        rows = blocks.view(b, h, w, 2, 2, c).transpose(2, 3)  # [B, h, row, w, column, C]
        return rows.reshape(b, 2 * h, 2 * w, c) + self.bias.to(rows.dtype)  # under autocast they differ


class DeconvRefinement(nn.Module):
    """`[B, C, h, w]` -> `[B, C, 4h, 4w]` with two stride-2 deconvolutions.

    Plain (the paper's): deconv, norm, GELU, deconv, GELU; no norm after the second.
    Residual [D]: nearest upsampling plus the same layers without the last GELU (a correction must be able
    to be negative) and with the last layer at zero, so that an untrained model is the tower it was built
    from.
    """

    def __init__(self, channels: int, *, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        # An output cell sums over the C channels of one cell, hence the scale.
        self.deconv_1 = Deconvolution(channels, channels**-0.5)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.deconv_2 = Deconvolution(channels, 0.0 if residual else channels**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        cells = features.permute(0, 2, 3, 1)  # [B, h, w, C]
        fine = self.deconv_2(F.gelu(self.norm(self.deconv_1(cells))))  # [B, 4h, 4w, C]
        if self.residual:
            b, h, w, c = cells.shape
            # Every cell is added to its 4 x 4 block, without writing out the upsampled map.
            fine = (fine.view(b, h, 4, w, 4, c) + cells[:, :, None, :, None]).view_as(fine)
        else:
            fine = F.gelu(fine)
        return fine.permute(0, 3, 1, 2)


class BilinearRefinement(nn.Module):
    """`[B, C, h, w]` -> `[B, C, 4h, 4w]` without parameters: the paper's ablation."""

    def forward(self, features: Tensor) -> Tensor:
        return F.interpolate(features, scale_factor=4, mode="bilinear", align_corners=False)


def build_refinement(kind: str, channels: int) -> nn.Module:
    """`deconv`, `residual`, `bilinear` (all x4) or `none` (x1)."""
    if kind == "none":
        return nn.Identity()
    if kind == "bilinear":
        return BilinearRefinement()
    return DeconvRefinement(channels, residual=kind == "residual")

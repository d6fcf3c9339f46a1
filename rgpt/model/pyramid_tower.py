"""A convolutional network of timm as a vision tower: several of its stages, joined on one grid.

Fine stages know edges and small things, coarse ones know classes; a region vector pooled from all of them
names more than one from the last (docs/decisions.md). To the rest of the model this is a tower like any
other: one `[B, C, h, w]` map.

Axes: B pictures, S their side in pixels, h = w = S / `patch_size`, C channels of all stages together.
"""

# No `from __future__ import annotations` in this file: @strict reads the annotations as types, and silently
# checks nothing when they are strings.

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from rgpt.errors import InputError


@strict
class PyramidTowerConfig(PreTrainedConfig):
    """Configuration of `PyramidTower`.

    Args:
        architecture: timm's name, e.g. `tf_efficientnet_lite2`.
        stages: indices into timm's `features_only` stages; 0 is the finest.
        channels: of each of these stages; stated, so that shapes are known without building the network.
        image_size: S.
        patch_size: pixels along a cell of the joined map.

    Raises:
        InputError: for values that do not fit together.
    """

    model_type = "pyramid_tower"

    architecture: str = "tf_efficientnet_lite2"
    stages: list[int] | tuple[int, ...] = (2, 3, 4)
    channels: list[int] | tuple[int, ...] = (48, 120, 352)
    image_size: int = 448
    patch_size: int = 16

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not self.stages or len(self.stages) != len(self.channels):
            raise InputError(
                f"stages names {len(self.stages)} stages but channels {len(self.channels)}: give one channel "
                "count for each stage."
            )
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise InputError(
                f"image_size is {self.image_size}: it must be a multiple of patch_size {self.patch_size}."
            )

    @property
    def hidden_size(self) -> int:
        """C: channels of the joined map."""
        return sum(self.channels)


class PyramidTower(PreTrainedModel):
    """`[B, 3, S, S]` normalised pixels -> `last_hidden_state` `[B, C, h, w]`.

    Each stage is normalised over its channels, cell by cell and without parameters (the stages' scales differ
    manifold, and the connector's first layer should see all of them), then averaged or interpolated to the
    common grid.
    """

    config: Any
    config_class = PyramidTowerConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: PyramidTowerConfig) -> None:
        super().__init__(config)
        import timm  # a second of imports that no other tower needs

        network: Any = timm.create_model(
            config.architecture, pretrained=False, features_only=True, out_indices=tuple(config.stages)
        )
        self.network = network
        channels = network.feature_info.channels()
        if channels != list(config.channels):
            raise InputError(
                f"channels is {list(config.channels)} but stages {list(config.stages)} of "
                f"{config.architecture} have {channels}: give those."
            )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """timm has drawn them already."""

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """See the class; what other towers are asked for (`output_hidden_states`) changes nothing."""
        side = pixel_values.shape[-1] // self.config.patch_size
        maps = []
        # Channels last: nearly twice as fast on a CPU; sums in another order move a feature by 1e-5.
        for stage in self.network(pixel_values.contiguous(memory_format=torch.channels_last)):
            cells = F.layer_norm(stage.permute(0, 2, 3, 1), stage.shape[1:2]).permute(0, 3, 1, 2)
            if cells.shape[-1] > side:
                cells = F.adaptive_avg_pool2d(cells, side)
            elif cells.shape[-1] < side:
                cells = F.interpolate(cells, size=(side, side), mode="bilinear", align_corners=False)
            maps.append(cells)
        return BaseModelOutput(last_hidden_state=torch.cat(maps, dim=1))

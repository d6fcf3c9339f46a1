"""Two networks as one vision tower: the token grids of a ViT and the stages of a CNN, joined by channels.

A self-supervised ViT knows parts and places, an ImageNet CNN knows classes; a region vector pooled from both
names more than one from either (docs/decisions.md). To the rest of the model this is a tower like any other:
one `[B, C, h, w]` map.

Axes: B pictures, S their side in pixels, h = w the ViT's grid, C channels of all layers and stages together.
"""

# No `from __future__ import annotations` in this file: @strict reads the annotations as types, and silently
# checks nothing when they are strings.

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from rgpt.errors import InputError


@strict
class JoinedTowerConfig(PreTrainedConfig):
    """Configuration of `JoinedTower`.

    Args:
        vit_config: a `transformers` vision transformer with patches; `image_size` is its own.
        vit_layers: indices into the ViT's `hidden_states`.
        cnn: architecture of timm, e.g. `tf_efficientnet_lite2`.
        cnn_channels: of each stage in `cnn_stages`; stated here, so that shapes are known without timm.
        cnn_stages: stages of timm's `features_only` (0 is the finest).
        image_mean, image_std: of the pixels that arrive.
        cnn_mean, cnn_std: of the pixels that the CNN was trained on.

    Raises:
        InputError: for values that do not fit together.
    """

    model_type = "joined_tower"
    sub_configs = {"vit_config": AutoConfig}

    vit_config: dict | PreTrainedConfig | None = None
    vit_layers: list[int] | tuple[int, ...] = (-1,)
    cnn: str = "tf_efficientnet_lite2"
    cnn_stages: list[int] | tuple[int, ...] = (3, 4)
    cnn_channels: list[int] | tuple[int, ...] = (120, 352)
    image_size: int = 336
    image_mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    cnn_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    cnn_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self, **kwargs: Any) -> None:
        if self.vit_config is None or isinstance(self.vit_config, dict):
            values = {"model_type": "dinov2", **(self.vit_config or {})}
            self.vit_config = CONFIG_MAPPING[values.pop("model_type")](**values)
        super().__post_init__(**kwargs)
        if len(self.cnn_stages) != len(self.cnn_channels):
            raise InputError(
                f"cnn_stages names {len(self.cnn_stages)} stages but cnn_channels {len(self.cnn_channels)}: "
                "give one channel count each."
            )
        if self.image_size % self.patch_size:
            raise InputError(
                f"image_size is {self.image_size}: it must be a multiple of the patch size {self.patch_size}."
            )

    @property
    def patch_size(self) -> int:
        """Pixels along a cell of the map."""
        return self.vit_config.patch_size  # type: ignore[union-attr]

    @property
    def hidden_size(self) -> int:
        """C: channels of the map."""
        return len(self.vit_layers) * self.vit_config.hidden_size + sum(self.cnn_channels)  # type: ignore[union-attr]


class JoinedTower(PreTrainedModel):
    """`[B, 3, S, S]` normalised pixels -> `last_hidden_state` `[B, C, h, w]`.

    Each layer and stage is normalised over its channels, cell by cell and without parameters: their scales
    differ a hundredfold, and the connector's first layer should see all of them.
    """

    config: Any
    config_class = JoinedTowerConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: JoinedTowerConfig) -> None:
        super().__init__(config)
        import timm  # a second of imports that no other tower needs

        self.vit = AutoModel.from_config(config.vit_config)
        self.cnn = timm.create_model(
            config.cnn, pretrained=False, features_only=True, out_indices=tuple(config.cnn_stages)
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Both halves initialise themselves."""

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """See the class; other arguments of towers (`output_hidden_states`, `return_dict`) change nothing."""
        config = self.config
        grid = pixel_values.shape[-1] // config.patch_size
        states = self.vit(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        maps = []
        for layer in config.vit_layers:
            tokens = states[layer][:, -(grid**2) :]  # class and register tokens come first
            normalised = F.layer_norm(tokens, tokens.shape[-1:])
            maps.append(normalised.transpose(1, 2).unflatten(2, (grid, grid)))
        for stage in self.cnn(self._as_cnn_pixels(pixel_values)):
            normalised = F.layer_norm(stage.permute(0, 2, 3, 1), stage.shape[1:2]).permute(0, 3, 1, 2)
            maps.append(F.interpolate(normalised, size=(grid, grid), mode="bilinear", align_corners=False))
        return BaseModelOutput(last_hidden_state=torch.cat(maps, dim=1))

    def _as_cnn_pixels(self, pixel_values: Tensor) -> Tensor:
        """The same pixels, normalised as the CNN wants them."""
        config = self.config
        # (p · std + mean − cnn_mean) / cnn_std as one product and one sum a channel
        scale = torch.tensor([s / c for s, c in zip(config.image_std, config.cnn_std, strict=True)])
        shift = torch.tensor(
            [(m - n) / c for m, n, c in zip(config.image_mean, config.cnn_mean, config.cnn_std, strict=True)]
        )
        view = (1, -1, 1, 1)
        return pixel_values * scale.to(pixel_values).view(view) + shift.to(pixel_values).view(view)

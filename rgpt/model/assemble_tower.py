"""What an assembly must know about its vision tower, found by running it without weights; fresh layers."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from rgpt.errors import InputError
from rgpt.model.assemble_sources import Source
from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.feature_map import build_refinement
from rgpt.model.geometry import RegionGeometry
from rgpt.model.modeling_regiongpt import RegionGPTForConditionalGeneration
from rgpt.model.projection import Connector, scaled_linear


def tower_output(vision_config: Any, size: int, layer: int | None, label: str) -> tuple[int, ...]:
    """Shape of a tower's chosen layer for one square picture: `(1, tokens, C)` or `(1, C, h, w)`.

    It runs on the meta device: shapes only, no memory.
    """
    if layer is None:
        return tuple(_run(vision_config, size, label).last_hidden_state.shape)
    layers = _run(vision_config, size, label, output_hidden_states=True).hidden_states or ()
    if not -len(layers) <= layer < len(layers):
        raise InputError(
            f"{label} takes layer {layer} of its tower, which offers {len(layers)}: choose another, or the "
            "last by itself."
        )
    return tuple(layers[layer].shape)


def _run(vision_config: Any, size: int, label: str, **asked: Any) -> Any:
    try:
        with torch.device("meta"):
            tower = AutoModel.from_config(vision_config).eval()
            return tower(torch.zeros(1, 3, size, size), return_dict=True, **asked)
    except Exception as error:  # a tower with another input fails in its own way
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"the tower of {label} ({vision_config.model_type}) cannot read one {size} x {size} picture "
            f"({reason}): RegionGPT needs a tower for square pictures."
        ) from error


def patch_grid(shape: tuple[int, ...], strategy: str, label: str) -> int:
    """Cells along a side, when exactly `strategy` leaves one vector a cell.

    LLaVA's `default` drops one token, whatever it is; ours drops what stands before a square number of
    patches. Only where both mean the same is the result the same model.
    """
    if len(shape) == 4:
        return shape[-1]
    tokens = shape[1] - (strategy == "default")
    side = round(tokens**0.5)
    if side * side != tokens:
        raise InputError(
            f"the tower of {label} gives {shape[1]} tokens, which with vision_feature_select_strategy "
            f"{strategy!r} is no square grid of patches: RegionGPT needs one vector a patch."
        )
    return side


def default_layer(vision_config: Any, size: int, label: str) -> int | None:
    """-2, as in the paper, where a tower offers its layers; else `None`, its `last_hidden_state`."""
    try:
        output = _run(vision_config, size, label, output_hidden_states=True)
    except InputError:
        _run(vision_config, size, label)  # it may refuse to be asked for layers, but not to run at all
        return None
    layers = getattr(output, "hidden_states", None)
    return -2 if layers is not None and len(layers) > 1 else None


def token_grid(
    shape: tuple[int, ...], grid: int | None, label: str
) -> tuple[int, Literal["default", "full"]]:
    """(cells along a side, `full` where every token is a patch or `default` where others come first).

    Args:
        shape: of `tower_output`.
        grid: patches along a side where the configuration tells. Where it does not, or the tower merges its
            patches, the largest square that the tokens fill: there are always fewer class and register
            tokens than one more row and column would need.

    Raises:
        InputError: the tower's map is not square.
    """
    if len(shape) == 4:
        if shape[2] != shape[3]:
            raise InputError(
                f"the tower of {label} gives a map of {shape[2]} x {shape[3]} cells, not a square: choose "
                "another of its layers with --vision-layer."
            )
        return shape[3], "default"
    cells = grid if grid is not None and grid**2 <= shape[1] else math.isqrt(shape[1])
    return cells, "full" if shape[1] == cells**2 else "default"


def picture_settings(source: Source | None, vision_config: Any) -> dict[str, Any]:
    """`image_mean`, `image_std` and, where stated, `image_size` of a checkpoint's own preprocessing."""
    values: dict[str, Any] = {}
    if source is not None:
        values = source.json("preprocessor_config.json") or source.json("processor_config.json")
        values = values.get("image_processor", values)
        timm = source.config().get("pretrained_cfg")
        if timm and not values:
            side = (timm.get("input_size") or [None])[-1]
            values = {"image_mean": timm.get("mean"), "image_std": timm.get("std"), "size": side}
    family = str(vision_config.model_type)
    mean, std = values.get("image_mean"), values.get("image_std")
    if mean is None or std is None:
        if family.startswith("clip"):
            mean, std = list(OPENAI_CLIP_MEAN), list(OPENAI_CLIP_STD)
        elif family.startswith("siglip"):
            mean, std = [0.5] * 3, [0.5] * 3
        else:
            name = source.name if source else family
            raise InputError(
                f"{name} has no preprocessor_config.json with image_mean and image_std: "
                "copy it beside the weights."
            )
    settings = {"image_mean": mean, "image_std": std}
    size = values.get("crop_size") or values.get("size") or {}
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    own = getattr(vision_config, "image_size", None)
    settings["image_size"] = own if isinstance(own, int) else side
    return settings


def empty_model(config: RegionGPTConfig) -> RegionGPTForConditionalGeneration:
    """The model of a configuration on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        return RegionGPTForConditionalGeneration(config)


def expected_shapes(model: nn.Module, tied_head: bool) -> dict[str, tuple[int, ...]]:
    """Shape of everything that a checkpoint of the model holds; a tied head is not stored."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not (tied_head and name == "lm_head.weight")
    }


def fresh_layers(
    config: RegionGPTConfig, model: RegionGPTForConditionalGeneration, seed: int
) -> dict[str, Tensor]:
    """Seeded weights of refinement, connector and region projector, as a new model would draw them.

    The caller takes those that no source has. A residual refinement starts as plain upsampling, so that the
    new model is exactly the one it was made from; `deconv` is the paper's and must be trained first [P].
    """
    channels, width = config.vision_hidden_size, config.text_config.hidden_size  # type: ignore[union-attr]
    assert channels is not None
    parts: dict[str, nn.Module] = {
        "refinement": build_refinement(config.refinement, channels),
        "connector": Connector(
            channels, width, config.connector_act, blocks=config.connector == "mlp_downsample"
        ),
    }
    if config.region_projector == "linear":
        parts["region_projector"] = scaled_linear(channels, width)
    if config.region_geometry:
        parts["region_geometry"] = RegionGeometry(width)
    tensors: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for part, module in parts.items():
            for layer in module.modules():
                model._init_weights(layer)
            tensors |= {f"model.{part}.{name}": value for name, value in module.state_dict().items()}
    return tensors


def grown_rows(tensor: Tensor, rows: int, seed: int) -> Tensor:
    """`[V, D]` or `[V]` with more rows: the mean of the old ones, a little apart from each other.

    The mean keeps probabilities of the old tokens nearly as they were. Apart, because a placeholder may have
    to be recognised by its embedding alone.
    """
    if tensor.shape[0] >= rows:
        return tensor
    mean = tensor.mean(0, dtype=torch.float32)
    spread = tensor[:1024].float().std(unbiased=False)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows - tensor.shape[0], *tensor.shape[1:], generator=generator)
    return torch.cat([tensor, (mean + 0.1 * spread * noise).to(tensor.dtype)])

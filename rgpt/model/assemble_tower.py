"""What an assembly must know about its vision tower, found by running it without weights; fresh layers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from rgpt.errors import InputError
from rgpt.model.assemble_library import on_meta
from rgpt.model.assemble_sources import Source
from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.feature_map import build_refinement, build_tower, layer_output
from rgpt.model.geometry import RegionGeometry
from rgpt.model.modeling_regiongpt import RegionGPTForConditionalGeneration
from rgpt.model.projection import Connector, scaled_linear


@dataclass(frozen=True)
class Output:
    """What a tower gives for one picture.

    shape: `(tokens, C)` or, as a map, `(C, h, w)`.
    leading: class and register tokens that it is known to put before its patches.
    unused: its weights on which this does not depend, such as a pooler's.
    """

    shape: tuple[int, ...]
    leading: int
    unused: frozenset[str] = frozenset()

    @property
    def channels(self) -> int:
        return self.shape[-1] if len(self.shape) == 2 else self.shape[0]


def tower_output(vision_config: Any, size: int, layer: int | None, label: str) -> Output:
    """Try a tower on two square pictures, as the model will run it.

    It runs on the meta device: shapes only, no memory; but with drawn weights where it looks at numbers to
    find its way (Idefics 3).

    Raises:
        InputError: it cannot read such pictures, draws random numbers, or gives no map of them.
    """
    name = f"the tower of {label} ({vision_config.model_type})"
    if getattr(vision_config, "is_encoder_decoder", False):
        raise InputError(f"{name} answers with queries in place of a map: choose another tower.")
    tower, output = _try(vision_config, size, layer, label, name)
    shape = tuple(output.shape)
    if shape[0] != 2 or len(shape) not in (3, 4):
        raise InputError(
            f"{name} gives {list(shape)} for two pictures, which is neither tokens nor a map of each: choose "
            "another layer with --vision-layer, or another tower."
        )
    shape = shape[1:]
    if len(shape) == 3:
        if shape[0] == shape[1] == shape[2]:
            raise InputError(
                f"{name} gives a map of {' x '.join(map(str, shape))}, in which channels and cells cannot be "
                "told apart: choose another layer with --vision-layer."
            )
        if shape[0] == shape[1]:  # channels last
            shape = (shape[2], *shape[:2])
        elif shape[1] != shape[2]:
            raise InputError(
                f"{name} gives a map of {' x '.join(map(str, shape))}, which has no square of cells: choose "
                "another of its layers with --vision-layer."
            )
    leading = sum(
        parameter.numel() // parameter.shape[-1]
        for key, parameter in tower.named_parameters()
        if _LEADING.search(key)
    )
    with torch.enable_grad():
        output.float().sum().backward()
    return Output(shape, leading, frozenset(n for n, p in tower.named_parameters() if p.grad is None))


def _try(
    vision_config: Any, size: int, layer: int | None, label: str, name: str
) -> tuple[PreTrainedModel, Tensor]:
    tower = on_meta(lambda: build_tower(vision_config), label)
    if missing := _other_inputs(tower):
        raise InputError(
            f"{name} needs {' and '.join(missing)} beside the picture, which RegionGPT does not give: choose "
            "a tower that reads whole square pictures."
        )
    for device in ("meta", "cpu"):
        tower = tower if device == "meta" else build_tower(vision_config).eval()
        try:
            with torch.device(device), torch.enable_grad(), _NoRandomNumbers(name):
                return tower, layer_output(tower, torch.zeros(2, 3, size, size), layer)
        except InputError:
            raise
        except Exception as error:  # a tower with another input fails in its own way
            reason = (str(error).strip() or type(error).__name__).split("\n")[0]
            if device == "meta" and "meta" in reason:
                continue
            raise InputError(
                f"{name} cannot read two {size} x {size} pictures ({reason}): RegionGPT needs a tower that "
                "reads single square pictures."
            ) from error
    raise AssertionError("the second device has no third")


def _other_inputs(tower: PreTrainedModel) -> list[str]:
    """What a tower must be given beside its first input."""
    _, *others = signature(tower.forward).parameters.values()
    return [
        each.name
        for each in others
        if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]


class _NoRandomNumbers(TorchDispatchMode):
    """Refuses a model that draws random numbers while it reads (ViT-MAE hides patches), even on meta."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        harmless = re.search("dropout|attention", func.name())  # these draw only while training
        if torch.Tag.nondeterministic_seeded in func.tags and not harmless:
            raise InputError(
                f"{self.name} draws random numbers while it reads a picture ({func.name()}), so that it "
                "never gives the same twice: choose another tower."
            )
        return func(*args, **(kwargs or {}))


_LEADING = re.compile(r"(^|[._])(cls|class|reg|register|dist|distillation)_(tokens?|embedding)$")
"""Names under which towers keep the tokens that they put before their patches."""


def patch_grid(output: Output, strategy: str, label: str) -> int:
    """Cells along a side, when exactly `strategy` leaves one vector a cell.

    LLaVA's `default` drops one token, whatever it is; ours drops what stands before a square number of
    patches. Only where both mean the same is the result the same model.
    """
    if len(output.shape) == 3:
        return output.shape[-1]
    tokens = output.shape[0] - (strategy == "default")
    side = round(tokens**0.5)
    if side * side != tokens:
        raise InputError(
            f"the tower of {label} gives {output.shape[0]} tokens, which with vision_feature_select_strategy "
            f"{strategy!r} is no square grid of patches: RegionGPT needs one vector a patch."
        )
    return side


def default_output(vision_config: Any, size: int, label: str) -> tuple[int | None, Output]:
    """Layer -2, as in the paper, where a tower offers its layers; else `None`, its `last_hidden_state`."""
    try:
        return -2, tower_output(vision_config, size, -2, label)
    except InputError:
        return None, tower_output(vision_config, size, None, label)


def token_grid(output: Output, grid: int | None, label: str) -> tuple[int, Literal["default", "full"]]:
    """(cells along a side, `full` where every token is a patch or `default` where others come first).

    Args:
        grid: patches along a side where the configuration tells. Where it does not, or the tower merges its
            patches, the square that is left when all known tokens in front, or else fewer, are dropped.

    Raises:
        InputError: the tokens are no square, or hold others than patches and what stands before them.
    """
    if len(output.shape) == 3:
        return output.shape[-1], "default"
    tokens, leading = output.shape[0], output.leading
    cells = grid if grid is not None and grid**2 <= tokens else None
    for before in (leading, *range(leading)):
        side = math.isqrt(max(0, tokens - before))
        if cells is None and side > 0 and side**2 == tokens - before:
            cells = side
    if cells is None or tokens - cells**2 > leading:
        raise InputError(
            f"the tower of {label} gives {tokens} tokens, which is no square of patches behind at most "
            f"{leading} class and register tokens: choose another tower."
        )
    return cells, "full" if tokens == cells**2 else "default"


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

"""The vision tower of an `open_clip_torch` model as a transformers `CLIPVisionModel`: same weights, same
features.

The trap is the activation: OpenAI's weights were trained with quick_gelu, open_clip's plain model names build
GELU and only warn. Here the tag decides, and what was really built is read back from the module.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

from torch import Tensor, nn
from transformers import CLIPVisionConfig

from rgpt.errors import InputError

PREFIX = "open_clip:"
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OUTSIDE = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
IGNORED = {"proj": "the projection into CLIP's joint space; the connector takes its place"}


def open_clip_tower(name: str) -> tuple[CLIPVisionConfig, dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """(configuration, weights under transformers' names, ignored keys, picture settings).

    Args:
        name: `open_clip:MODEL/TAG`, e.g. `open_clip:ViT-L-14-336/openai`; the tag may be a file with weights.

    Raises:
        InputError: open_clip is not installed, knows no such model, or its tower is no plain ViT.
    """
    try:
        import open_clip
    except ImportError as error:
        raise InputError(
            f"{name} needs open_clip: pip install -e '.[recognize]' in the repository."
        ) from error
    model_name, _, tag = name.removeprefix(PREFIX).partition("/")
    if not model_name or not tag:
        raise InputError(f"{name} names no model and tag: write open_clip:ViT-L-14-336/openai.")
    known = open_clip.get_pretrained_cfg(model_name, tag) or {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it would warn of is set here
            model = open_clip.create_model(
                model_name, pretrained=tag, force_quick_gelu=bool(known.get("quick_gelu")), weights_only=True
            )
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"open_clip cannot open {name} ({reason}): check the model and the tag.") from error
    visual = model.visual
    config = tower_config(visual, name)
    weights, ignored = tower_weights(visual.state_dict(), name)
    pictures = {"image_mean": list(visual.image_mean), "image_std": list(visual.image_std)}
    return config, weights, ignored, pictures


def tower_config(visual: Any, name: str) -> CLIPVisionConfig:
    """The configuration of open_clip's `VisionTransformer`. Raises InputError for another kind of tower."""
    blocks: Any = getattr(getattr(visual, "transformer", None), "resblocks", None)
    plain = (
        blocks is not None
        and isinstance(getattr(visual, "ln_pre", None), nn.LayerNorm)
        and getattr(visual, "attn_pool", None) is None
        and isinstance(getattr(blocks[0], "attn", None), nn.MultiheadAttention)
        and visual.conv1.bias is None
    )
    if not plain:
        raise InputError(
            f"the tower of {name} is {type(visual).__name__}, not a plain ViT: choose a ViT model."
        )
    activation = {"QuickGELU": "quick_gelu", "GELU": "gelu"}.get(type(blocks[0].mlp.gelu).__name__)
    size, patch = visual.image_size, visual.patch_size
    if activation is None or size[0] != size[1] or patch[0] != patch[1]:
        raise InputError(f"the tower of {name} has an unusual activation or is not square: choose another.")
    return CLIPVisionConfig(
        hidden_size=visual.conv1.out_channels,
        intermediate_size=blocks[0].mlp.c_fc.out_features,
        num_hidden_layers=len(blocks),
        num_attention_heads=blocks[0].attn.num_heads,
        image_size=size[0],
        patch_size=patch[0],
        hidden_act=activation,
        layer_norm_eps=visual.ln_pre.eps,
        projection_dim=visual.output_dim,
    )


def tower_weights(state: dict[str, Tensor], name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """open_clip's names -> those of transformers; query, key and value come out of one matrix."""
    weights: dict[str, Tensor] = {}
    ignored: dict[str, str] = {}
    for key, value in state.items():
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)", key)
        packed = re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", key)
        if packed:
            for which, part in zip("qkv", value.chunk(3), strict=True):
                weights[f"encoder.layers.{packed[1]}.self_attn.{which}_proj.{packed[2]}"] = part
        elif block and block[2] in _BLOCK:
            weights[f"encoder.layers.{block[1]}.{_BLOCK[block[2]]}.{block[3]}"] = value
        elif key in _OUTSIDE:
            weights[_OUTSIDE[key]] = value
        elif key in IGNORED:
            ignored[key] = IGNORED[key]
        else:
            raise InputError(f"{name} has the weight {key}, which a plain ViT has not: choose another model.")
    return weights, ignored

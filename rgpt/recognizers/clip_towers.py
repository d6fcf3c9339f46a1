"""CLIP image towers of transformers and open_clip behind three calls, and how they are built from a config.

* `embed(pixels)` -> `[B, D]`: the picture in the shared text space;
* `dense(pixels)` -> `[B, D, h, w]`: every cell in that space;
* `tokens(pixels)` -> `[B, 1 + h*w, d]`: the last block's tokens with the class token, before the final norm
  and the projection (ViTs only; what RegionSpot reads). For a ResNet, `[B, h*w, d]`: it has no class token.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rgpt.errors import InputError
from rgpt.hub import model_folder, open_pretrained
from rgpt.recognizers.geometry import CLIP_MEAN, CLIP_STD
from rgpt.recognizers.text import OpenClipText, TextEncoder, TransformersText, WordEncoder

KEYS = {
    "transformers": {"library", "vision", "text", "logit_scale", "mean", "std"},
    "open_clip": {
        "library", "embed_dim", "vision_cfg", "text_cfg", "text", "quick_gelu", "logit_scale", "mean", "std",
    },
    "tower": {"library", "vision", "dim", "logit_scale", "mean", "std"},
}  # fmt: skip
TOWER_TEXT_DIM = 64  # of the word vectors beside a tower that has no text space of its own
TOWER_PREFIX = "model.vision_tower."  # of the weights in a RegionGPT folder


class ClipVision(nn.Module):
    """A CLIP image tower: `image_size` pixels a side, `width` d of its tokens, `dim` D of the text space."""

    image_size: int
    width: int
    dim: int

    def __init__(self, mean: tuple[float, ...] = CLIP_MEAN, std: tuple[float, ...] = CLIP_STD) -> None:
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)

    def embed(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def dense(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def tokens(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError


class TransformersVision(ClipVision):
    """A transformers `CLIPVisionModelWithProjection`."""

    def __init__(self, model: Any, **normalisation: Any) -> None:
        super().__init__(**normalisation)
        self.model = model
        config = model.config
        self.image_size, self.width, self.dim = config.image_size, config.hidden_size, config.projection_dim

    def embed(self, pixels: Tensor) -> Tensor:
        return self.model(pixels).image_embeds

    def tokens(self, pixels: Tensor) -> Tensor:
        return self.model.vision_model(pixels).last_hidden_state

    def dense(self, pixels: Tensor) -> Tensor:
        patches = self.model.vision_model.post_layernorm(self.tokens(pixels)[:, 1:])
        return as_map(self.model.visual_projection(patches))


class OpenClipVision(ClipVision):
    """The `visual` of an open_clip model: its own ViT or ModifiedResNet (timm towers have no common
    inside)."""

    def __init__(self, visual: Any, **normalisation: Any) -> None:
        super().__init__(**normalisation)
        from open_clip.modified_resnet import ModifiedResNet
        from open_clip.transformer import VisionTransformer

        if not isinstance(visual, ModifiedResNet | VisionTransformer):
            raise InputError.about(
                "open_clip tower",
                "a ViT or ResNet of open_clip itself",
                type(visual).__name__,
                "choose a model such as ViT-B-16 or RN50",
            )
        self.model = visual
        self.is_resnet = isinstance(visual, ModifiedResNet)
        size = visual.image_size
        self.image_size = int(size if isinstance(size, int) else size[0])
        self.dim = int(visual.output_dim)
        self.width = int(
            visual.attnpool.c_proj.in_features if self.is_resnet else visual.class_embedding.shape[-1]
        )

    def embed(self, pixels: Tensor) -> Tensor:
        return self.model(pixels)

    def tokens(self, pixels: Tensor) -> Tensor:
        found = self.model.forward_intermediates(
            pixels,
            indices=[4] if self.is_resnet else 1,
            intermediates_only=True,
            **({} if self.is_resnet else {"output_extra_tokens": True, "output_fmt": "NLC"}),
        )
        patches = found["image_intermediates"][-1]
        if self.is_resnet:
            return patches.flatten(2).transpose(1, 2)
        return torch.cat([found["image_intermediates_prefix"][-1], patches], 1)

    def dense(self, pixels: Tensor) -> Tensor:
        tokens = self.tokens(pixels)
        if self.is_resnet:
            # The attention pool without its attention: the value and output projections, cell by cell.
            return as_map(self.model.attnpool.c_proj(self.model.attnpool.v_proj(tokens)))
        return as_map(self.model.ln_post(tokens[:, 1:]) @ self.model.proj)


class TowerVision(ClipVision):
    """A transformers image tower that was not trained beside a text tower: it has tokens, nothing else.

    The tower of a chat model, for example; `tokens` is its last hidden state, class token included if it has
    one.
    """

    def __init__(self, model: Any, dim: int, **normalisation: Any) -> None:
        super().__init__(**normalisation)
        self.model = model
        self.image_size, self.width, self.dim = model.config.image_size, model.config.hidden_size, dim

    def tokens(self, pixels: Tensor) -> Tensor:
        return self.model(pixels).last_hidden_state

    def embed(self, pixels: Tensor) -> Tensor:
        raise InputError(
            "library tower: this tower shares no space with texts; use it for regionspot, or give a CLIP."
        )

    dense = embed


def as_map(tokens: Tensor) -> Tensor:
    """`[B, h*w, C]` of a square picture, row by row -> `[B, C, h, w]`."""
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def build_clip(config: dict[str, Any], tokenizer: Any = None) -> tuple[ClipVision, TextEncoder, float]:
    """Tower, text encoder and exp(logit scale) with random weights, from a plain config.

    `{"library": "transformers", "vision": {CLIPVisionConfig}, "text": {CLIPTextConfig} or "words"}` or
    `{"library": "open_clip", "embed_dim": D, "vision_cfg": {…}, "text_cfg": {…}, "text": "open_clip" or
    "words"}`, or `{"library": "tower", "vision": {any transformers tower, with model_type}, "dim": D}`, whose
    text is "words"; all with optional `logit_scale`, `mean`, `std`. A transformers text tower needs its
    `tokenizer`.

    Raises:
        InputError: unknown library or key, or a missing tokenizer.
    """
    library = config.get("library")
    if library not in KEYS or not set(config) <= KEYS[library]:
        raise InputError.about(
            "clip config",
            f"library {' or '.join(KEYS)} with known keys",
            f"library {library!r}, keys {sorted(config)}",
            "see rgpt.recognizers.clip_towers.build_clip",
        )
    normalisation: dict[str, Any] = {key: tuple(config[key]) for key in ("mean", "std") if key in config}
    scale = float(config.get("logit_scale", 100.0))
    vision: ClipVision
    text: TextEncoder
    if library == "tower":
        from transformers import AutoConfig, AutoModel

        settings = dict(config["vision"])
        tower = AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
        return TowerVision(tower, config["dim"], **normalisation), WordEncoder(config["dim"]), scale
    if library == "transformers":
        from transformers import (
            CLIPTextConfig,
            CLIPTextModelWithProjection,
            CLIPVisionConfig,
            CLIPVisionModelWithProjection,
        )

        vision = TransformersVision(
            CLIPVisionModelWithProjection(CLIPVisionConfig(**config["vision"])), **normalisation
        )
        if config.get("text", "words") == "words":
            return vision, WordEncoder(vision.dim), scale
        if tokenizer is None:
            raise InputError.about("text tower", "its tokenizer", "none", 'pass one or use text "words"')
        text = TransformersText(CLIPTextModelWithProjection(CLIPTextConfig(**config["text"])), tokenizer)
        return vision, text, scale
    import open_clip

    if config.get("text", "open_clip") == "words":
        visual = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], _SMALLEST_TEXT).visual
        vision = OpenClipVision(visual, **normalisation)
        return vision, WordEncoder(vision.dim), scale
    model = open_clip.CLIP(
        config["embed_dim"],
        config["vision_cfg"],
        config["text_cfg"],
        quick_gelu=config.get("quick_gelu", False),
    )
    return (*_open_clip_parts(model, config, normalisation), scale)


_SMALLEST_TEXT = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}


def _open_clip_parts(
    model: Any, config: dict[str, Any], normalisation: dict[str, Any]
) -> tuple[ClipVision, TextEncoder]:
    from open_clip.tokenizer import SimpleTokenizer

    visual = model.visual
    del model.visual  # each half is held once
    tokenizer = SimpleTokenizer(context_length=config["text_cfg"].get("context_length", 77))
    return OpenClipVision(visual, **normalisation), OpenClipText(model, tokenizer)


def load_clip(name: str) -> tuple[ClipVision, TextEncoder, float, dict[str, Any]]:
    """A pretrained CLIP: a transformers folder or hub id, `open_clip:MODEL/PRETRAINED` (weights by tag or
    file), or `tower:FOLDER`, the image tower of a RegionGPT folder, with words for texts.

    Returns:
        tower, text encoder, exp(logit scale), and the config `build_clip` takes.

    Raises:
        InputError: it cannot be found or read.
    """
    try:
        kind, _, what = name.partition(":")
        return {"open_clip": _load_open_clip, "tower": _load_tower}.get(kind, _load_transformers)(
            what if kind == "tower" else name
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError.about(
            f"CLIP {name!r}",
            "a transformers CLIP (folder or hub id) or open_clip:MODEL/PRETRAINED",
            f"{type(error).__name__}: {' '.join(str(error).split())}"[:200],
            "check the name and that the weights are on this machine",
        ) from error


def _load_transformers(name: str) -> tuple[ClipVision, TextEncoder, float, dict[str, Any]]:
    from transformers import (
        AutoTokenizer,
        CLIPModel,
        CLIPTextModelWithProjection,
        CLIPVisionModelWithProjection,
    )

    name = str(model_folder(name))
    found = CLIPModel.config_class.get_config_dict(name)[0].get("model_type")
    if found != "clip":  # it would load, too, with a warning and random weights
        raise ValueError(f"a checkpoint of type {found}")
    scale = float(open_pretrained(CLIPModel, name).logit_scale.detach().exp())
    vision = TransformersVision(open_pretrained(CLIPVisionModelWithProjection, name))
    text = TransformersText(
        open_pretrained(CLIPTextModelWithProjection, name), open_pretrained(AutoTokenizer, name)
    )
    config = {
        "library": "transformers",
        "vision": plain_config(vision.model.config),
        "text": plain_config(text.model.config),
        "logit_scale": scale,
    }
    return vision, text, scale, config


def _load_open_clip(name: str) -> tuple[ClipVision, TextEncoder, float, dict[str, Any]]:
    import open_clip
    from open_clip.transformer import QuickGELU

    model_name, _, pretrained = name.removeprefix("open_clip:").partition("/")
    settings = open_clip.get_model_config(model_name)
    if settings is None or not pretrained:
        raise InputError.about(
            f"CLIP {name!r}",
            "open_clip:MODEL/PRETRAINED with a model of open_clip",
            f"model {model_name!r}, weights {pretrained!r}",
            "write for example open_clip:ViT-B-16/openai",
        )
    model, _, _ = open_clip.create_model_and_transforms(model_name, pretrained=pretrained)
    scale = float(model.logit_scale.detach().exp())
    mean, std = model.visual.preprocess_cfg["mean"], model.visual.preprocess_cfg["std"]
    config = {
        "library": "open_clip",
        "embed_dim": settings["embed_dim"],
        "vision_cfg": settings["vision_cfg"],
        "text_cfg": settings["text_cfg"],
        # As the model was made: some weights (OpenAI's and others') switch it on whatever the settings say.
        "quick_gelu": any(isinstance(module, QuickGELU) for module in model.modules()),
        "logit_scale": scale,
        "mean": list(mean),
        "std": list(std),
    }
    return (*_open_clip_parts(model, config, {"mean": mean, "std": std}), scale, config)


def _load_tower(folder: str) -> tuple[ClipVision, TextEncoder, float, dict[str, Any]]:
    from safetensors import safe_open

    path = Path(folder)
    pictures = json.loads((path / "processor_config.json").read_text(encoding="utf-8"))
    config = {
        "library": "tower",
        "vision": json.loads((path / "config.json").read_text(encoding="utf-8"))["vision_config"],
        "dim": TOWER_TEXT_DIM,
        "mean": pictures["image_mean"],
        "std": pictures["image_std"],
    }
    vision, text, scale = build_clip(config)
    weights: dict[str, Tensor] = {}
    for part in sorted(path.glob("*.safetensors")):
        with safe_open(part, "pt") as stored:
            weights |= {
                key.removeprefix(TOWER_PREFIX): stored.get_tensor(key).float()
                for key in stored.keys()  # noqa: SIM118 (a safe_open is no mapping)
                if key.startswith(TOWER_PREFIX)
            }
    vision.model.load_state_dict(weights)  # type: ignore[operator, union-attr]
    return vision, text, scale, config


def plain_config(config: Any) -> dict[str, Any]:
    """A transformers config as the keyword arguments that build it again."""
    return {k: v for k, v in config.to_diff_dict().items() if k not in ("model_type", "transformers_version")}


def unit(vectors: Tensor) -> Tensor:
    """Rows of length one; rows of zeros stay."""
    return F.normalize(vectors.float(), dim=-1, eps=1e-7)

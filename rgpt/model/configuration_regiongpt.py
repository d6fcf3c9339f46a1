"""The configuration of a RegionGPT: a vision tower, a language model, and the few choices in between.

The default is the paper's model: CLIP ViT-L/14 at 336 px, two deconvolutions (x4), one connector shared by
image and region vectors, Vicuna-7B. Values that follow from others (grid sizes, channel counts) are derived
here, once.
"""

# No `from __future__ import annotations` in this file: @strict reads the annotations as types, and silently
# checks nothing when they are strings.

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.generation import GenerationConfig

from rgpt.errors import InputError

REFINEMENT_FACTOR = {"deconv": 4, "residual": 4, "bilinear": 4, "none": 1}
"""How many refined cells lie along one cell of the tower's grid, for every kind of refinement."""

CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
SIGLIP_SO400M_384 = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
# Vicuna-7B v1.5 [D]. 32,064 rows: its 32,000 tokens, <image>, <region>, rounded up to a multiple of 64.
VICUNA_7B = {
    "model_type": "llama",
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
}

# Keys that transformers itself writes into a config.json or hands to a constructor; others must be fields.
_LIBRARY_KEYS = {
    "model_type", "torch_dtype", "name_or_path", "num_labels", "output_attentions", "attn_implementation",
    "experts_implementation", "quantization_config", "tie_last_hidden_states",
}  # fmt: skip


@strict
class RegionGPTConfig(PreTrainedConfig):
    """Configuration of `RegionGPTForConditionalGeneration`. Unknown keys are refused, wrong types too.

    Args:
        vision_config: any `transformers` vision tower (`build_tower`); layers are tokens `[B, k + N, C]` or
            maps, `[B, C, h, w]` or `[B, h, w, C]`. Default: CLIP ViT-L/14 at 336 px.
        text_config: any `transformers` causal language model. Default: Vicuna-7B v1.5 [D].
        profile: `paper`, or `spatialrgpt` [A], the architecture of the authors' later public code (SigLIP
            tower, 27 x 27 image tokens, a separate linear projector for regions). It only sets defaults of
            other fields.
        vision_feature_layer: index into the tower's `hidden_states` (-2 [A]/[D]); `None` takes its
            `last_hidden_state` (after the tower's own last norm, and cheaper).
        vision_feature_select_strategy: `default` drops what stands before the patch tokens (the class token),
            `full` says that every token is a patch (SigLIP). Conv maps ignore it.
        vision_hidden_size: channels C of the tower's features; derived from `vision_config` when it says so.
        vision_grid: cells along a side of the tower's square grid; derived as image_size // patch_size when
            both are known, else it must be given (conv towers).
        refinement: `deconv` [A] (the paper's two deconvolutions, x4), `residual` [D] (nearest upsampling
            plus a correction that starts at zero), `bilinear` (x4), `none` (x1).
        merge_grid: cells along a side after merging; default: the tower's own grid (24 for CLIP-336: 576).
        connector: `mlp` (a cell is a token [P]), or `mlp_downsample` (2 x 2 cells become one [A]: 27 x 27
            are 14 x 14 tokens), which needs a region projector of its own.
        region_projector: `shared` (one connector for image and regions [P]) or `linear` (own Linear [A]).
        region_geometry: add a region's centre and extent to its vector [D]; off in the paper's profile: what
            a convolutional tower sees carries little position (`docs/decisions.md`).
        head_bias: the language model's head has a bias (GPT-J, Phi).
        connector_act: activation between the connector's two linear layers.
        image_token_id, region_token_id: placeholder ids, inside the language model's vocabulary.

    Raises:
        InputError: for an unknown key, or values that do not fit together.
    """

    model_type = "regiongpt"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    profile: Literal["paper", "spatialrgpt"] = "paper"
    vision_feature_layer: int | None = -2
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    vision_hidden_size: int | None = None
    vision_grid: int | None = None
    refinement: Literal["deconv", "residual", "bilinear", "none"] = "deconv"
    merge_grid: int | None = None
    region_projector: Literal["shared", "linear"] | None = None
    connector: Literal["mlp", "mlp_downsample"] = "mlp"
    region_geometry: bool = False
    connector_act: str = "gelu"
    image_token_id: int = 32000
    region_token_id: int = 32001
    head_bias: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self._refuse_unknown(kwargs)
        default = SIGLIP_SO400M_384 if self.profile == "spatialrgpt" else CLIP_L_336
        self.vision_config = _sub_config(self.vision_config, default)
        self.text_config = _sub_config(self.text_config, VICUNA_7B)
        super().__post_init__(**kwargs)
        if self.vision_hidden_size is None:
            self.vision_hidden_size = _channels(self.vision_config, self.vision_feature_layer)
        if self.vision_grid is None:
            self.vision_grid = _grid(self.vision_config)
        if self.merge_grid is None:
            self.merge_grid = self.vision_grid
        if self.region_projector is None:
            self.region_projector = "linear" if self.profile == "spatialrgpt" else "shared"
        self.tie_word_embeddings = self.tie_word_embeddings or bool(
            getattr(self.text_config, "tie_word_embeddings", False)
        )
        self._check_values()

    def _refuse_unknown(self, kwargs: dict[str, Any]) -> None:
        # Trainers leave settings such as `use_cache` on a config; a reload must not stumble on them.
        known = _LIBRARY_KEYS | set(GenerationConfig._get_default_generation_params())
        unknown = sorted(key for key in kwargs if key not in known and not key.startswith("_"))
        if unknown:
            fields = ", ".join(sorted(set(RegionGPTConfig.__annotations__)))
            raise InputError(
                f"RegionGPTConfig has no field {', '.join(map(repr, unknown))}: its fields are {fields}."
            )

    def _check_values(self) -> None:
        text_config: Any = self.text_config
        vocab_size = text_config.vocab_size
        for name in ("image_token_id", "region_token_id"):
            if not 0 <= getattr(self, name) < vocab_size:
                raise InputError(
                    f"{name} is {getattr(self, name)} but the language model's vocabulary has "
                    f"{vocab_size} rows: resize the vocabulary or choose an id inside it."
                )
        if self.image_token_id == self.region_token_id:
            raise InputError(
                f"image_token_id and region_token_id are both {self.image_token_id}: "
                "give each placeholder its own id."
            )
        for name in ("vision_hidden_size", "vision_grid", "merge_grid"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        layers, layer = getattr(self.vision_config, "num_hidden_layers", None), self.vision_feature_layer
        if isinstance(layers, int) and layer is not None and not -layers - 1 <= layer <= layers:
            raise InputError(
                f"vision_feature_layer is {layer} but the tower has {layers} layers: "
                f"choose one from {-layers - 1} to {layers}."
            )
        if self.connector == "mlp_downsample" and self.region_projector == "shared":
            raise InputError(
                "connector is 'mlp_downsample' and region_projector 'shared' but a connector of 2 x 2 cells "
                "cannot read a region's one vector: set region_projector to 'linear'."
            )
        assert self.merge_grid is not None
        if self.merge_grid > self.refined_grid:
            raise InputError(
                f"merge_grid is {self.merge_grid} but the refined grid has only {self.refined_grid} cells a "
                "side: merging averages cells, it cannot make new ones."
            )

    @property
    def refined_grid(self) -> int:
        """G: cells along a side of the refined map, the grid that `region_masks` live on."""
        assert self.vision_grid is not None
        return self.vision_grid * REFINEMENT_FACTOR[self.refinement]

    @property
    def token_grid(self) -> int:
        """Image tokens along a side."""
        assert self.merge_grid is not None
        return -(-self.merge_grid // 2) if self.connector == "mlp_downsample" else self.merge_grid

    @property
    def image_tokens(self) -> int:
        """T: image tokens that one picture becomes."""
        return self.token_grid**2

    @property
    def image_size(self) -> int | None:
        """Side of the tower's input in pixels, where its config says so."""
        return _side(self.vision_config, "image_size")


def _sub_config(given: Any, default: dict[str, Any]) -> PreTrainedConfig:
    """A configuration from a configuration, a dict or nothing; a dict may lack the default's model type."""
    if isinstance(given, PreTrainedConfig):
        return given
    values = dict(default) if given is None else {"model_type": default["model_type"], **given}
    model_type = values.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        raise InputError(
            f"transformers knows no model type {model_type!r}: check the spelling or its version."
        )
    return CONFIG_MAPPING[model_type](**values)


def _side(vision_config: Any, name: str) -> int | None:
    value = getattr(vision_config, name, None)
    if isinstance(value, (list, tuple)):
        if len(set(value)) != 1:
            raise InputError(
                f"vision_config.{name} is {list(value)}: "
                "pictures are padded to a square, so both sides must be equal."
            )
        value = value[0]
    return value


def _grid(vision_config: Any) -> int:
    image_size, patch_size = _side(vision_config, "image_size"), _side(vision_config, "patch_size")
    if not image_size or not patch_size:
        raise InputError(
            f"the grid of a {vision_config.model_type!r} tower cannot be read from its config: "
            "give vision_grid (feature cells along a side of the padded square picture)."
        )
    return image_size // patch_size


def _channels(vision_config: Any, layer: int | None) -> int:
    # A pyramid (ResNet, ConvNeXt) has other channels at every stage. Counted from the end, stages and
    # `hidden_states` agree; counted from the front they do not (the stem's output comes first).
    stages = getattr(vision_config, "hidden_sizes", None)
    if stages and (layer is None or -len(stages) <= layer < 0):
        return stages[-1 if layer is None else layer]
    size = getattr(vision_config, "hidden_size", None)
    if stages or not isinstance(size, int):
        raise InputError(
            f"the channel count of layer {layer} of a {vision_config.model_type!r} tower cannot be "
            "read from its config: give vision_hidden_size."
        )
    return size

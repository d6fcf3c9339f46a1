"""RegionGPT: picture -> tower -> refinement -> pooled regions and merged patches -> connector -> text model.

Legend of axes: B rows of text, L tokens a row, I pictures in the batch (of all rows, in reading order), R
regions a picture (padded), M region mentions in the batch, C tower channels, h = w the tower's grid, G the
refined grid, T image tokens a picture, D the language model's width.

No Python loop over rows, pictures or regions, and no host synchronisation on an accelerator: counts are
checked in the processor, and here only on the CPU, where looking at a tensor is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.utils.generic import can_return_tuple

from rgpt.errors import InputError
from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.feature_map import as_map, build_refinement, build_tower, is_frozen, tower_features
from rgpt.model.generation import RegionGenerationMixin
from rgpt.model.geometry import RegionGeometry
from rgpt.model.projection import (
    Connector,
    fold_blocks,
    merge_patches,
    placeholder_mask,
    pool_regions,
    scaled_linear,
)


@dataclass
class RegionGPTImageFeatures(BaseModelOutputWithPooling):
    """What the language model needs of the pictures.

    pooler_output: `[I, T, D]` image tokens (the name is the library's). region_features: `[M, D]`, one row
    a mention, in the order of the `<region>` tokens of the flattened batch; `None` when no region was
    given.
    """

    region_features: Tensor | None = None


class RegionGPTPreTrainedModel(PreTrainedModel):
    config: Any  # a RegionGPTConfig, whose derived fields are never None
    config_class = RegionGPTConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _no_split_modules = ["Connector", "DeconvRefinement"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # The library's flat 0.02 would shrink features layer by layer; layers of ours that carry an
        # `init_std` keep their scale at any width [D], or start at zero. It is read from the layer itself
        # because transformers passes over modules outside its own package that hold no parameter directly,
        # such as our containers.
        std = getattr(module, "init_std", None)
        if std is not None:
            init.normal_(module.weight, std=std)

    # Checkpointing and adapters ask for gradients at the input. Only the language model's input needs them;
    # the library would also make the frozen tower's, and not every tower's embedding is a tensor.
    def enable_input_require_grads(self) -> None:
        self.base_model.language_model.enable_input_require_grads()

    def disable_input_require_grads(self) -> None:
        self.base_model.language_model.disable_input_require_grads()


class RegionGPTModel(RegionGPTPreTrainedModel):
    """Everything but the language model's head."""

    def __init__(self, config: RegionGPTConfig) -> None:
        super().__init__(config)
        text_size = self.config.text_config.hidden_size
        channels = self.config.vision_hidden_size
        self.vision_tower = build_tower(config.vision_config)
        self.refinement = build_refinement(config.refinement, channels)
        self.connector = Connector(
            channels, text_size, config.connector_act, blocks=config.connector == "mlp_downsample"
        )
        linear = config.region_projector == "linear"
        self.region_projector = scaled_linear(channels, text_size) if linear else None
        self.region_geometry = RegionGeometry(text_size) if config.region_geometry else None
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def train(self, mode: bool = True) -> RegionGPTModel:
        """As in torch, but a frozen tower stays in eval mode: its BatchNorm statistics must not move."""
        super().train(mode)
        if is_frozen(self.vision_tower):
            self.vision_tower.eval()
        return self

    def vision_features(self, pixel_values: Tensor) -> Tensor:
        """`[I, 3, S, S]` normalised pixels -> `[I, C, h, w]`, the tower's map before refinement.

        Worth caching: a frozen tower gives the same map in every epoch. It keeps no graph then.
        """
        learns = pixel_values.requires_grad or not is_frozen(self.vision_tower)
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            return tower_features(
                self.vision_tower,
                pixel_values,
                layer=self.config.vision_feature_layer,
                strategy=self.config.vision_feature_select_strategy,
                grid=self.config.vision_grid,
            )

    def encode(self, pixel_values: Tensor | None = None, vision_features: Tensor | None = None) -> Tensor:
        """`[I, 3, S, S]` pixels or the `[I, C, h, w]` of `vision_features` -> refined `[I, C, G, G]`."""
        if pixel_values is not None and vision_features is None:
            features = self.vision_features(pixel_values)
        elif vision_features is not None and pixel_values is None:
            features = as_map(vision_features, strategy="full", grid=self.config.vision_grid)
        else:
            raise InputError("encode needs exactly one of pixel_values and vision_features.")
        dtype = self.connector.linear_1.weight.dtype
        # A connector that someone quantised after all holds integers; features must not become such.
        return self.refinement(features.to(dtype) if dtype.is_floating_point else features)

    def pool_regions(self, refined: Tensor, region_masks: Tensor) -> Tensor:
        """`[I, C, G, G]`, `[I, R, G, G]` area shares -> `[I, R, D]` region vectors, after the connector."""
        vectors = self.name_regions(refined, region_masks)
        if self.region_geometry is None:
            return vectors
        return vectors + self.region_geometry(region_masks).to(vectors.device)  # a model may lie on several

    def name_regions(self, refined: Tensor, region_masks: Tensor) -> Tensor:
        """`pool_regions` without where the regions are: what they show alone."""
        projector = self.connector if self.region_projector is None else self.region_projector
        return projector(pool_regions(refined, region_masks))

    def merge(self, refined: Tensor) -> Tensor:
        """`[I, C, G, G]` -> `[I, T, D]` image tokens, after the connector."""
        cells = merge_patches(refined, self.config.merge_grid)
        if self.config.connector == "mlp_downsample":
            cells = fold_blocks(cells, self.config.merge_grid)
        return self.connector(cells)

    def project(
        self, refined: Tensor, region_masks: Tensor | None = None, region_index: Tensor | None = None
    ) -> RegionGPTImageFeatures:
        """From refined maps to what `mm_encoder_outputs={"image": ...}` takes: encode once, ask many times.

        Args:
            refined: `[I, C, G, G]` of `encode`.
            region_masks: `[I, R, G, G]` area shares in [0, 1]; rows of zeros are padding.
            region_index: `[M]` int64 into the flattened `I * R`, one entry a mention.
        """
        if (region_masks is None) != (region_index is None):
            raise InputError("region_masks and region_index belong together: give both or neither.")
        regions = None
        if region_masks is not None and region_index is not None:
            vectors = self.pool_regions(refined, region_masks.to(refined.device))  # [I, R, D]
            regions = vectors.flatten(0, 1).index_select(0, region_index.to(refined.device))  # [M, D]
        idle = 0.0 if regions is not None else self._idle_region(refined)
        return RegionGPTImageFeatures(pooler_output=self.merge(refined) + idle, region_features=regions)

    # Sharded training (ZeRO-3) gathers the weights of a layer on all ranks at the moment of its call: every
    # rank must call the same layers in the same order, whatever its rows hold, or all of them wait forever.
    # While training, a missing picture or region is therefore replaced by one cell that contributes zero.
    def _idle_region(self, refined: Tensor) -> Tensor | float:
        """Zero, through the layers that regions pass: for pictures without a region."""
        if not (self.training and torch.is_grad_enabled()):
            return 0.0
        return 0.0 * self.pool_regions(refined[:1, :, :1, :1], refined.new_ones(1, 1, 1, 1)).sum()

    def _idle_picture(self, inputs_embeds: Tensor) -> Tensor | float:
        """Zero, through refinement, region projector and connector: for rows of text only. No tower."""
        if not (self.training and torch.is_grad_enabled()):
            return 0.0
        weight, channels = self.connector.linear_1.weight, self.config.vision_hidden_size
        cell = torch.zeros(1, channels, 1, 1, dtype=weight.dtype, device=weight.device)
        refined = self.refinement(cell)  # [1, C, 4, 4]
        token = refined[:1, :, 0, 0].repeat(1, self.connector.linear_1.in_features // channels)
        idle = self._idle_region(refined) + 0.0 * self.connector(token).sum()
        return idle.to(inputs_embeds.dtype)

    # generate() reads this signature to know what to encode before the first step. A name that is missing
    # here would be forwarded, and computed again, at every decoding step.
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        region_masks: Tensor | None = None,
        region_index: Tensor | None = None,
        vision_features: Tensor | None = None,
        **kwargs: Any,
    ) -> RegionGPTImageFeatures:
        """Pixels or tower features, and regions -> image tokens and region vectors: `encode`, `project`."""
        return self.project(self.encode(pixel_values, vision_features), region_masks, region_index)

    def _write(
        self, inputs_embeds: Tensor, input_ids: Tensor | None, token_id: int, rows: Tensor | None, what: str
    ) -> Tensor:
        """Write `rows [n, D]` over the embeddings of `token_id`, in reading order of the flattened batch."""
        mask = placeholder_mask(input_ids, inputs_embeds, self.get_input_embeddings(), token_id)  # [B, L]
        count = 0 if rows is None else rows.shape[0]
        if mask.device.type == "cpu" and not torch.compiler.is_compiling() and int(mask.sum()) != count:
            raise InputError(
                f"the text has {int(mask.sum())} {what} tokens but {count} {what} features were given: "
                "build both with the processor."
            )
        if rows is None:
            return inputs_embeds
        return inputs_embeds.masked_scatter(
            mask.unsqueeze(-1), rows.to(inputs_embeds.device, inputs_embeds.dtype)
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        region_masks: Tensor | None = None,
        region_index: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        vision_features: Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As `RegionGPTForConditionalGeneration.forward`, up to the last hidden states `[B, L, D]`.

        What has no name here is the language model's.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("forward needs exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        features = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None or vision_features is not None:
            if features is not None:
                raise InputError("forward takes pictures or mm_encoder_outputs, not both.")
            features = self.get_image_features(pixel_values, region_masks, region_index, vision_features)
        elif features is None and region_index is not None:
            raise InputError(
                "regions were given without a picture: pass pixel_values or vision_features too."
            )
        if features is not None:
            tokens = features.pooler_output
            tokens = tokens if torch.is_tensor(tokens) else torch.cat(tokens)
            image_rows = tokens.reshape(-1, tokens.shape[-1])
            ids = self.config
            inputs_embeds = self._write(inputs_embeds, input_ids, ids.image_token_id, image_rows, "<image>")
            inputs_embeds = self._write(
                inputs_embeds, input_ids, ids.region_token_id, features.region_features, "<region>"
            )
        else:
            inputs_embeds = inputs_embeds + self._idle_picture(inputs_embeds)
        return self.language_model(inputs_embeds=inputs_embeds, **kwargs)


class RegionGPTForConditionalGeneration(RegionGenerationMixin, RegionGPTPreTrainedModel, GenerationMixin):
    """RegionGPT with the language model's head: losses, logits, `generate`."""

    def __init__(self, config: RegionGPTConfig) -> None:
        super().__init__(config)
        self.model = RegionGPTModel(config)
        text_config = self.config.text_config
        self.lm_head = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=config.head_bias)
        embedding, head, _ = vocabulary_names(self)
        self._tied_weights_keys = {head: embedding}
        self.post_init()
        # A placeholder in an answer would stand for a picture or a region that was never given.
        self.generation_config.suppress_tokens = sorted([config.image_token_id, config.region_token_id])

    def get_image_features(self, *args: Any, **kwargs: Any) -> RegionGPTImageFeatures:
        """See `RegionGPTModel.get_image_features`."""
        return self.model.get_image_features(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        region_masks: Tensor | None = None,
        region_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        vision_features: Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One pass over a batch.

        Args:
            input_ids: `[B, L]`; every picture is T `<image>` ids, every mention one `<region>` id. Rows
                without pictures are plain text.
            pixel_values: `[I, 3, S, S]`, pictures in the order of their placeholders in the flattened batch.
            region_masks: `[I, R, G, G]` area shares in [0, 1] on the refined grid; rows of zeros are padding.
            region_index: `[M]` int64 into the flattened `I * R`, one entry a `<region>` token, in reading
                order.
            vision_features: `[I, C, h, w]` tower features in place of `pixel_values` (see `vision_features`).
            mm_encoder_outputs: `{"image": features}` of `get_image_features` or `project`, in place of
                pictures.
            labels: `[B, L]`, -100 where nothing is learned. The loss is the mean over supervised tokens, or
                their sum divided by `num_items_in_batch` when that is passed.
            logits_to_keep: only the last so many positions get logits (0: all), or these columns `[K]` of all
                rows, or these rows and columns `[2, K]`: the logits are then `[1, K, V]`.

        Raises:
            InputError: when placeholders and features differ in number (looked at on the CPU only).
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            region_masks=region_masks,
            region_index=region_index,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            vision_features=vision_features,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        if isinstance(logits_to_keep, int):
            hidden = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        elif logits_to_keep.ndim == 2:
            hidden = hidden[logits_to_keep[0], logits_to_keep[1]][None]
        else:
            hidden = hidden[:, logits_to_keep]
        logits = finish_logits(self.lm_head(hidden), self.config.text_config)
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def finish_logits(logits: Tensor, text_config: Any) -> Tensor:
    """`[..., V]` logits of the head -> of the model: scaled (Granite, Cohere) or softly capped (Gemma 2)."""
    if (divisor := getattr(text_config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (factor := getattr(text_config, "logit_scale", None)) is not None:
        logits = logits * factor
    if (cap := getattr(text_config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def vocabulary_names(model: Any) -> tuple[str, ...]:
    """Weights of a RegionGPT with one row a token: the only ones that may have more rows than in a source."""
    table = model.get_input_embeddings().weight
    (embedding,) = (name for name, value in model.model.language_model.named_parameters() if value is table)
    return (f"model.language_model.{embedding}", "lm_head.weight", "lm_head.bias")

"""SAM's position-aware token of every region, and its masks, by `transformers.SamModel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rgpt.hub import model_folder, open_pretrained
from rgpt.recognizers.geometry import SAM_MEAN, SAM_STD, Geometry
from rgpt.recognizers.region_set import RegionSet
from rgpt.regions import RLE, Mask, Point

TOKEN = 1  # output tokens: IoU, mask 0 (the single-mask token), masks 1..3, prompt tokens
META_LAYER_NORM_EPS = 1e-5  # transformers' default is 1e-6; Meta's code, and so every checkpoint, used 1e-5
PROMPT_BLOCK = 64  # prompts decoded at once: each holds its own copy of the picture's 256 x 64 x 64 embedding
MASK_BLOCK = 16  # masks held as floats at the size of the canvas and of the picture


class SamOutput(NamedTuple):
    """`tokens` `[N, 256]`; `low_res_masks` `[N, 256, 256]` logits on the canvas; `iou` `[N]` as SAM guesses
    it. The latter two are empty where only tokens were asked for."""

    tokens: Tensor
    low_res_masks: Tensor
    iou: Tensor


def sam_config(values: dict[str, Any]) -> Any:
    """A `SamConfig` whose mask decoder computes as Meta's does (see META_LAYER_NORM_EPS)."""
    from transformers import SamConfig

    decoder = {**values.get("mask_decoder_config", {}), "layer_norm_eps": META_LAYER_NORM_EPS}
    return SamConfig(**{**values, "mask_decoder_config": decoder})


def load_sam(name: str) -> Any:
    """A pretrained `SamModel` (folder or hub id) that computes as Meta's does.

    Raises:
        OSError, ValueError: it cannot be found, or is another kind of model (such a checkpoint would load,
            with a warning and random weights).
    """
    from transformers import SamModel

    name = str(model_folder(name))
    values, _ = SamModel.config_class.get_config_dict(name)
    if values.get("model_type") != "sam":
        raise ValueError(f"a checkpoint of type {values.get('model_type')}")
    return open_pretrained(SamModel, name, config=sam_config(values))


class SamTokens(nn.Module):
    """Runs SAM on a picture once and on its prompts in blocks; frozen by its owner.

    Prompts: a `Point` is a positive click; every other region is its tight box, as RegionSpot was trained.
    With `dense_masks`, `Mask` and `RLE` regions also enter as SAM's own mask prompt.

    The token is what the mask decoder's transformer returns at index 1, after its last norm and before the
    mask-predicting MLP. Without masks the decoder ends there: painting a mask for every prompt costs more
    than its token. With masks a forward hook reads it, because the decoder returns masks only.
    """

    def __init__(self, model: nn.Module, dense_masks: bool = False) -> None:
        super().__init__()
        self.model: Any = model
        self.dense_masks = dense_masks

    @property
    def side(self) -> int:
        return int(self.model.config.vision_config.image_size)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return int(self.model.config.mask_decoder_config.hidden_size)

    def geometry(self, height: int, width: int) -> Geometry:
        return Geometry.longest_side(height, width, self.side)

    def encode_images(self, images: Sequence[Any]) -> Tensor:
        """Pictures -> image embeddings `[B, 256, s, s]`."""
        device = next(self.model.parameters()).device
        pixels = [self.geometry(i.height, i.width).pixels(i, SAM_MEAN, SAM_STD) for i in images]
        return self.model.get_image_embeddings(torch.stack(pixels).to(device))

    def forward(self, embedding: Tensor, regions: RegionSet, masks: bool = False) -> SamOutput:
        """Decode every region of one picture, each alone.

        Args:
            embedding: `[256, s, s]` of the picture. regions: at least one (SAM refuses none).
            masks: whether masks and their guessed IoU are wanted, too.
        """
        parts = []
        for start in range(0, len(regions), PROMPT_BLOCK):
            block = range(start, min(start + PROMPT_BLOCK, len(regions)))
            parts.append(self._decode(embedding, regions, block, masks))
        return SamOutput(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _decode(self, embedding: Tensor, regions: RegionSet, block: range, masks: bool) -> SamOutput:
        geometry = self.geometry(regions.height, regions.width)
        # Points take two prompt tokens (the click and padding), boxes two (the corners): grouped all the
        # same, because SAM encodes them in different calls.
        groups: dict[str, list[int]] = {}
        for i in block:
            region = regions.regions[i]
            kind = "point" if isinstance(region, Point) else "box"
            if self.dense_masks and isinstance(region, Mask | RLE):
                kind = "mask"
            groups.setdefault(kind, []).append(i)
        results = []
        for kind, members in groups.items():
            results.append(self._prompt(kind, members, embedding, regions, geometry, masks))
        order = torch.tensor([i for members in groups.values() for i in members]).argsort()
        joined = [torch.cat(values) for values in zip(*results, strict=True)]
        return SamOutput(*(values[order.to(values.device)] if len(values) else values for values in joined))

    def _prompt(
        self,
        kind: str,
        members: list[int],
        embedding: Tensor,
        regions: RegionSet,
        geometry: Geometry,
        masks: bool,
    ) -> SamOutput:
        device = embedding.device
        prompts: dict[str, Tensor] = {}
        if kind == "point":
            clicks = torch.tensor([[regions.regions[i].x, regions.regions[i].y] for i in members])  # type: ignore[union-attr]
            prompts["input_points"] = geometry.to_model(clicks)[None, :, None].to(device)  # [1, N, 1, 2]
            prompts["input_labels"] = torch.ones(1, len(members), 1, dtype=torch.long, device=device)
        else:
            prompts["input_boxes"] = geometry.to_model(regions.as_boxes()[members])[None].to(device)
        if kind == "mask":
            # SAM adds a mask prompt to the picture's embedding, so each prompt becomes a picture of its own.
            prompts = {key: value.transpose(0, 1) for key, value in prompts.items()}
            prompts["input_masks"] = self._mask_prompts(members, regions, geometry).to(device)
            embedding = embedding.expand(len(members), *embedding.shape)
        else:
            embedding = embedding[None]
        if not masks:
            tokens = self._tokens(embedding, **prompts)
            return SamOutput(tokens, tokens.new_zeros(0), tokens.new_zeros(0))
        caught: list[Tensor] = []
        hook = self.model.mask_decoder.transformer.register_forward_hook(
            lambda _module, _inputs, output: caught.append(output[0])
        )
        try:
            out = self.model(image_embeddings=embedding, multimask_output=False, **prompts)
        finally:
            hook.remove()
        tokens = caught[0][:, :, TOKEN].flatten(0, 1)  # [1, N, T, 256] or [N, 1, T, 256]
        return SamOutput(tokens, out.pred_masks[:, :, 0].flatten(0, 1), out.iou_scores[:, :, 0].flatten())

    def _tokens(
        self,
        embeddings: Tensor,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
    ) -> Tensor:
        """The first half of `SamModel.forward`: prompts `[B, P, …]` on embeddings `[B, 256, s, s]` -> tokens
        `[B * P, 256]`."""
        decoder = self.model.mask_decoder
        sparse, dense = self.model.prompt_encoder(input_points, input_labels, input_boxes, input_masks)
        count = sparse.shape[1]
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        queries = torch.cat([output.expand(*sparse.shape[:2], -1, -1), sparse], 2)
        positions = self.model.get_image_wide_positional_embeddings()
        decoded, _ = decoder.transformer(
            point_embeddings=queries,
            image_embeddings=(embeddings + dense).repeat_interleave(count, 0),
            image_positional_embeddings=positions.repeat_interleave(len(embeddings) * count, 0),
            attention_similarity=None,
        )
        return decoded[:, :, TOKEN].flatten(0, 1)

    def _mask_prompts(self, members: list[int], regions: RegionSet, geometry: Geometry) -> Tensor:
        """`[N, 1, m, m]` logits: SAM expects its own low-resolution output, so +-20 for inside and
        outside."""
        side = 4 * int(self.model.config.prompt_encoder_config.image_embedding_size)
        chosen = RegionSet(tuple(regions.regions[i] for i in members), regions.height, regions.width)
        return (chosen.weights(geometry, side, side)[:, None] * 2 - 1) * 20

    def full_masks(self, low_res: Tensor, geometry: Geometry) -> Tensor:
        """Low-resolution logits `[N, m, m]` -> bool masks `[N, H, W]` of the upright picture, threshold 0.

        In blocks: 1,000 masks as floats on the 1024 px canvas would be 4 GB.
        """
        size = len(low_res), geometry.height, geometry.width
        full = torch.zeros(size, dtype=torch.bool, device=low_res.device)
        for start in range(0, len(low_res), MASK_BLOCK):
            own = low_res[start : start + MASK_BLOCK, None].float()
            canvas = F.interpolate(own, (geometry.canvas_height, geometry.canvas_width), mode="bilinear")
            content = canvas[..., : geometry.content_height, : geometry.content_width]
            painted = F.interpolate(content, (geometry.height, geometry.width), mode="bilinear")
            full[start : start + MASK_BLOCK] = painted[:, 0] > 0
        return full

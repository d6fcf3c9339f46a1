"""RegionCLIP: CLIP's ResNet cut in two, so that its last stage and attention pool look at one region.

arXiv 2112.09106 (CVPR 2022) [P]; details from the published code's description [A]. Feature map = output of
layer3 (stride 16); RoIAlign to twice the attention pool's grid; layer4; attention pool. A box that covers a
picture of the tower's native size therefore gives exactly the picture's own embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from rgpt.errors import InputError
from rgpt.recognizers.base import ImageState, RegionRecognizer, check_keys
from rgpt.recognizers.clip_towers import ClipVision, OpenClipVision, build_clip, load_clip
from rgpt.recognizers.geometry import CLIP_MEAN, CLIP_STD, Geometry
from rgpt.recognizers.pooling import ROI_BLOCK, roi_features
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.text import TextEncoder

STRIDE = 16
CONFIGS = {  # open_clip's own names of the two published backbones
    "RN50": {"embed_dim": 1024, "image_size": 224, "layers": [3, 4, 6, 3], "width": 64},
    "RN50x4": {"embed_dim": 640, "image_size": 288, "layers": [4, 6, 10, 6], "width": 80},
}


@dataclass
class RegionClipConfig:
    """Args:
    clip: an open_clip ResNet, see `rgpt.recognizers.clip_towers.build_clip`.
    short_side, longest_side: pixels a picture is resized to.
    freeze_at: stages without gradients, counted from the stem: 2 = stem and layer1 (published).
    freeze_batch_norm: the norms are constants (published). False is for small towers trained from nothing,
        whose last norm of each block starts at zero and would stay there.
    """

    clip: dict[str, Any] = field(default_factory=dict)
    short_side: int = 800
    longest_side: int = 1333
    freeze_at: int = 2
    freeze_batch_norm: bool = True
    templates: str = "openai81"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RegionClipConfig:
        """Raises InputError on an unknown key."""
        check_keys("regionclip", values, {f.name for f in fields(cls)})
        return cls(**values)


class RegionClip(RegionRecognizer):
    """The recognizer. `visual` is open_clip's `ModifiedResNet`: CLIP's checkpoints load name by name."""

    rule = "softmax_zero_background"
    how = "sqrt_sigmoid"

    def __init__(
        self,
        config: RegionClipConfig,
        tokenizer: Any = None,
        parts: tuple[ClipVision, TextEncoder, float] | None = None,
    ) -> None:
        vision, text, scale = parts or build_clip(config.clip, tokenizer)
        if not isinstance(vision, OpenClipVision) or not vision.is_resnet:
            raise InputError.about(
                "RegionCLIP tower",
                "an open_clip ResNet",
                type(getattr(vision, "model", vision)).__name__,
                "use RN50 or RN50x4",
            )
        super().__init__(text, scale)
        from open_clip.utils import freeze_batch_norm_2d

        self.settings, self.templates = config, config.templates
        self.visual: Any = freeze_batch_norm_2d(vision.model) if config.freeze_batch_norm else vision.model
        stages = [
            [self.visual.conv1, self.visual.conv2, self.visual.conv3]
            + [self.visual.bn1, self.visual.bn2, self.visual.bn3],
            [self.visual.layer1],
            [self.visual.layer2],
            [self.visual.layer3],
            [self.visual.layer4],
        ]
        # A tuple, so that they are no second entry among the modules.
        self._frozen = tuple(module for stage in stages[: config.freeze_at] for module in stage)
        for module in self._frozen:
            module.requires_grad_(False)
        self.pool_grid = vision.image_size // 32

    def train(self, mode: bool = True) -> RegionClip:
        """Frozen stages stay in eval mode: a norm that is no constant would still move its means."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @classmethod
    def from_pretrained_clip(cls, name: str, **settings: Any) -> RegionClip:
        """Start from CLIP's own weights, e.g. `open_clip:RN50/openai`. Raises InputError."""
        vision, text, scale, clip_config = load_clip(name)
        config = RegionClipConfig(clip=clip_config, **settings)
        made = cls(config, parts=(vision, text, scale))
        made.kind, made.config = "regionclip", asdict(config)
        return made.eval()

    def geometry(self, height: int, width: int) -> Geometry:
        """Resized as published. A strip of a picture is padded to a whole cell: of a narrower one the
        network's strides would leave nothing."""
        made = Geometry.short_side(height, width, self.settings.short_side, self.settings.longest_side)
        return made.on_canvas(max(STRIDE, made.canvas_height), max(STRIDE, made.canvas_width))

    def feature_map(self, pixels: Tensor) -> Tensor:
        """`[B, 3, H, W]` -> layer3's output `[B, C, H/16, W/16]`."""
        found = self.visual.forward_intermediates(pixels, indices=[3], intermediates_only=True)
        return found["image_intermediates"][0]

    def roi_embeddings(self, feature: Tensor, boxes: Tensor) -> Tensor:
        """One picture's map `[C, h, w]` and boxes `[N, 4]` in model pixels -> `[N, D]`, un-normalised."""
        parts = []
        for start in range(0, len(boxes), ROI_BLOCK):
            rois = roi_features(feature, boxes[start : start + ROI_BLOCK], 2 * self.pool_grid, 1 / STRIDE)
            parts.append(self.visual.attnpool(self.visual.layer4(rois)))
        return torch.cat(parts) if parts else feature.new_zeros(0, self.embedding_dim)

    def encode_images(self, images: Sequence[Image.Image]) -> list[ImageState]:
        states = [ImageState(self.geometry(image.height, image.width)) for image in images]
        # One pass a picture size rather than one padded batch: padding is not zero after the first norm and
        # would leak into the borders of smaller pictures, so a score would depend on the batch.
        by_size: dict[tuple[int, int], list[int]] = {}
        for i, state in enumerate(states):
            size = state.geometry.canvas_height, state.geometry.canvas_width
            by_size.setdefault(size, []).append(i)
        for members in by_size.values():
            pixels = [states[i].geometry.pixels(images[i], CLIP_MEAN, CLIP_STD) for i in members]
            features = self.feature_map(torch.stack(pixels).to(self.device))
            for i, feature in zip(members, features, strict=True):
                states[i].maps["feature"] = feature
        return states

    def _encode_regions(self, states: Sequence[ImageState], regions: Sequence[RegionSet]) -> list[Tensor]:
        return [
            self.roi_embeddings(
                state.maps["feature"], state.geometry.to_model(own.as_boxes()).to(self.device)
            )
            for state, own in zip(states, regions, strict=True)
        ]

    def image_embeddings(self, states: Sequence[ImageState]) -> Tensor:
        """Whole pictures through the region path, `[B, D]`. The box is the picture's own, without padding."""
        rows = []
        for state in states:
            box = torch.tensor([[0.0, 0.0, state.geometry.content_width, state.geometry.content_height]])
            rows.append(self.roi_embeddings(state.maps["feature"], box.to(self.device)))
        return torch.cat(rows)


def visual_parameters(name: str) -> tuple[int, int]:
    """(all, trainable) parameters of `RN50` or `RN50x4`, frozen as published; norms count as parameters."""
    from open_clip.modified_resnet import ModifiedResNet

    settings = CONFIGS[name]
    with torch.device("meta"):
        visual: nn.Module = ModifiedResNet(
            settings["layers"],
            settings["embed_dim"],
            settings["width"] * 32 // 64,  # type: ignore[operator]
            settings["image_size"],
            settings["width"],
        )
    total = sum(p.numel() for p in visual.parameters())
    frozen = 0
    for prefix in ("conv1", "conv2", "conv3", "bn", "layer1"):
        frozen += sum(p.numel() for n, p in visual.named_parameters() if n.startswith(prefix))
    norms = sum(
        p.numel()
        for n, p in visual.named_parameters()
        if not n.startswith(("bn", "layer1")) and (".bn" in n or ".downsample.1" in n)
    )
    return total, total - frozen - norms

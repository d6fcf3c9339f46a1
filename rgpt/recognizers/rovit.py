"""RO-ViT: a ViT pretrained with cropped positions, and the recognizer that names regions with it.

Image tower as released [A]: patch convolution with bias, learned positions, pre-norm blocks, tanh-GELU, final
norm on all tokens, no class token and no visual projection: the text side projects into the visual width. A
picture's embedding is the mean of its tokens, a region's the mean of the top feature map under its box
(RoIAlign, unaligned as released).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.vitdet.modeling_vitdet import window_partition, window_unpartition

from rgpt.errors import InputError
from rgpt.recognizers.base import ImageState, RegionRecognizer, check_keys
from rgpt.recognizers.cropped_positions import crop_positions, whole_positions
from rgpt.recognizers.geometry import Geometry
from rgpt.recognizers.pooling import ROI_BLOCK, roi_average
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.text import TextEncoder, WordEncoder

SIZES = {  # name: width, depth, heads; B/16, L/16, H/16 of the released configuration
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "H": (1280, 32, 16),
}
ROI_SIZE = 14
POOL_BLOCK = 4 * ROI_BLOCK


@dataclass
class RoVitConfig:
    """Args:
    image_size, patch: of pretraining, pixels; positions are learned for image_size / patch cells a side.
    width, depth, heads: of the ViT; D of the text space is the width.
    detection_size: side of the square canvas at detection (longest side of the picture, padded).
    window: cells a side of the attention windows at detection; 0 is global attention.
    """

    image_size: int = 224
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    detection_size: int = 1024
    window: int = 16
    temperature: float = 0.01
    background: str = "background"
    templates: str = "openai80"
    text: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RoVitConfig:
        """Raises InputError on an unknown key or sizes that are no multiple of the patch."""
        check_keys("rovit", values, {f.name for f in fields(cls)})
        made = cls(**values)
        if made.image_size % made.patch or made.detection_size % made.patch:
            raise InputError.about(
                "rovit config",
                f"image_size and detection_size as multiples of the patch {made.patch}",
                f"{made.image_size} and {made.detection_size}",
                "round them",
            )
        return made


class Block(nn.Module):
    """Pre-norm attention and MLP on a `[B, h, w, d]` grid, in windows or over all of it."""

    def __init__(self, width: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width),
            nn.GELU("tanh"),
            nn.Linear(mlp_ratio * width, width),
        )

    def forward(self, grid: Tensor, window: int = 0) -> Tensor:
        attended = self.norm1(grid)
        if window and (grid.shape[1] > window or grid.shape[2] > window):
            if grid.shape[1] % window or grid.shape[2] % window:
                raise InputError.about(
                    "windowed attention",
                    f"a grid that windows of {window} cells fill",
                    f"{grid.shape[1]} x {grid.shape[2]} cells",
                    "choose a detection_size that is a multiple of window x patch",
                )
            windows, padded = window_partition(attended, window)
            attended = window_unpartition(
                self.attention(windows), window, padded, (grid.shape[1], grid.shape[2])
            )
        else:
            attended = self.attention(attended)
        grid = grid + attended
        return grid + self.mlp(self.norm2(grid))

    def attention(self, grid: Tensor) -> Tensor:
        """Global attention over each `[h, w]` of `[B, h, w, d]`."""
        _, height, width, channels = grid.shape
        qkv = self.qkv(grid.flatten(1, 2)).unflatten(-1, (3, self.heads, channels // self.heads))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, h*w, d/heads] each
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.project(mixed).unflatten(1, (height, width))


class RoVitTower(nn.Module):
    """The image tower. Pixels enter in 0..1, without mean and std [A]."""

    def __init__(self, config: RoVitConfig) -> None:
        super().__init__()
        grid = config.image_size // config.patch
        self.patch = config.patch
        self.embed_patches = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.positions = nn.Parameter(torch.randn(grid, grid, config.width) / config.width**0.5)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(
        self,
        pixels: Tensor,
        crops: Tensor | None = None,
        window: int = 0,
        global_blocks: Sequence[int] = (),
    ) -> Tensor:
        """`[B, 3, H, W]` -> the normalised top map `[B, d, h, w]`.

        Args:
            crops: xyxy `[B, 4]` of `random_crops`, pretraining only; None uses the whole positions, resized.
            window: cells a side; 0 is global everywhere. global_blocks: 0-based blocks that stay global.
        """
        grid = self.embed_patches(pixels).permute(0, 2, 3, 1)
        if crops is not None:
            grid = grid + crop_positions(self.positions, crops)
        else:
            grid = grid + whole_positions(self.positions, grid.shape[1], grid.shape[2])
        for number, block in enumerate(self.blocks):
            grid = block(grid, 0 if number in global_blocks else window)
        return self.norm(grid).permute(0, 3, 1, 2)

    def embed(self, pixels: Tensor, crops: Tensor | None = None) -> Tensor:
        """Pictures of the pretraining size -> `[B, d]`, the mean of the tokens."""
        return self(pixels, crops).mean((2, 3))


def global_blocks(depth: int) -> tuple[int, ...]:
    """0-based numbers of the detector's four evenly spaced global blocks, e.g. 2, 5, 8, 11 of 12."""
    count = min(4, depth)
    return tuple((i + 1) * depth // count - 1 for i in range(count))


class RoVit(RegionRecognizer):
    """Names regions by the frozen tower's map alone (the detector's z): windowed everywhere but in the last
    block, RoI mean, cosine / 0.01, against the vocabulary and a background phrase."""

    rule = "softmax_background_prompt"
    how = "power"
    normalise_first = True

    def __init__(self, config: RoVitConfig, tokenizer: Any = None, text: TextEncoder | None = None) -> None:
        super().__init__(text or _text_encoder(config, tokenizer), 1 / config.temperature)
        self.settings, self.templates, self.background = config, config.templates, config.background
        self.tower = RoVitTower(config)

    def geometry(self, height: int, width: int) -> Geometry:
        return Geometry.longest_side(height, width, self.settings.detection_size)

    def pixels(self, image: Image.Image) -> Tensor:
        """A picture on the detection canvas, `[3, S, S]` in 0..1."""
        return self.geometry(image.height, image.width).pixels(image, (0, 0, 0), (1, 1, 1))

    def top_map(self, pixels: Tensor) -> Tensor:
        """The frozen backbone's map `[B, d, h, w]`, windowed but for the last block."""
        return self.tower(pixels, None, self.settings.window, (self.settings.depth - 1,))

    def encode_images(self, images: Sequence[Image.Image]) -> list[ImageState]:
        if not images:
            return []
        features = self.top_map(torch.stack([self.pixels(image) for image in images]).to(self.device))
        return [
            ImageState(self.geometry(image.height, image.width), {"feature": feature})
            for image, feature in zip(images, features, strict=True)
        ]

    def roi_means(self, feature: Tensor, boxes: Tensor) -> Tensor:
        """`[d, h, w]` and boxes `[N, 4]` on the canvas -> `[N, d]`, 14 x 14 RoIs averaged."""
        scale = 1 / self.settings.patch
        parts = [
            roi_average(feature, boxes[i : i + POOL_BLOCK], ROI_SIZE, scale)
            for i in range(0, len(boxes), POOL_BLOCK)
        ]
        return torch.cat(parts) if parts else feature.new_zeros(0, feature.shape[0])

    def _encode_regions(self, states: Sequence[ImageState], regions: Sequence[RegionSet]) -> list[Tensor]:
        return [
            self.roi_means(state.maps["feature"], state.geometry.to_model(own.as_boxes()).to(self.device))
            for state, own in zip(states, regions, strict=True)
        ]


def _text_encoder(config: RoVitConfig, tokenizer: Any) -> TextEncoder:
    if not config.text:
        return WordEncoder(config.width)
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from rgpt.recognizers.text import TransformersText

    if config.text.get("projection_dim") != config.width or tokenizer is None:
        raise InputError.about(
            "rovit text tower",
            f"projection_dim {config.width}, the tower's width, and its tokenizer",
            f"{config.text.get('projection_dim')} and {type(tokenizer).__name__}",
            "the text projects into the visual width: there is no visual projection",
        )
    return TransformersText(CLIPTextModelWithProjection(CLIPTextConfig(**config.text)), tokenizer)

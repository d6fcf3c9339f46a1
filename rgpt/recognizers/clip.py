"""Baselines: plain CLIP on crops, on crops with everything outside the region blanked, and mask-pooled.

Crops cost one pass of the tower a region; mask pooling one pass a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rgpt.errors import InputError
from rgpt.recognizers.base import ImageState, RegionRecognizer
from rgpt.recognizers.clip_towers import ClipVision, unit
from rgpt.recognizers.frozen import Frozen
from rgpt.recognizers.geometry import Geometry
from rgpt.recognizers.pooling import mask_average
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.text import TextEncoder
from rgpt.regions import mask_shares

MODES = ("crop", "masked-crop", "pooled")
CROP_BLOCK = 64


class ClipRecognizer(RegionRecognizer):
    """CLIP on regions, nothing trained.

    Args:
        mode: `crop` (the box, stretched to the tower's square [D]), `masked-crop` (the same with pixels
        outside
            the region set to the tower's mean colour), `pooled` (mean of the dense map under the region).
        context: crops are grown to this multiple of their box about its centre.
    """

    normalise_first = True

    def __init__(
        self,
        vision: ClipVision,
        text: TextEncoder,
        logit_scale: float = 100.0,
        mode: str = "crop",
        context: float = 1.0,
        templates: Any = "openai80",
    ) -> None:
        super().__init__(text, logit_scale)
        if mode not in MODES:
            raise InputError.about("CLIP mode", f"one of {', '.join(MODES)}", repr(mode))
        self.vision = Frozen(vision)
        self.mode, self.context, self.templates = mode, context, templates

    @property
    def tower(self) -> ClipVision:
        return self.vision.module  # type: ignore[return-value]

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> list[ImageState]:
        side = self.tower.image_size
        states = [ImageState(Geometry.squash(image.height, image.width, side)) for image in images]
        if self.mode != "pooled":
            for state, image in zip(states, images, strict=True):
                state.maps["image"] = image.convert("RGB")
            return states
        pixels = [
            s.geometry.pixels(i, self.tower.mean, self.tower.std) for s, i in zip(states, images, strict=True)
        ]
        dense = self.tower.dense(torch.stack(pixels).to(self.device))
        for state, feature in zip(states, dense, strict=True):
            state.maps["dense"] = feature
        return states

    @torch.no_grad()
    def _encode_regions(self, states: Sequence[ImageState], regions: Sequence[RegionSet]) -> list[Tensor]:
        if self.mode == "pooled":
            return [self._pooled(s, r) for s, r in zip(states, regions, strict=True)]
        return [self._cropped(s.maps["image"], r) for s, r in zip(states, regions, strict=True)]

    def _pooled(self, state: ImageState, regions: RegionSet) -> Tensor:
        dense = state.maps["dense"]
        weights = regions.weights(state.geometry, *dense.shape[-2:]).to(dense.device)
        return unit(mask_average(dense, weights))

    def _cropped(self, image: Image.Image, regions: RegionSet) -> Tensor:
        parts = []
        for start in range(0, len(regions), CROP_BLOCK):  # 1,000 crops at once would be 600 MB
            crops = self.crops(image, regions, range(start, min(start + CROP_BLOCK, len(regions))))
            parts.append(self.tower.embed(torch.stack(crops).to(self.device)))
        return unit(torch.cat(parts))

    def crops(self, image: Image.Image, regions: RegionSet, chosen: Iterable[int]) -> list[Tensor]:
        """The pictures that the tower sees of the `chosen` regions, `[3, S, S]` each."""
        side, mean, std = self.tower.image_size, self.tower.mean, self.tower.std
        boxes = regions.as_boxes().tolist()
        result = []
        for region, box in ((regions.regions[i], boxes[i]) for i in chosen):
            x1, y1, x2, y2 = grown(box, self.context, image.width, image.height)
            geometry = Geometry.squash(y2 - y1, x2 - x1, side)
            pixels = geometry.pixels(image.crop((x1, y1, x2, y2)), mean, std)
            if self.mode == "masked-crop":
                mask = region.to_mask(image.height, image.width)[y1:y2, x1:x2]
                # Zero after normalisation is the mean colour; edges blend by the share that is inside.
                pixels = pixels * torch.from_numpy(mask_shares(mask, *geometry.cells(side, side)))
            result.append(pixels)
        return result


def grown(box: Sequence[float], context: float, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole-pixel corners of a box grown about its centre and cut to the picture; at least one pixel."""
    x1, y1, x2, y2 = box
    reach_x, reach_y = (x2 - x1) * (context - 1) / 2, (y2 - y1) * (context - 1) / 2
    left, top = max(0, math.floor(x1 - reach_x)), max(0, math.floor(y1 - reach_y))
    right, bottom = min(width, math.ceil(x2 + reach_x)), min(height, math.ceil(y2 + reach_y))
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)

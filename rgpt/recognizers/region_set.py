"""All regions of one picture, as every recognizer takes them: together, in pixels of the upright picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rgpt.errors import InputError
from rgpt.recognizers.geometry import Geometry
from rgpt.regions import RLE, Box, Mask, Point, Polygon, Region, Scribble, box_shares, region_shares


@dataclass(frozen=True)
class RegionSet:
    """The regions of one height x width picture. None is fine: a set may be empty.

    Args:
        regions: any of `rgpt.regions`.
        scores: how sure their source is that each is an object, `[N]` in 0..1, or None (given by a person).
        logits: the same before the sigmoid, `[N]`, where the source has it (RPN).
        source: who proposed them, for reports.

    Raises:
        InputError: a region lies outside the picture, or a mask is of another size; names the region's
            number, counted from 1.
    """

    regions: tuple[Region, ...]
    height: int
    width: int
    scores: Tensor | None = None
    logits: Tensor | None = None
    source: str = "given"
    _boxes: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", tuple(self.regions))
        rows = []
        for number, region in enumerate(self.regions, start=1):
            if not isinstance(region, Box | Polygon | Mask | RLE | Scribble | Point):
                raise InputError.about(
                    f"region {number}",
                    "a region of rgpt.regions",
                    type(region).__name__,
                    "make a Box, Polygon, Mask, RLE, Scribble or Point of it",
                )
            try:
                rows.append(region.bounds(self.height, self.width).xyxy)
            except InputError as error:
                raise InputError(f"region {number}: {error}") from error
        object.__setattr__(self, "_boxes", torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))
        for name in ("scores", "logits"):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != (len(self.regions),):
                raise InputError.about(
                    f"{name} of the regions",
                    f"one a region, {len(self.regions)}",
                    str(tuple(value.shape)),
                    "give as many as there are regions",
                )

    @classmethod
    def of_boxes(
        cls,
        boxes: Tensor,
        height: int,
        width: int,
        scores: Tensor | None = None,
        logits: Tensor | None = None,
        source: str = "given",
    ) -> RegionSet:
        """From xyxy boxes `[N, 4]` in original pixels; boxes without area or outside are dropped."""
        cut = boxes.clone().float()
        cut[:, 0::2] = cut[:, 0::2].clamp(0, width)
        cut[:, 1::2] = cut[:, 1::2].clamp(0, height)
        keep = (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
        regions = tuple(Box(*row) for row in cut[keep].tolist())
        return cls(
            regions,
            height,
            width,
            None if scores is None else scores[keep],
            None if logits is None else logits[keep],
            source,
        )

    def __len__(self) -> int:
        return len(self.regions)

    def subset(self, indices: Sequence[int]) -> RegionSet:
        """These regions of the set, in this order, with their scores."""
        order = torch.tensor(indices, dtype=torch.long)
        return RegionSet(
            tuple(self.regions[i] for i in indices),
            self.height,
            self.width,
            None if self.scores is None else self.scores[order],
            None if self.logits is None else self.logits[order],
            self.source,
        )

    def as_boxes(self) -> Tensor:
        """The tight boxes, xyxy float32 `[N, 4]`."""
        return self._boxes

    def as_masks(self) -> np.ndarray:
        """The regions' pixels, bool `[N, height, width]`."""
        masks = [region.to_mask(self.height, self.width) for region in self.regions]
        return np.stack(masks) if masks else np.zeros((0, self.height, self.width), dtype=bool)

    def weights(self, geometry: Geometry, grid_height: int, grid_width: int) -> Tensor:
        """The share of each cell of a grid over the model's canvas that each region covers.

        Returns:
            float32 `[N, grid_height, grid_width]` in 0..1. A region of any size keeps a positive weight.
        """
        rows, columns = geometry.cells(grid_height, grid_width)
        result = torch.zeros(len(self), grid_height, grid_width)
        for number, region in enumerate(self.regions):
            if isinstance(region, Box):  # its corners are not rounded to pixels
                shares = box_shares(self._boxes[number].double().numpy(), rows, columns)
            else:
                shares = region_shares(region, self.height, self.width, rows, columns)
            result[number] = torch.from_numpy(shares)
        return result


def encode_masks(masks: np.ndarray) -> list[RLE | None]:
    """Bool masks `[N, H, W]` as run lengths, which are small; None where one is empty."""
    return [RLE.from_mask(mask) if mask.any() else None for mask in masks]


def pad_sets(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of several pictures, `[N_b, ...]` each -> padded `[B, N, ...]` and valid bool `[B, N]`."""
    counts = torch.tensor([len(value) for value in values])
    padded = pad_sequence(list(values), batch_first=True)
    valid = torch.arange(padded.shape[1])[None] < counts[:, None]
    return padded, valid.to(padded.device)

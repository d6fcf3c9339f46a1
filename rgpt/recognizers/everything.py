"""Propose regions, name them, keep the best: one call, for an "everything" button and for detection.

for found in name_everything(image, "regionspot@FOLDER", ["dog", "cat"], "sam:facebook/sam-vit-base"):
    print(found.names[0], found.score, found.region)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from rgpt.errors import InputError
from rgpt.recognizers.base import RegionRecognizer
from rgpt.recognizers.geometry import Geometry
from rgpt.recognizers.loading import open_recognizer
from rgpt.recognizers.proposals import ProposalSource, best, propose
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.scores import combine
from rgpt.recognizers.vocabulary import Vocabulary
from rgpt.regions import Box, Mask, Region

OVERLAP_GRID = 96
"""Cells a side on which masks are compared with one another."""


@dataclass(frozen=True)
class NamedRegion:
    """A region of the picture and what it is.

    `names`: (name, probability), best first; `score`: the best name's probability fused with how sure the
    source is that this is an object; `objectness`: the latter, or None where the source does not say.
    """

    region: Region
    names: tuple[tuple[str, float], ...]
    score: float
    objectness: float | None = None


def name_everything(
    image: Image.Image,
    recognizer: RegionRecognizer | str,
    vocabulary: Vocabulary | Sequence[str],
    source: RegionSet | ProposalSource | str,
    *,
    most: int = 100,
    top: int = 5,
    floor: float = 0.0,
    iou: float | None = 0.5,
    how: str | None = None,
    masks: bool = False,
    image_id: int | str | None = None,
) -> list[NamedRegion]:
    """Every region that a source finds on the upright picture, named; best score first.

    Args:
        recognizer: or its name, see `open_recognizer`; an opened one is kept for the next call.
        source: or its name, see `rgpt.recognizers.proposals`; or regions found before.
        most: proposals looked at, the source's best. top: names a region. floor: scores must be above it.
        iou: of two regions with the same best name that overlap by more, the better stays; None keeps both.
        how: fusion with objectness, see `combine`; None is the recognizer's own.
        masks: give back SAM's mask of each region instead of the region (RegionSpot only).

    Raises:
        InputError: an unknown recognizer or source, an empty vocabulary, masks of another recognizer.
    """
    if isinstance(recognizer, str):
        recognizer = _opened(recognizer)
    if masks and not hasattr(recognizer, "masks"):
        raise InputError.about("masks", "a regionspot", f"a {recognizer.kind}", "leave masks out")
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = recognizer.vocabulary(vocabulary)
    found = (
        best(source, most) if isinstance(source, RegionSet) else propose(image, source, (), image_id, most)
    )
    if not len(found):
        return []
    state, scores = recognizer.look(image, found, vocabulary)
    # NaN (sqrt_logit of a negative logit) is not above any floor: such regions vanish, as published.
    fused, label = combine(scores.probs, found, how or recognizer.how).max(1)
    with torch.no_grad():
        regions = _masks(recognizer.masks(state, found), found) if masks else found.regions  # type: ignore[operator]
    order = _chosen(found, fused.cpu(), label.cpu(), floor, iou)
    names = scores.topk(top)
    return [
        NamedRegion(
            regions[i],
            tuple(names[i]),
            float(fused[i]),
            None if found.scores is None else float(found.scores[i]),
        )
        for i in order
    ]


def _chosen(found: RegionSet, scores: Tensor, labels: Tensor, floor: float, iou: float | None) -> list[int]:
    """Indices above the floor, best first, less what overlaps a better one of its name."""
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > floor]
    if iou is None:
        return order.tolist()
    same = labels[order, None] == labels[None, order]
    rivals = (_overlaps(found, order) > iou) & same
    chosen: list[int] = []  # places in `order`
    for place in range(len(order)):
        if not rivals[place, chosen].any():
            chosen.append(place)
    return order[chosen].tolist()


def _overlaps(found: RegionSet, order: Tensor) -> Tensor:
    """IoU of every two regions `[N, N]`: of boxes as such, of masks on a grid.

    Masks are not compared by their boxes: a few stray pixels make a large box of a small thing.
    """
    if all(isinstance(region, Box) for region in found.regions):
        boxes = found.as_boxes()[order]
        return box_iou(boxes, boxes)
    whole = Geometry.squash(found.height, found.width, OVERLAP_GRID)
    cells = found.weights(whole, OVERLAP_GRID, OVERLAP_GRID)[order].flatten(1)
    # Σ min / Σ max of shares: |a| + |b| = Σ min + Σ max, and Σ |a - b| = Σ max - Σ min.
    apart, together = torch.cdist(cells, cells, p=1), cells.sum(1)[:, None] + cells.sum(1)[None]
    return (together - apart) / (together + apart).clamp_min(1e-9)


def _masks(masks: Tensor, found: RegionSet) -> tuple[Region, ...]:
    """SAM's masks; where one is empty the region stays as it was proposed."""
    arrays = masks.cpu().numpy()
    return tuple(Mask(own) if own.any() else r for own, r in zip(arrays, found.regions, strict=True))


@lru_cache(maxsize=2)
def _opened(name: str) -> RegionRecognizer:
    return open_recognizer(name)

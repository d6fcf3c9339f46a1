"""RO-ViT's detector: windowed ViT, simple pyramid, centerness proposals, class-agnostic heads, ensembled
scores.

RO-ViT's own detector is unreleased; values are those of the authors' F-VLM/DITO detector in the same folder
[A] (docs/recognizers.md says which). Inputs are square canvases, so every level's cells are powers of two
apart.

Axes: B pictures, N RoIs of one picture, C classes, d the tower's width, D the text space (= d).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.detection.roi_heads import maskrcnn_loss, paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image

from rgpt.recognizers.centerness_rpn import CenternessRpn
from rgpt.recognizers.detection_parts import BoxCoder, sample_rois
from rgpt.recognizers.detector_files import load_beside, save_beside
from rgpt.recognizers.ensemble import BASE_WEIGHT, NOVEL_WEIGHT, OBJECTNESS_POWER, ensemble, shrink_boxes
from rgpt.recognizers.frozen import Frozen
from rgpt.recognizers.region_set import RegionSet, encode_masks
from rgpt.recognizers.rovit import RoVit, global_blocks
from rgpt.recognizers.scores import Detections
from rgpt.recognizers.vocabulary import TextBank, Vocabulary
from rgpt.regions import RLE

LEVELS = ("2", "3", "4", "5")
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
MASK_BLOCK = 16  # masks held as floats at the picture's size


@dataclass
class DetectorConfig:
    """Args:
    channels: of pyramid and heads. fully_connected: width of the box head's last layer.
    background_weight: of class 0 in the cross entropy.
    base_weight, novel_weight, power: see `ensemble`; final = objectness^power · score.
    roi_scale: RoIs of the frozen tower are shrunk to this about their centre (DITO: 0.7).
    backbone_rate: the gradient into the trained tower is multiplied by this [R: 0.1; DITO 0.6].
    """

    channels: int = 256
    fully_connected: int = 1024
    rois: int = 512
    background_weight: float = 0.9
    base_weight: float = BASE_WEIGHT
    novel_weight: float = NOVEL_WEIGHT
    power: float = OBJECTNESS_POWER
    roi_scale: float = 1.0
    backbone_rate: float = 0.1
    nms: float = 0.5
    floor: float = 0.0
    per_image: int = 300
    post_nms: int = 1000


class SimplePyramid(nn.Module):
    """ViTDet's pyramid from one map: x4 and x2 by deconvolution, x1, x1/2 by max pooling; 1x1 and 3x3
    each."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(width, width // 2, 2, 2),
                    LayerNorm2d(width // 2, eps=1e-6),
                    nn.GELU(),
                    nn.ConvTranspose2d(width // 2, width // 4, 2, 2),
                ),
                nn.ConvTranspose2d(width, width // 2, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self.outputs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, channels, 1, bias=False),
                LayerNorm2d(channels, eps=1e-6),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm2d(channels, eps=1e-6),
            )
            for inputs in (width // 4, width // 2, width, width)
        )

    def forward(self, feature: Tensor) -> OrderedDict[str, Tensor]:
        """`[B, d, h, w]` -> levels "2".."5", `[B, channels, 4h..h/2, 4w..w/2]`."""
        return OrderedDict(
            (level, output(scale(feature)))
            for level, scale, output in zip(LEVELS, self.scales, self.outputs, strict=True)
        )


class NormalizedLinear(nn.Module):
    """y = scale · (x/‖x‖)(W/‖W‖), no bias; also as a 1x1 convolution over `[N, C, h, w]`."""

    def __init__(self, inputs: int, outputs: int, scale: float = 20.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * 0.01)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        weight = F.normalize(self.weight, dim=1)
        if x.dim() == 4:
            return self.scale * F.conv2d(F.normalize(x, dim=1), weight[:, :, None, None])
        return self.scale * F.normalize(x, dim=1) @ weight.T


class BoxHead(nn.Module):
    """RoI features `[N, channels, 7, 7]` -> embeddings `[N, D]` and class-agnostic deltas `[N, 4]`."""

    def __init__(self, channels: int, fully_connected: int, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm2d(channels, eps=1e-6),
                nn.ReLU(),
            ]
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * 49, fully_connected, bias=False),
            nn.LayerNorm(fully_connected, eps=1e-6),
            nn.ReLU(),
        )
        self.embedding = NormalizedLinear(fully_connected, dim)
        self.deltas = nn.Linear(fully_connected, 4)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.deltas.bias)

    def forward(self, rois: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.dense(self.convolutions(rois))
        return self.embedding(hidden), self.deltas(hidden)


class MaskHead(nn.Module):
    """RoI features `[N, channels, 14, 14]` -> class-agnostic mask logits `[N, 1, 28, 28]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        layers += [nn.ConvTranspose2d(channels, channels, 2, 2), nn.ReLU(), NormalizedLinear(channels, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, rois: Tensor) -> Tensor:
        return self.layers(rois)


class Target(NamedTuple):
    """Ground truth on the canvas: `boxes` `[G, 4]`, `labels` `[G]` rows of the base vocabulary, `masks`
    `[G, S, S]` or None."""

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None


class RoVitDetector(nn.Module):
    """The detector; `recognizer` keeps its pretrained tower frozen for z, a copy of it trains.

    Args:
        recognizer: pretrained. config: see `DetectorConfig`.
    """

    def __init__(self, recognizer: RoVit, config: DetectorConfig | None = None) -> None:
        super().__init__()
        from copy import deepcopy

        self.config = config = config or DetectorConfig()
        width = recognizer.settings.width
        self.tower = deepcopy(recognizer.tower).requires_grad_(True)
        self.recognizer = Frozen(recognizer)
        self.pyramid = SimplePyramid(width, config.channels)
        patch = recognizer.settings.patch  # the pyramid's levels are the patch grid times 4, 2, 1, 1/2
        self.rpn = CenternessRpn(
            config.channels, config.post_nms, strides=(patch / 4, patch / 2, patch, 2 * patch)
        )
        self.box_pool = MultiScaleRoIAlign(LEVELS, 7, 2)
        self.mask_pool = MultiScaleRoIAlign(LEVELS, 14, 2)
        self.box_head = BoxHead(config.channels, config.fully_connected, recognizer.embedding_dim)
        self.mask_head = MaskHead(config.channels)
        self.log_theta = nn.Parameter(torch.zeros(()))
        self.coder = BoxCoder(BOX_WEIGHTS)

    @property
    def named(self) -> RoVit:
        return self.recognizer.module  # type: ignore[return-value]

    def pyramid_features(self, pixels: Tensor) -> OrderedDict[str, Tensor]:
        """`[B, 3, S, S]` -> the pyramid's levels."""
        settings, rate = self.named.settings, self.config.backbone_rate
        feature = self.tower(pixels, None, settings.window, global_blocks(settings.depth))
        feature = feature * rate + feature.detach() * (1 - rate)  # the same value, a smaller gradient
        return self.pyramid(feature)

    def class_logits(self, embedded: Tensor, bank: TextBank) -> Tensor:
        """`[N, D]` -> `[N, 1 + C]`: cosine / (0.01 θ), background phrase first."""
        texts = torch.cat([_background(bank)[None], bank.weights])
        scale = self.named.logit_scale / self.log_theta.exp()
        return scale * F.normalize(embedded, dim=-1) @ texts.T

    def losses(self, pixels: Tensor, targets: Sequence[Target], bank: TextBank) -> dict[str, Tensor]:
        """All losses of one step.

        Args:
            pixels: `[B, 3, S, S]`. targets: one a picture. bank: the base classes.
        """
        features = self.pyramid_features(pixels)
        size = (pixels.shape[-2], pixels.shape[-1])
        proposals, _, losses = self.rpn(features, size, [target.boxes for target in targets])
        rois = [
            sample_rois(own, target.boxes, target.labels, self.config.rois)
            for own, target in zip(proposals, targets, strict=True)
        ]
        sizes = [size] * len(targets)
        pooled = self.box_pool(features, [r.boxes for r in rois], sizes)
        embedded, deltas = self.box_head(pooled)
        labels = torch.cat([r.labels for r in rois]) + 1  # 0 is background
        weight = torch.ones(1 + len(bank.names), device=pixels.device)
        weight[0] = self.config.background_weight
        losses["loss_class"] = F.cross_entropy(self.class_logits(embedded, bank), labels, weight)
        truth = [
            target.boxes[r.matched] if len(target.boxes) else r.boxes
            for r, target in zip(rois, targets, strict=True)
        ]
        positive = labels > 0
        wanted = self.coder.encode_single(torch.cat(truth), torch.cat([r.boxes for r in rois]))
        huber = F.huber_loss(deltas[positive], wanted[positive], reduction="sum", delta=1.0)
        losses["loss_box"] = huber / max(1, len(labels))
        if all(target.masks is not None for target in targets) and positive.any():
            chosen = [r.boxes[r.labels >= 0] for r in rois]
            logits = self.mask_head(self.mask_pool(features, chosen, sizes))
            losses["loss_mask"] = maskrcnn_loss(
                logits,
                chosen,
                [t.masks for t in targets],
                # Class-agnostic: every mask is read from the only channel.
                [torch.zeros(len(t.boxes), dtype=torch.long, device=pixels.device) for t in targets],
                [r.matched[r.labels >= 0] for r in rois],
            )
        return losses

    @torch.no_grad()
    def propose(self, images: Sequence[Image.Image]) -> list[RegionSet]:
        """Class-agnostic proposals in original pixels, with σ(o) and o, best first."""
        if not images:
            return []
        pixels = torch.stack([self.named.pixels(i) for i in images]).to(self.named.device)
        found, logits, _ = self.rpn(self.pyramid_features(pixels), (pixels.shape[-2], pixels.shape[-1]))
        return [
            RegionSet.of_boxes(
                self.named.geometry(i.height, i.width).to_original(boxes.cpu()),
                i.height,
                i.width,
                own.sigmoid().cpu(),
                own.cpu(),
                "rovit",
            )
            for i, boxes, own in zip(images, found, logits, strict=True)
        ]

    @torch.no_grad()
    def detect(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary | Sequence[str],
        masks: bool = True,
    ) -> list[Detections]:
        """Boxes, names, scores and, if wanted, masks; `region` is the proposal of each.

        `vocabulary.is_base` chooses each class's ensemble weight.
        """
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = self.named.vocabulary(vocabulary)
        bank = self.named.encode_vocabulary(vocabulary)
        return [self._detect(image, bank, masks) for image in images]

    def _detect(self, image: Image.Image, bank: TextBank, masks: bool) -> Detections:
        pixels = self.named.pixels(image)[None].to(self.named.device)
        size = (pixels.shape[-2], pixels.shape[-1])
        features = self.pyramid_features(pixels)
        found, logits, _ = self.rpn(features, size)
        proposals, objectness = found[0], logits[0].sigmoid()
        embedded, deltas = self.box_head(self.box_pool(features, [proposals], [size]))
        p = self.class_logits(embedded, bank).softmax(-1)
        boxes = clip_boxes_to_image(self.coder.decode_single(deltas, proposals), size)
        z = self.frozen_scores(pixels, proposals, bank)  # where it was proposed, not where it is moved to [A]
        scores = self.scores(p, z, objectness, bank.is_base)
        geometry = self.named.geometry(image.height, image.width)
        extent = boxes.new_tensor([geometry.content_width, geometry.content_height])
        boxes = torch.minimum(boxes, extent.repeat(2))  # nothing is to be found in the padding
        region, label = torch.nonzero(scores > self.config.floor).unbind(1)
        own, own_boxes = scores[region, label], boxes[region]
        sound = (own_boxes[:, 2] > own_boxes[:, 0] + 1e-2) & (own_boxes[:, 3] > own_boxes[:, 1] + 1e-2)
        region, label, own, own_boxes = region[sound], label[sound], own[sound], own_boxes[sound]
        keep = batched_nms(own_boxes, own, label, self.config.nms)[: self.config.per_image]
        region, label, own, own_boxes = region[keep], label[keep], own[keep], own_boxes[keep]
        original = geometry.to_original(own_boxes)
        painted: tuple[RLE | None, ...] | None = None
        if masks:
            logits_28 = self.mask_head(self.mask_pool(features, [own_boxes], [size]))
            painted = _paint(logits_28, original, image.height, image.width)
        return Detections(original.cpu(), own.cpu(), label.cpu(), region.cpu(), painted)

    def frozen_scores(self, pixels: Tensor, boxes: Tensor, bank: TextBank) -> Tensor:
        """z `[N, 1 + C]` of boxes on one canvas, background first, from the frozen tower alone."""
        feature = self.named.top_map(pixels)[0]
        means = self.named.roi_means(feature, shrink_boxes(boxes, self.config.roi_scale))
        texts = torch.cat([_background(bank)[None], bank.weights])
        return (self.named.logit_scale * F.normalize(means, dim=-1) @ texts.T).softmax(-1)

    def scores(self, p: Tensor, z: Tensor, objectness: Tensor, is_base: Tensor | None) -> Tensor:
        """objectness^δ · ensemble(p, z), without the background column: `[N, C]`."""
        c = self.config
        return objectness[:, None] ** c.power * ensemble(p, z, is_base, c.base_weight, c.novel_weight)[:, 1:]


def _paint(logits: Tensor, boxes: Tensor, height: int, width: int) -> tuple[RLE | None, ...]:
    """Mask logits `[N, 1, 28, 28]` of boxes `[N, 4]` in original pixels, at the picture's size; in blocks."""
    found: list[RLE | None] = []
    for start in range(0, len(boxes), MASK_BLOCK):
        own = slice(start, start + MASK_BLOCK)
        pasted: Any = paste_masks_in_image(logits[own].sigmoid(), boxes[own], (height, width))
        found += encode_masks(pasted[:, 0].cpu().numpy() > 0.5)
    return tuple(found)


def _background(bank: TextBank) -> Tensor:
    assert bank.background is not None  # RoVit always embeds its background phrase
    return bank.background


def save_detector(detector: RoVitDetector, folder: Path | str) -> None:
    """Write recognizer, settings and heads into one folder."""
    save_beside(detector.named, detector, asdict(detector.config), folder)


def load_detector(folder: Path | str) -> RoVitDetector:
    """Read what `save_detector` wrote. Raises InputError when the folder holds something else."""
    return load_beside(folder, "rovit", "rovit-detector", lambda r, s: RoVitDetector(r, DetectorConfig(**s)))

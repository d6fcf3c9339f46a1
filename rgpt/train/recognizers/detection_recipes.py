"""Training of the two detectors on labelled regions of base classes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rgpt.errors import InputError
from rgpt.recognizers.loading import load_recognizer
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.regionclip import RegionClip
from rgpt.recognizers.regionclip_detector import COCO, LVIS, RegionClipDetector, save_transfer
from rgpt.recognizers.rovit import RoVit
from rgpt.recognizers.rovit_detector import DetectorConfig, RoVitDetector, Target, save_detector
from rgpt.recognizers.vocabulary import Vocabulary
from rgpt.train.recognizers.config import RunConfig
from rgpt.train.recognizers.data import Batch
from rgpt.train.recognizers.example import Example
from rgpt.train.recognizers.recipe import Recipe, listed
from rgpt.train.recognizers.regionclip_recipe import Proposals

PROPOSALS = 1000


def class_rows(example: Example, vocabulary: Vocabulary) -> Tensor:
    """Each region's row of the vocabulary, `[N]`: of the last of its names, the most specific one.

    Raises:
        InputError: a name is not in the vocabulary.
    """
    row_of = dict(zip(vocabulary.given, vocabulary.rows, strict=True))
    rows = []
    for names in example.names:
        if names[-1] not in row_of:
            raise InputError(f"name {names[-1]!r} is not in the vocabulary; add it or drop the region.")
        rows.append(row_of[names[-1]])
    return torch.tensor(rows, dtype=torch.long)


def usable(batch: Batch) -> tuple[Example, ...]:
    """`model.names` may restrict the vocabulary; regions of other names are then no ground truth."""
    known = set(batch.names)
    result = []
    for example in batch.examples:
        names = [tuple(name for name in own if name in known) for own in example.names]
        kept = [i for i, own in enumerate(names) if own]
        regions = tuple(example.regions.regions[i] for i in kept)
        own_set = RegionSet(regions, example.regions.height, example.regions.width)
        result.append(Example(example.image, own_set, tuple(names[i] for i in kept), example.caption))
    return tuple(result)


class RoVitDetectorRecipe(Recipe):
    """`init`: a pretrained rovit folder; `model`: fields of `DetectorConfig`, `names` to train on (base
    classes), `masks`: whether regions are masks and the mask head trains."""

    undecayed = ("detector.tower.",)  # the released configuration decays everything but the backbone [A]

    def __init__(self, config: RunConfig) -> None:
        if not config.init:
            raise InputError("recipe rovit-detector: init must name a pretrained rovit folder.")
        recognizer = load_recognizer(config.init)
        if not isinstance(recognizer, RoVit):
            raise InputError(f"init {config.init!r} is a {recognizer.kind}: name a rovit folder.")
        model = dict(config.model)
        names, masks = listed(model.pop("names", None)), bool(model.pop("masks", False))
        try:
            settings = DetectorConfig(**model)
        except TypeError as error:
            raise InputError.about(
                "model of rovit-detector",
                f"keys {', '.join(asdict(DetectorConfig()))}, names, masks",
                str(error),
            ) from error
        super().__init__(recognizer)
        self.detector = RoVitDetector(recognizer, settings)
        self.names, self.masks = names, masks
        recognizer.requires_grad_(False)

    def train(self, mode: bool = True) -> RoVitDetectorRecipe:
        super().train(mode)
        self.recognizer.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        named: Any = self.recognizer
        names = tuple(self.names or batch.names)
        batch = Batch(batch.examples, f"{batch.source} detector", names, batch.step)
        vocabulary, bank = self.vocabulary(batch), self.bank(batch)
        examples = usable(batch)
        pixels = torch.stack([named.pixels(e.image) for e in examples]).to(named.device)
        targets = [self._target(e, vocabulary, named, pixels.shape[-1]) for e in examples]
        return self.detector.losses(pixels, targets, bank)

    def _target(self, example: Example, vocabulary: Vocabulary, named: RoVit, side: int) -> Target:
        geometry = named.geometry(example.image.height, example.image.width)
        boxes = geometry.to_model(example.regions.as_boxes()).to(named.device)
        masks = None
        if self.masks:
            masks = (example.regions.weights(geometry, side, side) > 0.5).float().to(named.device)
        return Target(boxes, class_rows(example, vocabulary).to(named.device), masks)

    def save(self, folder: Path) -> None:
        save_detector(self.detector, folder)


class RegionClipTransferRecipe(Recipe):
    """`init`: a pretrained regionclip folder; `model`: `setting` coco or lvis, `names`, `proposals` (grid, or
    another of `Proposals`; the ground truth always joins them)."""

    keys = ("setting", "names", "proposals")

    def __init__(self, config: RunConfig) -> None:
        recognizer = load_recognizer(config.init) if config.init else None
        if not isinstance(recognizer, RegionClip):
            raise InputError("recipe regionclip-transfer: init must name a pretrained regionclip folder.")
        super().__init__(recognizer)
        setting = config.model.get("setting", "coco")
        if setting not in ("coco", "lvis"):
            raise InputError.about("setting", "coco or lvis", repr(setting))
        self.detector = RegionClipDetector(recognizer, LVIS if setting == "lvis" else COCO)
        self.names = listed(config.model.get("names"))
        self.proposals = Proposals(str(config.model.get("proposals", "grid")), PROPOSALS)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        recognizer: RegionClip = self.recognizer  # type: ignore[assignment]
        names = tuple(self.names or batch.names)
        batch = Batch(batch.examples, f"{batch.source} transfer", names, batch.step)
        vocabulary, bank = self.vocabulary(batch), self.bank(batch)
        examples = usable(batch)
        states = recognizer.encode_images([e.image for e in examples])
        proposals = [self.proposals(e, recognizer.device) for e in examples]
        truth = [(e.regions.as_boxes(), class_rows(e, vocabulary)) for e in examples]
        return self.detector.losses(states, proposals, truth, bank)

    def save(self, folder: Path) -> None:
        save_transfer(self.detector, folder)

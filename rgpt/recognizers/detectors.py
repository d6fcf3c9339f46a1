"""Detection with an open vocabulary: where things are and what they are called, from one picture and names.

    detector = open_detector("regionspot@FOLDER", "sam:facebook/sam-vit-base")
    found = detector.detect(image, detector.vocabulary(["dog", "cat"]))   # .boxes .scores .labels, best first

Three ways lead to the same `Detections`: RO-ViT's detector proposes by itself; RegionCLIP's transferred head
moves the boxes of a source; and any recognizer names the regions of a source, whose (region, name) pairs are
then suppressed within a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from rgpt.errors import InputError
from rgpt.recognizers.base import ImageState, RegionRecognizer
from rgpt.recognizers.loading import NAMES, kind_of, on_device, open_recognizer
from rgpt.recognizers.proposals import BOX_SOURCES, ProposalSource, open_source, propose
from rgpt.recognizers.region_set import RegionSet, encode_masks
from rgpt.recognizers.regionclip_detector import RegionClipDetector, load_transfer
from rgpt.recognizers.rovit_detector import RoVitDetector, load_detector
from rgpt.recognizers.scores import Detections
from rgpt.recognizers.vocabulary import Vocabulary
from rgpt.regions import RLE, Box, Point

DETECTORS = {"rovit-detector": "rovit", "regionclip-transfer": "regionclip"}
"""Detectors with heads of their own, and the recognizer in each."""
MOST = 300
"""Proposals looked at, and detections kept; LVIS reads as many a picture."""
NMS = 0.5


class Detector:
    """Base of the three ways. `network` holds all parameters, `recognizer` names.

    Args:
        floor: scores must be above it. per_image: at most so many detections.
    """

    network: nn.Module
    recognizer: RegionRecognizer

    def __init__(self, floor: float = 0.0, per_image: int = MOST) -> None:
        self.floor, self.per_image = floor, per_image

    def vocabulary(self, names: Sequence[str], is_base: Sequence[bool] = ()) -> Vocabulary:
        """Names with this detector's own templates. `is_base`: which it was trained with, if known."""
        return self.recognizer.vocabulary(names, is_base=tuple(is_base))

    def detect(
        self,
        image: Image.Image,
        vocabulary: Vocabulary | Sequence[str],
        image_id: int | str | None = None,
    ) -> Detections:
        """What is found on the upright picture, best first, in its pixels; `region` counts the proposals, the
        source's best first.

        Args:
            vocabulary: labels are rows of it (`vocabulary.names`: duplicates are one).
            image_id: the picture's, for a source that looks proposals up.

        Raises:
            InputError: an empty vocabulary, or masks are wanted and the proposals have none.
        """
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = self.vocabulary(vocabulary)
        return self._detect(image, vocabulary, image_id).best(self.per_image, self.floor)

    def _detect(self, image: Image.Image, vocabulary: Vocabulary, image_id: int | str | None) -> Detections:
        raise NotImplementedError


class SelfProposing(Detector):
    """RO-ViT's detector; thresholds before `floor` are its own, see `DetectorConfig`."""

    def __init__(self, network: RoVitDetector, masks: bool = False, **kept: Any) -> None:
        super().__init__(**kept)
        self.network = self.detector = network
        self.recognizer, self.masks = network.named, masks

    def _detect(self, image: Image.Image, vocabulary: Vocabulary, image_id: int | str | None) -> Detections:
        return self.detector.detect([image], vocabulary, self.masks)[0]


class Transferred(Detector):
    """RegionCLIP's transferred head on a source's boxes; thresholds are its own, see `HeadSettings`."""

    def __init__(
        self, network: RegionClipDetector, source: ProposalSource, most: int = MOST, **kept: Any
    ) -> None:
        super().__init__(**kept)
        self.network = self.detector = network
        self.recognizer = network.recognizer
        self.source, self.most = source, most

    def _detect(self, image: Image.Image, vocabulary: Vocabulary, image_id: int | str | None) -> Detections:
        found = propose(image, self.source, (), image_id, self.most)
        if not len(found):
            return Detections.none()
        return self.detector.detect([image], [found], vocabulary)[0]


class Named(Detector):
    """Any recognizer on a source's regions.

    Args:
        most: proposals looked at, the source's best. nms: IoU of boxes above which the worse of two of one
            name goes; 1 keeps all. how: fusion with objectness, see `combine`; None is the recognizer's own.
        masks: SAM's masks of the regions where the recognizer paints them (RegionSpot), else the regions
            themselves, which must then be masks.
    """

    def __init__(
        self,
        recognizer: RegionRecognizer,
        source: ProposalSource,
        masks: bool = False,
        most: int = MOST,
        nms: float = NMS,
        how: str | None = None,
        **kept: Any,
    ) -> None:
        super().__init__(**kept)
        self.network = self.recognizer = recognizer
        self.source, self.masks, self.most, self.nms, self.how = source, masks, most, nms, how

    def _detect(self, image: Image.Image, vocabulary: Vocabulary, image_id: int | str | None) -> Detections:
        found = propose(image, self.source, (), image_id, self.most)
        if not len(found):
            return Detections.none(self.masks)
        if self.masks:
            self._check_masks(found)  # before the work
        state, scores = self.recognizer.look(image, found, vocabulary)
        kept = scores.detections(
            self.per_image,
            self.how or self.recognizer.how,
            before=self.recognizer.pairs,
            floor=self.floor,
            nms=self.nms,
        )
        if not self.masks:
            return kept
        masks = self._painted(state, found, kept.region)
        return Detections(kept.boxes, kept.scores, kept.labels, kept.region, masks)

    def _check_masks(self, found: RegionSet) -> None:
        if not hasattr(self.recognizer, "masks"):
            check_masks(found)

    @torch.no_grad()
    def _painted(self, state: ImageState, found: RegionSet, region: Tensor) -> tuple[RLE | None, ...]:
        """The mask of each detection; a region kept under several names is painted once."""
        own = sorted(set(region.tolist()))
        if hasattr(self.recognizer, "masks"):
            paint: Any = self.recognizer.masks
            painted = encode_masks(paint(state, found.subset(own)).cpu().numpy())
            of = dict(zip(own, painted, strict=True))
            return tuple(of[i] for i in region.tolist())
        return region_masks(found, region)


def region_masks(found: RegionSet, region: Tensor) -> tuple[RLE | None, ...]:
    """The regions' own pixels, one a detection; `region` `[K]` are their numbers from 0."""
    of = {i: RLE.from_mask(found.regions[i].to_mask(found.height, found.width)) for i in set(region.tolist())}
    return tuple(of[i] for i in region.tolist())


def check_masks(found: RegionSet) -> None:
    """Refuse regions that are boxes or points where masks are wanted. Raises InputError."""
    if kinds := {type(r).__name__.lower() for r in found.regions if isinstance(r, Box | Point)}:
        raise InputError.about(
            "masks",
            "proposals that are masks",
            f"a {min(kinds)} of {found.source}",
            "take a source of masks such as sam:MODEL, or a model that paints them, such as regionspot",
        )


def detector_kind(name: str) -> str:
    """`rovit-detector`, `regionclip-transfer`, or "" for a recognizer, from a name or a folder.

    Raises:
        InputError: neither a known name nor a folder.
    """
    base, _, source = name.partition("@")
    if base in DETECTORS:
        return base
    if base in NAMES:
        return ""
    if source or not Path(name).is_dir():
        raise InputError.about(
            f"detector {name!r}",
            f"a folder, or one of {', '.join((*DETECTORS, *NAMES))} followed by @SOURCE",
            "neither",
            "write for example rovit-detector@runs/recognizers/rovit-detector",
        )
    if not (Path(name) / "detector.json").is_file():
        return ""
    kind = kind_of(name)
    return next((detector for detector, own in DETECTORS.items() if own == kind), "")


def detector_folder(name: str) -> Path:
    """Where a detector lies: after the @, in `runs/recognizers`, or at the name itself."""
    base, _, folder = name.partition("@")
    return Path((folder or f"runs/recognizers/{base}") if base in DETECTORS else name)


def check_detector(name: str, proposals: str | ProposalSource | None, masks: bool = False) -> str:
    """Refuse what cannot work together, before anything is opened; the kind, see `detector_kind`.

    Raises:
        InputError: an unknown name, proposals for a detector that makes its own, none for any other, or masks
            of what has none.
    """
    kind = detector_kind(name)
    if kind == "rovit-detector" and proposals is not None:
        raise InputError.about(
            f"proposals for {name!r}",
            "none, for it proposes by itself",
            repr(proposals) if isinstance(proposals, str) else "a source",
            "leave them out, or name given regions with rovit@FOLDER",
        )
    if kind != "rovit-detector" and proposals is None:
        raise InputError.about(
            f"proposals for {name!r}",
            "a source of regions",
            "none",
            "give for example sam:facebook/sam-vit-base; only rovit-detector proposes by itself",
        )
    folder = detector_folder(name)
    if kind and not (folder / "detector.json").is_file():
        raise InputError.about(
            f"detector {name!r}",
            f"a folder of the recipe {kind}, {folder}",
            "one without detector.json" if folder.is_dir() else "nothing there",
            "train one or name another folder",
        )
    boxes_only = isinstance(proposals, str) and proposals.partition(":")[0] in BOX_SOURCES
    spot = not kind and "regionspot" in (name.partition("@")[0], kind_of(name))
    if masks and (kind == "regionclip-transfer" or (boxes_only and not spot)):
        raise InputError.about(
            f"masks of {name!r}",
            "rovit-detector, regionspot, or a recognizer on proposals that are masks",
            kind or f"proposals {proposals!r}",
            "leave masks out, or choose another",
        )
    return kind


def open_detector(
    name: str,
    proposals: str | ProposalSource | None = None,
    device: str | torch.device = "cpu",
    *,
    masks: bool = False,
    most: int = MOST,
    nms: float = NMS,
    how: str | None = None,
    floor: float = 0.0,
    per_image: int = MOST,
) -> Detector:
    """The detector of a name.

    Args:
        name: `rovit-detector@FOLDER`, `regionclip-transfer@FOLDER`, a folder of either, or any name of
            `open_recognizer`. Without a folder it is looked for in `runs/recognizers`.
        proposals: for all but `rovit-detector`: a source or its name, see `rgpt.recognizers.proposals`.
        masks: find masks, too: RO-ViT's mask head, SAM's masks (RegionSpot), or proposals that are masks.
        most, nms, how: see `Named`; the two detectors with heads of their own keep their settings.
        floor, per_image: see `Detector`.

    Raises:
        InputError: see `check_detector`; or one of the parts cannot be opened.
    """
    kind = check_detector(name, proposals, masks)
    if proposals == "gt":
        raise InputError.about("proposals", "a source that finds regions", "gt", "name another source")
    source = open_source(proposals) if isinstance(proposals, str) else proposals
    kept: dict[str, Any] = {"floor": floor, "per_image": per_image}
    if not kind:
        assert source is not None  # checked
        return Named(open_recognizer(name, device), source, masks, most, nms, how, **kept)
    folder = detector_folder(name)
    if kind == "rovit-detector":
        return SelfProposing(on_device(load_detector(folder), device), masks, **kept)
    assert source is not None
    return Transferred(on_device(load_transfer(folder), device), source, most, **kept)

"""Where regions come from when nobody draws them: one call for all sources.

    propose(image, "photo")
    propose(image, "json:detections.json", image_id=42)
    propose(image, "rpn:FILE")  "sam:MODEL"  "grounding-dino:MODEL?dog. cat."  "rovit:FOLDER"  "gt"

Every source answers with a `RegionSet` in pixels of the upright picture, best first, with scores where it has
them (an RPN also gives logits).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from rgpt.errors import InputError
from rgpt.hub import model_folder, open_pretrained
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.sam import load_sam
from rgpt.regions import RLE, Box, Mask, Region, region_from_json

SOURCES = ("gt", "photo", "windows", "json", "rpn", "sam", "grounding-dino", "rovit")
BOX_SOURCES = ("photo", "windows", "rpn", "grounding-dino", "rovit")
"""Sources that never give masks."""


class ProposalSource(Protocol):
    """Anything that finds regions on a picture. `image_id` is for sources that only look them up."""

    def __call__(self, image: Image.Image, image_id: int | str | None = None) -> RegionSet: ...


def open_source(name: str, regions: Sequence[Region] = ()) -> ProposalSource:
    """The source of a name `KIND:WHAT`.

    gt: `regions` themselves. photo: objects on photographs, see `object_proposals` (photo:FOLDER: those of
    another training). windows: see `windows`, a floor to compare with. json:FILE: COCO results, or
    `{"image_id": [{"box"/"mask"…, "score"}]}`. rpn:FILE: torchvision's Mask R-CNN R50-FPN with weights from a
    state dict in safetensors. sam:MODEL: SAM's everything mode, after a question mark settings of its
    pipeline, if wanted (`sam:MODEL?points_per_crop=16&pred_iou_thresh=0.8`). grounding-dino:MODEL?TEXT: boxes
    for a text of names ended by full stops. rovit:FOLDER.

    Raises:
        InputError: an unknown kind, or what it names cannot be opened.
    """
    kind, _, what = name.partition(":")
    if kind not in SOURCES or (not what and kind not in ("gt", "photo", "windows")):
        raise InputError.about(
            f"proposals {name!r}",
            f"one of {', '.join(SOURCES)} followed by : and what to open",
            "another form",
            "write for example sam:facebook/sam-vit-base",
        )
    if kind == "gt":
        return lambda image, image_id=None: RegionSet(
            tuple(regions), image.height, image.width, torch.ones(len(regions)), source="gt"
        )
    if kind == "photo":
        from rgpt.recognizers.object_proposals import SHIPPED, load_proposals

        return load_proposals(what or SHIPPED)
    if kind == "windows":
        return lambda image, image_id=None: RegionSet.of_boxes(
            windows(image.height, image.width), image.height, image.width, source="windows"
        )
    if kind == "json":
        return JsonProposals(what)
    if kind == "rpn":
        return RpnProposals.from_file(what)
    if kind == "rovit":
        from rgpt.recognizers.rovit_detector import load_detector

        detector = load_detector(what)
        return lambda image, image_id=None: detector.propose([image])[0]
    return _pretrained(kind, what)


@lru_cache(maxsize=2)
def _cached_source(name: str) -> ProposalSource:
    return open_source(name)


def propose(
    image: Image.Image,
    source: str | ProposalSource,
    regions: Sequence[Region] = (),
    image_id: int | str | None = None,
    most: int | None = None,
) -> RegionSet:
    """Regions of one picture from any source; `most` keeps the best. An opened model is kept for the next
    call."""
    if isinstance(source, str):
        source = open_source(source, regions) if source == "gt" else _cached_source(source)
    found = source(image, image_id)
    return found if most is None else best(found, most)


def best(regions: RegionSet, most: int) -> RegionSet:
    """The `most` regions with the highest scores, in order; without scores the first ones."""
    order = torch.arange(len(regions))
    if regions.scores is not None:
        order = regions.scores.argsort(descending=True, stable=True)
    return regions.subset(order[:most].tolist())


def windows(height: int, width: int) -> torch.Tensor:
    """Boxes laid over a picture without looking at it, large ones first, `[N, 4]` xyxy in pixels: from the
    whole picture to a fifth of its sides, each square, wide and tall, overlapping by half; about 300."""
    rows = []
    for share in (1.0, 0.6, 0.4, 0.2):
        for shape in (1.0, 2.0, 0.5):
            across, down = min(width, width * share * shape**0.5), min(height, height * share / shape**0.5)
            columns = torch.linspace(0, width - across, max(1, round(2 * (width / across - 1) + 1)))
            lines = torch.linspace(0, height - down, max(1, round(2 * (height / down - 1) + 1)))
            rows += [[x, y, x + across, y + down] for y in lines.tolist() for x in columns.tolist()]
    return torch.tensor(rows)


class JsonProposals:
    """Detections made elsewhere (GLIP, Detic, …), looked up by picture.

    Either COCO results, `[{"image_id", "bbox": [x, y, w, h], "score", "segmentation"?}]`, or an object from
    image id to a list of `{"box": [x1, y1, x2, y2], "score"?}` (any region form of rgpt).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            value = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._wrong("a JSON file of detections", " ".join(str(error).split())[:120]) from error
        self.rows: dict[str, list[Mapping[str, Any]]] = {}
        self.complete = False  # a list of results says nothing of pictures without any
        if isinstance(value, Mapping):
            if "annotations" in value:
                raise self._wrong("detections", "annotations of a data set")
            for key, rows in value.items():
                if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
                    raise self._wrong(f"a list of detections of picture {key}", repr(rows)[:60])
            self.rows = {str(key): rows for key, rows in value.items()}
            self.complete = bool(value)
        elif isinstance(value, list):
            for row in value:
                if not isinstance(row, Mapping) or "image_id" not in row:
                    raise self._wrong("rows with image_id", repr(row)[:60])
                self.rows.setdefault(str(row["image_id"]), []).append(row)
        else:
            raise self._wrong("a list or an object", type(value).__name__)

    def __call__(self, image: Image.Image, image_id: int | str | None = None) -> RegionSet:
        if image_id is None:
            if len(self.rows) > 1:
                raise self._wrong("an image id", f"none, and {len(self.rows)} pictures", "say which is meant")
            image_id = next(iter(self.rows), "")
        if self.complete and str(image_id) not in self.rows:
            raise self._wrong(
                f"an entry for picture {image_id}",
                f"entries of {len(self.rows)} others",
                "add one (an empty list where nothing was found), or name the file of these pictures",
            )
        regions, scores = [], []
        for row in self.rows.get(str(image_id), []):
            try:
                regions.append(self._region(row))
                scores.append(float(row.get("score", 1.0)))
                if not math.isfinite(scores[-1]):
                    raise ValueError(f"a score of {scores[-1]}")
            except (InputError, KeyError, TypeError, ValueError) as error:
                raise self._wrong(
                    f"sound detections of picture {image_id}", str(error).rstrip(".")[:160]
                ) from error
        found = RegionSet(
            tuple(regions), image.height, image.width, torch.tensor(scores), source=self.path.name
        )
        return best(found, len(found))

    def _region(self, row: Mapping[str, Any]) -> Region:
        segmentation = row.get("segmentation")
        if isinstance(segmentation, Mapping):
            return RLE(segmentation["size"], segmentation["counts"])
        if "bbox" in row:
            return Box.from_coco(row["bbox"])
        return region_from_json(
            {key: value for key, value in row.items() if key not in ("score", "image_id")}
        )

    def _wrong(self, expected: str, actual: str, fix: str = "repair the file") -> InputError:
        return InputError.about(f"proposals {str(self.path)!r}", expected, actual, fix)


class RpnProposals:
    """The proposal network of a torchvision detector, with its scores (its own forward drops them).

    Args:
        model: a `GeneralizedRCNN`. nms: between proposals of a level (RegionCLIP's zero-shot mode: 0.9).
    """

    def __init__(self, model: Any, nms: float = 0.9, most: int = 1000) -> None:
        self.model = model.eval().requires_grad_(False)
        self.model.rpn.nms_thresh, self.model.rpn._post_nms_top_n["testing"] = nms, most

    @classmethod
    def from_file(cls, path: str) -> RpnProposals:
        """Mask R-CNN R50-FPN whose weights lie in a safetensors file."""
        from safetensors.torch import load_file
        from torchvision.models.detection import maskrcnn_resnet50_fpn

        try:
            weights = load_file(path)
            classes = weights["roi_heads.box_predictor.cls_score.bias"].shape[0]
            model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes)
            model.load_state_dict(weights)
        except Exception as error:
            raise InputError.about(
                f"proposals rpn:{path}",
                "a safetensors state dict of torchvision's maskrcnn_resnet50_fpn",
                f"{type(error).__name__}: {' '.join(str(error).split())}"[:160],
                "convert the checkpoint",
            ) from error
        return cls(model)

    @torch.no_grad()
    def __call__(self, image: Image.Image, image_id: int | str | None = None) -> RegionSet:
        from torchvision.models.detection.rpn import concat_box_prediction_layers
        from torchvision.transforms.functional import pil_to_tensor

        device = next(self.model.parameters()).device
        pixels = pil_to_tensor(image.convert("RGB")).to(device).float() / 255
        images, _ = self.model.transform([pixels])
        features = list(self.model.backbone(images.tensors).values())
        rpn = self.model.rpn
        objectness, deltas = rpn.head(features)
        anchors = rpn.anchor_generator(images, features)
        counts = [level[0].numel() for level in objectness]
        flat, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        decoded = rpn.box_coder.decode(flat_deltas, anchors).view(1, -1, 4)
        boxes, scores = rpn.filter_proposals(decoded, flat, images.image_sizes, counts)
        height, width = images.image_sizes[0]
        factor = torch.tensor([image.width / width, image.height / height]).repeat(2)
        own = scores[0].cpu()
        logits = torch.logit(own, eps=1e-7)
        return RegionSet.of_boxes(boxes[0].cpu() * factor, image.height, image.width, own, logits, "rpn")


class SamEverything:
    """SAM asked at a grid of points: masks, their boxes, and SAM's own guess of each mask's quality as
    score."""

    def __init__(self, model: Any, image_processor: Any, **settings: Any) -> None:
        from transformers import MaskGenerationPipeline

        self.pipeline = MaskGenerationPipeline(model=model, image_processor=image_processor)
        self.settings = settings

    def __call__(self, image: Image.Image, image_id: int | str | None = None) -> RegionSet:
        found = self.pipeline(image.convert("RGB"), **self.settings)
        regions, scores = [], []
        for mask, score in zip(found["masks"], found["scores"], strict=True):
            array = torch.as_tensor(mask).bool().numpy()
            if array.any():
                regions.append(Mask(array))
                scores.append(float(score))
        made = RegionSet(tuple(regions), image.height, image.width, torch.tensor(scores), source="sam")
        return best(made, len(made))


class GroundingDinoProposals:
    """Boxes that Grounding DINO finds for a text, e.g. "dog. cat."; recognizers then name them anew."""

    def __init__(self, model: Any, processor: Any, text: str, threshold: float = 0.05) -> None:
        self.model, self.processor, self.threshold = model.eval(), processor, threshold
        self.text = text.strip().lower() or "object."
        self.text = self.text if self.text.endswith(".") else f"{self.text}."

    @torch.no_grad()
    def __call__(self, image: Image.Image, image_id: int | str | None = None) -> RegionSet:
        inputs = self.processor(images=image.convert("RGB"), text=self.text, return_tensors="pt")
        output = self.model(**inputs)
        # Scores are computed here rather than by the processor, which wants a second threshold on words.
        scores = output.logits[0].sigmoid().amax(-1)
        center, size = output.pred_boxes[0].split(2, -1)
        scale = torch.tensor([image.width, image.height]).repeat(2)
        boxes = torch.cat([center - size / 2, center + size / 2], -1) * scale
        kept = scores >= self.threshold
        found = RegionSet.of_boxes(
            boxes[kept], image.height, image.width, scores[kept], source="grounding-dino"
        )
        return best(found, len(found))


SAM_SETTINGS = {
    "points_per_batch": int, "points_per_crop": int, "crops_n_layers": int, "pred_iou_thresh": float,
    "stability_score_thresh": float, "crops_nms_thresh": float,
}  # fmt: skip


def sam_settings(text: str) -> dict[str, Any]:
    """`a=1&b=0.5` -> settings of transformers' mask generation. Raises InputError on others."""
    settings: dict[str, Any] = {}
    for part in text.split("&") if text else ():
        key, _, value = part.partition("=")
        try:
            settings[key] = SAM_SETTINGS[key](value)
        except (KeyError, ValueError) as error:
            raise InputError.about(
                "settings of sam proposals",
                f"NAME=NUMBER joined by &, of {', '.join(SAM_SETTINGS)}",
                repr(part),
            ) from error
    return settings


def _pretrained(kind: str, what: str) -> ProposalSource:
    from transformers import AutoImageProcessor, AutoProcessor, GroundingDinoForObjectDetection

    name, _, text = what.partition("?")
    settings = sam_settings(text) if kind == "sam" else {}
    try:
        name = str(model_folder(name))
        if kind == "sam":
            return SamEverything(load_sam(name), open_pretrained(AutoImageProcessor, name), **settings)
        # Any other checkpoint would load, too, with a warning and random weights.
        found = GroundingDinoForObjectDetection.config_class.get_config_dict(name)[0].get("model_type")
        if found != kind:
            raise ValueError(f"a checkpoint of type {found}")
        model = open_pretrained(GroundingDinoForObjectDetection, name)
        return GroundingDinoProposals(model, open_pretrained(AutoProcessor, name), text)
    except (OSError, ValueError) as error:
        raise InputError.about(
            f"proposals {kind}:{what}",
            f"the folder or hub id of a {kind} model of transformers",
            " ".join(str(error).split())[:160],
            "check the name and that the weights are on this machine",
        ) from error

"""Masks from Segment Anything, where a checkpoint is given with `--sam`: of a click, or of everything."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from app.session import Picture
from rgpt.errors import InputError
from rgpt.hub import model_folder, open_pretrained
from rgpt.regions import RLE, Region

if TYPE_CHECKING:
    from PIL import Image

    from rgpt.recognizers import RegionSet


class Finder(Protocol):
    """What "Find all" needs; called from several threads."""

    name: str

    def everything(self, picture: Picture, most: int) -> list[Region]:
        """At most so many objects, best first."""
        ...


class Segmenter(Finder, Protocol):
    """What the app needs of a segmenter."""

    def mask_at(self, picture: Picture, points: Sequence[tuple[float, float]]) -> Region | None:
        """The object on which all points (x, y; picture pixels) lie, or None."""
        ...


class SamSegmenter:
    """`transformers.SamModel` or `Sam2Model`. A picture is encoded once for all its clicks."""

    KEPT = 8
    """Pictures whose embeddings are kept: 4 MB each with SAM, 20 with SAM 2."""

    GRID = 16
    """"Everything" asks at a grid of so many points a side (SAM's own default is 32: four times the work)."""

    def __init__(self, model: Any, image_processor: Any, name: str, **settings: Any) -> None:
        from rgpt.recognizers.proposals import SamEverything
        from rgpt.recognizers.sam import SamTokens

        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.image_processor = image_processor
        self.square = model.config.model_type != "sam"  # SAM 2 stretches pictures, SAM pads them
        self.sam = SamTokens(model)
        self.all = SamEverything(model, image_processor, **{"points_per_crop": self.GRID, **settings})
        self._one = threading.Lock()
        self._embeddings: OrderedDict[str, Any] = OrderedDict()

    @classmethod
    def load(cls, name: str) -> SamSegmenter:
        """From a folder or hub id; InputError when it is neither a SamModel nor a Sam2Model."""
        from transformers import AutoImageProcessor, Sam2Model

        from rgpt.recognizers.sam import load_sam

        try:
            folder = str(model_folder(name))
            config, _ = Sam2Model.config_class.get_config_dict(folder)
            if config.get("model_type") in (
                "sam2",
                "sam2_video",
            ):  # the published ones hold the video model's
                model = open_pretrained(Sam2Model, folder)
            else:
                model = load_sam(folder)
            processor = open_pretrained(AutoImageProcessor, folder)
        except (OSError, ValueError) as error:
            raise InputError.about(
                f"SAM {name!r}",
                "a folder or hub id of a transformers SamModel or Sam2Model, with its preprocessor",
                " ".join(str(error).split())[:160],
                "check the name and that the weights are on this machine",
            ) from error
        return cls(model, processor, name.rstrip("/").rsplit("/", 1)[-1])

    def mask_at(self, picture: Picture, points: Sequence[tuple[float, float]]) -> Region | None:
        import torch

        geometry = self._geometry(picture)
        with self._one, torch.inference_mode():
            embedding = self._embedding(picture)
            device = self.model.device
            clicks = geometry.to_model(torch.tensor(points))[None, None].to(device)  # [1, 1, points, 2]
            # Three masks, from part to whole; SAM's own guess of their quality chooses.
            out = self.model(
                image_embeddings=embedding,
                input_points=clicks,
                input_labels=torch.ones(1, 1, len(points), dtype=torch.long, device=device),
                multimask_output=True,
            )
            best = int(out.iou_scores[0, 0].argmax())
            mask = self.sam.full_masks(out.pred_masks[0, 0, best][None], geometry)[0].cpu().numpy()
        return RLE.from_mask(mask) if mask.any() else None

    def everything(self, picture: Picture, most: int) -> list[Region]:
        from rgpt.recognizers.proposals import best

        return list(best(self.propose(picture.image), most).regions)

    def propose(self, image: Image.Image, image_id: int | str | None = None) -> RegionSet:
        """Everything, as a proposal source of `rgpt.recognizers`."""
        import torch

        with self._one, torch.inference_mode():
            return self.all(image)

    def _geometry(self, picture: Picture) -> Any:
        from rgpt.recognizers.geometry import Geometry

        side = self.model.config.prompt_encoder_config.image_size
        make = Geometry.squash if self.square else Geometry.longest_side
        return make(picture.height, picture.width, side)

    def _embedding(self, picture: Picture) -> Any:
        """`[1, C, s, s]`; of SAM 2 a list, from fine to coarse."""
        embedding = self._embeddings.pop(picture.token, None)
        if embedding is None and self.square:
            pixels = self.image_processor(images=picture.image, return_tensors="pt")["pixel_values"]
            embedding = self.model.get_image_embeddings(pixels.to(self.model.device))
        elif embedding is None:
            embedding = self.sam.encode_images([picture.image])
        self._embeddings[picture.token] = embedding
        while len(self._embeddings) > self.KEPT:
            self._embeddings.popitem(last=False)
        return embedding

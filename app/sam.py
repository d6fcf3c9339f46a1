"""Masks from Segment Anything, where a checkpoint is given with `--sam`: of a click, or of everything."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Protocol

from app.session import Picture
from rgpt.errors import InputError
from rgpt.regions import RLE, Region


class Segmenter(Protocol):
    """What the app needs of a segmenter; called from several threads."""

    name: str

    def mask_at(self, picture: Picture, x: float, y: float) -> Region | None:
        """The object at a point, in pixels of the upright picture; None when there is none."""
        ...

    def everything(self, picture: Picture, most: int) -> list[Region]:
        """At most so many objects, best first."""
        ...


class SamSegmenter:
    """`transformers.SamModel`. A picture is encoded once for all its clicks."""

    KEPT = 8
    """Pictures whose embeddings are kept, 4 MB each."""

    GRID = 16
    """"Everything" asks at a grid of so many points a side (SAM's own default is 32: four times the work)."""

    def __init__(self, model: Any, image_processor: Any, name: str, **settings: Any) -> None:
        from rgpt.recognizers.proposals import SamEverything
        from rgpt.recognizers.sam import SamTokens

        self.name = name
        self.sam = SamTokens(model.eval().requires_grad_(False))
        self.all = SamEverything(model, image_processor, **{"points_per_crop": self.GRID, **settings})
        self._one = threading.Lock()
        self._embeddings: OrderedDict[str, Any] = OrderedDict()

    @classmethod
    def load(cls, name: str) -> SamSegmenter:
        """From a folder or hub id; InputError when it is no SamModel."""
        from transformers import AutoImageProcessor, SamModel

        from rgpt.recognizers.sam import sam_config

        try:
            # Any other checkpoint would load, too, with a warning and random weights.
            config, _ = SamModel.config_class.get_config_dict(name)
            if config.get("model_type") != "sam":
                raise ValueError(f"a checkpoint of type {config.get('model_type')}")
            model = SamModel.from_pretrained(name, config=sam_config(config))
            processor = AutoImageProcessor.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise InputError.about(
                f"SAM {name!r}",
                expected="a folder or hub id of a transformers SamModel with its preprocessor_config.json",
                actual=" ".join(str(error).split())[:160],
                fix="check the name and that the weights are on this machine",
            ) from error
        return cls(model, processor, name.rstrip("/").rsplit("/", 1)[-1])

    def mask_at(self, picture: Picture, x: float, y: float) -> Region | None:
        import torch

        geometry = self.sam.geometry(picture.height, picture.width)
        with self._one, torch.inference_mode():
            embedding = self._embedding(picture)
            points = geometry.to_model(torch.tensor([[x, y]]))[None, :, None].to(embedding.device)
            # Three masks, from part to whole; SAM's own guess of their quality chooses.
            out = self.sam.model(
                image_embeddings=embedding,
                input_points=points,
                input_labels=torch.ones(1, 1, 1, dtype=torch.long, device=embedding.device),
                multimask_output=True,
            )
            best = int(out.iou_scores[0, 0].argmax())
            mask = self.sam.full_masks(out.pred_masks[0, 0, best][None], geometry)[0].cpu().numpy()
        return RLE.from_mask(mask) if mask.any() else None

    def everything(self, picture: Picture, most: int) -> list[Region]:
        import torch

        from rgpt.recognizers.proposals import best

        with self._one, torch.inference_mode():
            found = best(self.all(picture.image), most)
        return list(found.regions)

    def _embedding(self, picture: Picture) -> Any:
        """`[1, 256, s, s]`."""
        embedding = self._embeddings.pop(picture.token, None)
        if embedding is None:
            embedding = self.sam.encode_images([picture.image])
        self._embeddings[picture.token] = embedding
        while len(self._embeddings) > self.KEPT:
            self._embeddings.popitem(last=False)
        return embedding

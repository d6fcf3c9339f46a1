"""Proposals learn where objects are from boxes of any classes; the tower under them is frozen."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from torch import Tensor, nn

from rgpt.errors import InputError
from rgpt.recognizers.object_proposals import Settings, fresh, save_proposals
from rgpt.train.recognizers.config import RunConfig
from rgpt.train.recognizers.data import Batch


class ProposalsRecipe(nn.Module):
    """`model`: fields of `rgpt.recognizers.object_proposals.Settings`, and `training_size`: `image_size`
    while it trains. A smaller one costs less; with jitter objects are as large as in use."""

    keys = (*(field.name for field in fields(Settings)), "training_size")

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        if config.init:
            raise InputError("recipe proposals starts from its tower: leave init out.")
        model = dict(config.model)
        size = model.pop("training_size", None)
        self.settings = Settings(**model)
        self.network = fresh(**(model if size is None else {**model, "image_size": size}))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.network.losses(
            [example.image for example in batch.examples],
            [example.regions.as_boxes() for example in batch.examples],
        )

    def save(self, folder: Path) -> None:
        self.network.settings = self.settings
        save_proposals(self.network, folder)

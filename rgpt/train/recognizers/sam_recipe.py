"""A small SAM from nothing: what stands in for the pretrained one in tiny runs.

RegionSpot asks a SAM that knows where things end; a random one gives tokens that hardly say which region they
belong to (docs/recognizers.md has what was measured). Segment Anything, arXiv 2304.02643, trains the same way
at another scale: prompts drawn from the mask, focal and dice loss 20 : 1, the predicted IoU, and of three
masks for an ambiguous click only the best one learns [P]. One round of prompts, no interaction.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss
from transformers import SamImageProcessor, SamModel, SamProcessor

from rgpt.files import hidden, move_files
from rgpt.hub import open_pretrained
from rgpt.recognizers.geometry import SAM_MEAN, SAM_STD, Geometry
from rgpt.recognizers.sam import sam_config
from rgpt.train.recognizers.config import RunConfig
from rgpt.train.recognizers.data import Batch
from rgpt.train.recognizers.example import Example

FOCAL_WEIGHT = 20.0
PROMPTS = 4
"""Regions of a picture asked about in a step, drawn with repetition: pictures batch without padding."""
POSITION_SCALE = 1.0
"""Standard deviation of the random frequencies that encode positions, as Meta drew them. transformers draws
with half the tower's width: neighbouring positions then have nothing in common, and nothing is learned."""


KINDS = ("box", "click", "three")
"""What the steps ask in turn: one mask of a box, one mask of a click, three of a click (everything mode)."""


class SamRecipe(nn.Module):
    """Masks from boxes and from single clicks, see `KINDS`. `model`: `config`, a SamConfig's values.

    Regions are masks. The result is a folder for `SamModel` and `SamProcessor`: RegionSpot starts from it,
    and `sam:FOLDER` proposes with it, at lower thresholds than those for a published SAM.
    """

    keys = ("config",)

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.model: Any = open_pretrained(SamModel, config.init) if config.init else self._fresh(config)
        self.side = int(self.model.config.vision_config.image_size)

    @staticmethod
    def _fresh(config: RunConfig) -> SamModel:
        made = SamModel(sam_config(config.model["config"]))
        nn.init.normal_(made.shared_image_embedding.positional_embedding, std=POSITION_SCALE)
        return made

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        examples = [example for example in batch.examples if len(example.regions)]
        if not examples:
            return {"loss_focal": sum(p.sum() for p in self.parameters()) * 0.0}  # type: ignore[dict-item]
        kind = KINDS[batch.step % len(KINDS)]
        generator = torch.Generator().manual_seed(batch.step)
        device = next(self.model.parameters()).device
        drawn = [self._prompts(example, kind != "box", generator) for example in examples]
        pixels, prompts, masks = (torch.stack(values).to(device) for values in zip(*drawn, strict=True))
        if kind == "box":
            given = {"input_boxes": prompts}
        else:
            labels = torch.ones(prompts.shape[:3], dtype=torch.long, device=device)
            given = {"input_points": prompts, "input_labels": labels}
        out = self.model(pixel_values=pixels, multimask_output=kind == "three", **given)
        logits, guessed = out.pred_masks, out.iou_scores  # [B, P, 1 or 3, h, w], [B, P, 1 or 3]
        true = masks[:, :, None].expand_as(logits)
        found = logits.sigmoid()
        dice = 1 - (2 * (found * true).sum((-1, -2)) + 1) / ((found + true).sum((-1, -2)) + 1)
        focal = FOCAL_WEIGHT * sigmoid_focal_loss(logits, true, alpha=-1, gamma=2).mean((-1, -2))
        best = (focal + dice).argmin(-1, keepdim=True)
        return {
            "loss_focal": focal.gather(-1, best).mean(),
            "loss_dice": dice.gather(-1, best).mean(),
            "loss_iou": F.mse_loss(guessed, mask_iou(logits.detach() > 0, true > 0.5)),
        }

    def _prompts(
        self, example: Example, clicks: bool, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels `[3, S, S]`, `PROMPTS` boxes `[P, 4]` or clicks `[P, 1, 2]` on SAM's canvas, and the share
        of each low-resolution cell under their masks `[P, S/p*4, S/p*4]`."""
        image, regions = example.image, example.regions
        geometry = Geometry.longest_side(image.height, image.width, self.side)
        chosen = torch.randint(len(regions), (PROMPTS,), generator=generator)
        cells = 4 * int(self.model.config.prompt_encoder_config.image_embedding_size)
        masks = regions.weights(geometry, cells, cells)[chosen]
        if clicks:
            inside = [torch.from_numpy(mask).nonzero() for mask in regions.as_masks()]
            rows = [
                own[int(torch.randint(len(own), (1,), generator=generator))]
                for own in (inside[i] for i in chosen.tolist())
            ]
            prompts = geometry.to_model(torch.stack(rows).flip(-1).float() + 0.5)[:, None]
        else:
            prompts = geometry.to_model(regions.as_boxes()[chosen])
        return geometry.pixels(image, SAM_MEAN, SAM_STD), prompts, masks

    def save(self, folder: Path) -> None:
        """Model and processor for `from_pretrained`; the files appear in `folder` one by one, each whole."""
        partial = hidden(folder / "sam")
        shutil.rmtree(partial, ignore_errors=True)
        self.model.save_pretrained(partial)
        side = {"longest_edge": self.side}
        square = {"height": self.side, "width": self.side}
        SamProcessor(SamImageProcessor(size=side, pad_size=square)).save_pretrained(partial)
        move_files(partial, folder)


def mask_iou(found: Tensor, true: Tensor) -> Tensor:
    """Bool `[..., h, w]` each -> intersection over union `[...]`; of two empty masks 0."""
    both, either = (found & true).sum((-1, -2)), (found | true).sum((-1, -2))
    return both / either.clamp_min(1)

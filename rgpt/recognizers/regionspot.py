"""RegionSpot: frozen SAM says where, frozen CLIP says what, a small decoder joins them.

Recognize Any Regions, arXiv 2311.01373 v3 (NeurIPS 2024) [P]; written from its description. The queries are
SAM's position-aware tokens, keys and values the last tokens of CLIP's image tower on the whole squashed
picture.

Axes: B pictures, N regions, M CLIP tokens, d CLIP's width, D the text space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from rgpt.recognizers.base import ImageState, RegionRecognizer
from rgpt.recognizers.clip_towers import ClipVision, unit
from rgpt.recognizers.frozen import Frozen
from rgpt.recognizers.geometry import Geometry
from rgpt.recognizers.region_set import RegionSet, pad_sets
from rgpt.recognizers.sam import SamOutput, SamTokens
from rgpt.recognizers.text import TextEncoder

VARIANTS = {  # name: (d, D, CLIP tower, picture side); the paper's Lite, Pro, Pro at 336
    "lite": (768, 512, "ViT-B/16", 224),
    "pro": (1024, 768, "ViT-L/14", 224),
    "pro336": (1024, 768, "ViT-L/14@336", 336),
}
PAPER_PARAMETERS_PRO = 35_000_000  # Table 8; the published configuration's shapes give 38,853,376


class RegionSpotHead(nn.Module):
    """The trained part: 256 -> d, three post-norm decoder blocks, d -> D."""

    def __init__(
        self,
        width: int,
        dim: int,
        token_width: int = 256,
        depth: int = 3,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_projection = nn.Linear(token_width, width)
        layer = nn.TransformerDecoderLayer(width, heads, feedforward, dropout, "relu", batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, depth, norm=nn.LayerNorm(width))
        for parameter in self.decoder.parameters():
            if parameter.dim() > 1:  # the decoder copies one layer: without this all blocks would start equal
                nn.init.xavier_uniform_(parameter)
        self.output_projection = nn.Linear(width, dim)

    def forward(self, tokens: Tensor, valid: Tensor, memory: Tensor) -> Tensor:
        """Tokens `[B, N, 256]`, valid bool `[B, N]`, CLIP tokens `[B, M, d]` -> `[B, N, D]`, un-normalised.

        Padding is masked in the self-attention: repeated tokens instead would change every other region.
        """
        hidden = self.input_projection(tokens)
        hidden = self.decoder(hidden, memory, tgt_key_padding_mask=~valid)
        return self.output_projection(hidden)


def build_head(variant: str) -> RegionSpotHead:
    """The head of `lite`, `pro` or `pro336`, random weights."""
    width, dim, _, _ = VARIANTS[variant]
    return RegionSpotHead(width, dim)


class RegionSpot(RegionRecognizer):
    """The whole recognizer; only `head` trains. Scores of a region depend on the regions asked with it.

    Args:
        sam: frozen. vision: CLIP's frozen image tower. text: of the same CLIP.
        head: its widths must fit SAM's tokens, the tower and the text.
    """

    independent_regions = False
    how = "product"
    pairs = 900  # [A]

    def __init__(
        self,
        sam: SamTokens,
        vision: ClipVision,
        text: TextEncoder,
        head: RegionSpotHead,
        logit_scale: float = 100.0,
        templates: Any = "openai81",
    ) -> None:
        super().__init__(text, logit_scale)
        self.sam, self.vision, self.head = Frozen(sam), Frozen(vision), head
        self.templates = templates

    @property
    def tower(self) -> ClipVision:
        return self.vision.module  # type: ignore[return-value]

    @property
    def prompter(self) -> SamTokens:
        return self.sam.module  # type: ignore[return-value]

    @torch.no_grad()
    def clip_tokens(self, images: Sequence[Image.Image]) -> Tensor:
        """`[B, M, d]`: the last block's tokens of the whole picture, squashed, class token first."""
        side = self.tower.image_size
        pixels = [
            Geometry.squash(i.height, i.width, side).pixels(i, self.tower.mean, self.tower.std)
            for i in images
        ]
        return self.tower.tokens(torch.stack(pixels).to(self.device))

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> list[ImageState]:
        if not images:
            return []
        memory, embeddings = self.clip_tokens(images), self.prompter.encode_images(images)
        return [
            ImageState(
                self.prompter.geometry(image.height, image.width), {"memory": own, "embedding": embedding}
            )
            for image, own, embedding in zip(images, memory, embeddings, strict=True)
        ]

    @torch.no_grad()
    def sam_outputs(self, state: ImageState, regions: RegionSet, masks: bool = False) -> SamOutput:
        """Tokens of one picture's regions, and with `masks` their low-resolution masks."""
        return self.prompter(state.maps["embedding"], regions, masks)

    def _encode_regions(self, states: Sequence[ImageState], regions: Sequence[RegionSet]) -> list[Tensor]:
        tokens = [self.sam_outputs(state, own).tokens for state, own in zip(states, regions, strict=True)]
        padded, valid = pad_sets(tokens)
        memory = torch.stack([state.maps["memory"] for state in states])
        embedded = self.head(padded, valid, memory)
        return [rows[own] for rows, own in zip(embedded, valid, strict=True)]

    def masks(self, state: ImageState, regions: RegionSet) -> Tensor:
        """SAM's masks of one picture's regions, bool `[N, H, W]` (zero-shot instance segmentation:
        `recognize` names them)."""
        if not len(regions):
            return torch.zeros(0, regions.height, regions.width, dtype=torch.bool, device=self.device)
        found = self.sam_outputs(state, regions, masks=True)
        return self.prompter.full_masks(found.low_res_masks, state.geometry)

    def loss(self, embedded: Tensor, valid: Tensor, bank: Tensor, targets: Tensor) -> Tensor:
        """See `alignment_loss`, with this recognizer's logit scale."""
        return alignment_loss(embedded, valid, bank, targets, self.logit_scale)


def alignment_loss(
    embedded: Tensor,
    valid: Tensor,
    bank: Tensor,
    targets: Tensor,
    logit_scale: Tensor | float,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Sigmoid focal loss of every region against the whole vocabulary.

    Args:
        embedded: `[B, N, D]` un-normalised. valid: bool `[B, N]`. bank: `[C, D]` unit rows.
        targets: `[B, N, C]`, several ones a row for synonyms.

    Returns:
        Summed over the batch, divided by N, the padded regions a picture (published form); padding counts
        nothing. Training is a sigmoid, testing a softmax over the test vocabulary [P].
    """
    logits = logit_scale * unit(embedded) @ bank.T
    elements = sigmoid_focal_loss(logits, targets.to(logits), alpha, gamma)
    return (elements * valid[..., None]).sum() / max(1, embedded.shape[1])

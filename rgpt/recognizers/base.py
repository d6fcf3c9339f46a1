"""The one interface of every recognizer: vocabulary, pictures, regions, scores.

    bank = recognizer.encode_vocabulary(Vocabulary(("dog", "cat")))
    states = recognizer.encode_images([image])                    # heavy; keep it, ask many times
    embeddings, valid = recognizer.encode_regions(states, [regions])
    scores = recognizer.score(embeddings[0, valid[0]], bank, regions)

or `recognizer.recognize([image], [regions], vocabulary)`, which is the four lines above. All regions of a
picture travel together: RegionSpot's score of a region depends on the other regions asked about in the same
call (`independent_regions` False), so they are padded and masked, never asked one by one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from rgpt.errors import InputError
from rgpt.recognizers.geometry import Geometry
from rgpt.recognizers.region_set import RegionSet, pad_sets
from rgpt.recognizers.scores import RegionScores, probabilities
from rgpt.recognizers.text import TextEncoder
from rgpt.recognizers.vocabulary import TextBank, Vocabulary, embed
from rgpt.regions import Region

BANKS_KEPT = 8


@dataclass
class ImageState:
    """What a recognizer keeps of one picture: maps on its canvas, and the way back to original pixels."""

    geometry: Geometry
    maps: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return self.geometry.height, self.geometry.width


class RegionRecognizer(nn.Module):
    """Base of all recognizers. A subclass gives `encode_images` and `_encode_regions`, and sets the
    attributes.

    Attributes:
        text: the text encoder.
        rule: how logits become probabilities, see `rgpt.recognizers.scores.RULES`.
        how: how they are fused with a proposal's objectness, see `COMBINES`.
        pairs: (box, class) pairs kept by probability before objectness enters; None keeps all.
        logit_scale: buffer; logit = scale × cosine.
        background: text of the background class, for the rule that needs one.
    """

    text: TextEncoder
    logit_scale: Tensor
    independent_regions = True
    rule = "softmax"
    how = "none"
    pairs: int | None = None
    background: str | None = None
    templates: str | tuple[str, ...] = "openai81"
    normalise_first = False
    kind = ""
    config: dict[str, Any] = {}

    def __init__(self, text: TextEncoder, logit_scale: float) -> None:
        super().__init__()
        self.text = text
        self.register_buffer("logit_scale", torch.tensor(float(logit_scale)))
        self._banks: OrderedDict[str, TextBank] = OrderedDict()

    @property
    def embedding_dim(self) -> int:
        """D of the shared text-region space."""
        return self.text.dim

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    def vocabulary(self, names: Sequence[str], **settings: Any) -> Vocabulary:
        """A `Vocabulary` with this recognizer's own templates and pooling order."""
        defaults = {"templates": self.templates, "normalise_first": self.normalise_first}
        return Vocabulary(tuple(names), **{**defaults, **settings})

    def encode_vocabulary(self, vocabulary: Vocabulary) -> TextBank:
        """Embed the names; the last few vocabularies are remembered by their content."""
        key = f"{vocabulary.content_hash()} {self.device}"
        if key not in self._banks:
            self._banks[key] = embed(self.text, vocabulary, self.background)
            while len(self._banks) > BANKS_KEPT:
                self._banks.popitem(last=False)
        self._banks.move_to_end(key)
        found = self._banks[key]
        return TextBank(tuple(vocabulary.names), found.weights, found.background, found.is_base)

    def encode_images(self, images: Sequence[Image.Image]) -> list[ImageState]:
        """Everything about the pictures that does not depend on regions."""
        raise NotImplementedError

    def _encode_regions(self, states: Sequence[ImageState], regions: Sequence[RegionSet]) -> list[Tensor]:
        """`[N_b, D]` a picture, un-normalised. Called only for pictures that have regions."""
        raise NotImplementedError

    def encode_regions(
        self, states: Sequence[ImageState], regions: Sequence[RegionSet]
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of all regions of all pictures.

        Returns:
            `[B, N, D]`, un-normalised, padded with zeros, and valid bool `[B, N]`.

        Raises:
            InputError: regions of another picture size than the state's.
        """
        if len(states) != len(regions):
            raise InputError.about(
                "regions",
                f"one set a picture, {len(states)}",
                str(len(regions)),
                "give an empty set for a picture without regions",
            )
        for number, (state, own) in enumerate(zip(states, regions, strict=True), start=1):
            if (own.height, own.width) != state.size:
                raise InputError.about(
                    f"regions of picture {number}",
                    f"a {state.size[1]} x {state.size[0]} picture's",
                    f"those of {own.width} x {own.height}",
                    "give regions in pixels of this upright picture",
                )
        rows: list[Tensor] = [torch.zeros(0, self.embedding_dim, device=self.device)] * len(states)
        asked = [i for i, own in enumerate(regions) if len(own)]  # SAM refuses zero prompts
        if asked:
            found = self._encode_regions([states[i] for i in asked], [regions[i] for i in asked])
            for i, own_rows in zip(asked, found, strict=True):
                rows[i] = own_rows
        return pad_sets(rows)

    def score(self, embeddings: Tensor, bank: TextBank, regions: RegionSet) -> RegionScores:
        """Scores of one picture's regions.

        Args:
            embeddings: `[N, D]`, un-normalised, without padding.
        """
        unit = F.normalize(embeddings.float(), dim=-1, eps=1e-7)
        logits = self.logit_scale.float() * unit @ bank.weights.T
        background = None
        if bank.background is not None:
            background = self.logit_scale.float() * unit @ bank.background
        return RegionScores(
            bank.names, logits, probabilities(logits, self.rule, background), self.rule, regions
        )

    @torch.no_grad()
    def look(
        self, image: Image.Image, regions: RegionSet, vocabulary: Vocabulary
    ) -> tuple[ImageState, RegionScores]:
        """`recognize` of one picture, with what is kept of the picture: RegionSpot paints masks from it."""
        bank = self.encode_vocabulary(vocabulary)
        states = self.encode_images([image])
        embedded, valid = self.encode_regions(states, [regions])
        return states[0], self.score(embedded[0, valid[0]], bank, regions)

    @torch.no_grad()
    def recognize(
        self,
        images: Sequence[Image.Image],
        regions: Sequence[RegionSet | Sequence[Region]],
        vocabulary: Vocabulary | Sequence[str],
    ) -> list[RegionScores]:
        """Name every region of every picture: encode vocabulary, pictures and regions, then score.

        Args:
            regions: one `RegionSet` or sequence of regions a picture; may be empty.
            vocabulary: a `Vocabulary`, or names, which then get this recognizer's templates.

        Raises:
            InputError: an empty vocabulary, a region outside its picture, a mask of another size.
        """
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = self.vocabulary(vocabulary)
        if len(images) != len(regions):
            raise InputError.about(
                "regions",
                f"one set a picture, {len(images)}",
                str(len(regions)),
                "give an empty list for a picture without regions",
            )
        sets = [as_set(own, image) for own, image in zip(regions, images, strict=True)]
        bank = self.encode_vocabulary(vocabulary)
        if not images:
            return []
        embeddings, valid = self.encode_regions(self.encode_images(images), sets)
        return [
            self.score(rows[mask], bank, own) for rows, mask, own in zip(embeddings, valid, sets, strict=True)
        ]


def as_set(regions: RegionSet | Sequence[Region], image: Image.Image) -> RegionSet:
    """The regions as a `RegionSet` of this picture."""
    return regions if isinstance(regions, RegionSet) else RegionSet(tuple(regions), image.height, image.width)


def check_keys(thing: str, config: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises InputError for a key of a recognizer's configuration that is not known."""
    if unknown := sorted(set(config) - set(known)):
        raise InputError.about(
            f"{thing} config",
            f"keys {', '.join(sorted(known))}",
            f"also {', '.join(unknown)}",
            "remove what is unknown",
        )

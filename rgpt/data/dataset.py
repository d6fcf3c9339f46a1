"""A visit to a sample becomes a tokenised conversation with its picture and regions.

Everything random about a visit (is a region given as box or as mask?) comes from its `Draw`, never from a
worker's state.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rgpt.data.mixture import Draw
from rgpt.data.sample_files import FileChanged, SampleFile
from rgpt.data.schema import Sample
from rgpt.errors import ContextLengthError, InputError
from rgpt.formats.jsonl import BrokenLine
from rgpt.model import RegionGPTProcessor
from rgpt.model.conversation import IGNORED, Conversation
from rgpt.regions import Region, open_image

REGION_FORMS = ("given", "box", "mixed")
"""How training shows a region: as it is written, as its bounding box, or one of the two at random [A]."""


BAD_KINDS = ("broken line", "odd record", "picture", "too long", "unlearned", "other")
"""Why a sample cannot be used, to count by; `unlearned`: none of its tokens would be learned."""


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be used, and the sentence that says why.

    Attributes:
        kind: one of `BAD_KINDS`.
        fatal: its file is no longer what it was: nothing in it can be trusted.
    """

    id: str
    reason: str
    kind: str = "other"
    fatal: bool = False


class UnusablePicture(InputError):
    """A sample's picture cannot be read, or has no features in the cache."""


class NothingLearned(InputError):
    """None of a sample's tokens would be learned."""


def kind_of(error: InputError) -> str:
    """The one of `BAD_KINDS` that an error about a sample is."""
    kinds: dict[type[InputError], str] = {
        BrokenLine: "broken line",
        UnusablePicture: "picture",
        ContextLengthError: "too long",
        NothingLearned: "unlearned",
    }
    return next((kind for each, kind in kinds.items() if isinstance(error, each)), "other")


class PictureFeatures(Protocol):
    """Where cached tower features come from (see `rgpt.train.feature_cache`)."""

    def get(self, path: str) -> tuple[Tensor, tuple[int, int]]:
        """(`[C, h, w]` features, (width, height) of the upright picture). Raises InputError."""


def messages_of(sample: Sample) -> list[dict[str, Any]]:
    """A sample's turns as chat messages; the picture stands before the first question."""
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(sample.turns):
        blocks: list[dict[str, Any]] = [{"type": "text", "text": turn.question}]
        if number == 0 and sample.image is not None:
            blocks.insert(0, {"type": "image"})
        messages.append({"role": "user", "content": blocks})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return messages


def shown_as(region: Region, form: str, chance: random.Random, height: int, width: int) -> Region:
    """The region, or its bounding box, in pixels of a height x width picture."""
    if form == "box" or (form == "mixed" and chance.random() < 0.5):
        return region.bounds(height, width)
    return region


class TrainingSet(torch.utils.data.Dataset):
    """`dataset[draw]` -> `Conversation`, or `BadSample` when picture, regions or length cannot be used.

    Args:
        files: the samples; `draw.source` says which.
        processor: writes words, pictures and masks.
        seed: of the choice between box and mask.
        region_form: one of `REGION_FORMS`.
        max_length: longest row in tokens; default: the processor's.
        truncation: cut a longer row at its end, where that cuts no placeholder; else it is a bad sample.
        chat_template: name or Jinja text; default: the processor's.
        features: cached tower features in place of pictures.
    """

    def __init__(
        self,
        files: Sequence[SampleFile],
        processor: RegionGPTProcessor,
        *,
        seed: int = 0,
        region_form: str = "given",
        max_length: int | None = None,
        truncation: bool = False,
        chat_template: str | None = None,
        features: PictureFeatures | None = None,
    ) -> None:
        if region_form not in REGION_FORMS:
            raise InputError.about("region_form", f"one of {', '.join(REGION_FORMS)}", repr(region_form))
        self.files, self.processor, self.seed, self.region_form = list(files), processor, seed, region_form
        self.max_length, self.truncation, self.chat_template = max_length, truncation, chat_template
        self.features = features

    def __getitem__(self, draw: Draw) -> Conversation | BadSample:
        try:
            sample = self.files[draw.source][draw.row]
        except InputError as error:
            kind = "broken line" if isinstance(error, BrokenLine) else "odd record"
            said = " ".join(str(error).split())
            return BadSample(self.name(draw), said, kind, isinstance(error, FileChanged))
        try:
            return self.conversation(sample, random.Random(f"{self.seed} {tuple(draw)}"))
        except InputError as error:
            where = f"{self.files[draw.source].path}, sample {sample.id}"
            return BadSample(where, " ".join(str(error).split()), kind_of(error))

    def name(self, draw: Draw) -> str:
        """How messages call a sample: its file, and its id where that can be read."""
        file = self.files[draw.source]
        try:
            return f"{file.path}, sample {file[draw.row].id}"
        except InputError:
            return f"{file.path}, sample number {draw.row + 1}"

    def conversation(self, sample: Sample, chance: random.Random) -> Conversation:
        """A sample's tokens, labels, picture and regions. Raises InputError."""
        picture: Any = None
        sizes: list[tuple[int, int]] = []
        regions: list[Region] | None = None
        if sample.image is not None:
            try:
                if self.features is not None:
                    picture, (width, height) = self.features.get(str(sample.image))
                else:
                    picture = open_image(sample.image)
                    width, height = picture.size
            except InputError as error:
                raise UnusablePicture(str(error)) from error
            sizes = [(height, width)]
            regions = [shown_as(region, self.region_form, chance, height, width) for region in sample.regions]
        conversation = self.processor.tokenize_chat(
            messages_of(sample),
            self.chat_template,
            images=sizes,
            regions=regions,
            learn=True,
            max_length=self.max_length,
            truncation=self.truncation,
        )
        # The first token is predicted by nothing.
        if not (conversation.labels[1:] != IGNORED).any():
            raise NothingLearned(
                "nothing in it is learned: no answer begins within max_length."
                if conversation.cut
                else "nothing in it is learned: the chat template marks no words of the assistant "
                "({% generation %})."
            )
        if sample.image is not None:
            conversation.cached = self.features is not None
            conversation.pictures = [picture if conversation.cached else self.processor.pixels(picture)]
        return conversation

"""RegionCLIP's pretraining: a frozen teacher names proposals with concepts, the student learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rgpt.errors import InputError
from rgpt.recognizers.base import RegionRecognizer
from rgpt.recognizers.frozen import Frozen
from rgpt.recognizers.loading import build_recognizer, load_recognizer
from rgpt.recognizers.proposals import RpnProposals, best, open_source
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.regionclip import RegionClip
from rgpt.recognizers.regionclip_losses import (
    REGIONS_PROPOSED,
    REGIONS_SAMPLED,
    distillation,
    image_text_contrast,
    pseudo_labels,
    region_text_contrast,
)
from rgpt.train.recognizers.config import RunConfig
from rgpt.train.recognizers.data import Batch
from rgpt.train.recognizers.example import Example
from rgpt.train.recognizers.recipe import Recipe, captions_of, gathered, listed, start


class RegionClipRecipe(Recipe):
    """L = region-text contrast + distillation + image-text contrast, unit weights [P].

    `model`: `clip` (pretrained, e.g. open_clip:RN50/openai; teacher and student start there), or `config`
    with `teacher` (a folder of kind clip or regionclip whose tower the teacher takes) and `random_student`
    (it does not start as the teacher: then all it knows, the teacher told it); `concepts`: names, a
    file, or absent for the source's own names; `proposals`: see `Proposals`; `dedup`; `image_text`: whether
    captions are used; `settings`: of `RegionClipConfig`, with `clip`.
    """

    keys = (
        "config", "clip", "settings", "teacher", "random_student", "concepts", "proposals", "dedup",
        "image_text",
    )  # fmt: skip

    def __init__(self, config: RunConfig) -> None:
        model = config.model
        student = start("regionclip", model, config.init)
        if student is None:
            student = RegionClip.from_pretrained_clip(model["clip"], **model.get("settings", {}))
        assert isinstance(student, RegionClip)
        super().__init__(student)
        if "teacher" in model:
            teacher = teacher_from(model["teacher"], student)
            if not config.init and not model.get("random_student"):
                _start_as(student, teacher, model["teacher"])
        else:
            teacher = RegionClip.from_pretrained_clip(model["clip"], **model.get("settings", {}))
        self.teacher = Frozen(teacher)
        self.dedup, self.image_text = bool(model.get("dedup")), bool(model.get("image_text", True))
        self.proposals = Proposals(str(model.get("proposals", "data")), REGIONS_PROPOSED, nms=0.5)
        self.concepts = listed(model.get("concepts"))

    @property
    def student(self) -> RegionClip:
        return self.recognizer  # type: ignore[return-value]

    def boxes(self, example: Example, generator: torch.Generator) -> RegionSet:
        """At most 100 proposals of a picture, drawn for it alone; their names, if there are any, are not
        looked at."""
        height, width = example.image.height, example.image.width
        found = self.proposals(example, self.student.device)
        if len(found) <= REGIONS_SAMPLED:
            return found
        chosen = torch.randperm(len(found), generator=generator)[:REGIONS_SAMPLED].tolist()
        return RegionSet(tuple(found.regions[i] for i in chosen), height, width, source=found.source)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        teacher: RegionClip = self.teacher.module  # type: ignore[assignment]
        images = [example.image for example in batch.examples]
        generator = torch.Generator().manual_seed(batch.step)
        sets = [self.boxes(example, generator) for example in batch.examples]
        names = self.concepts or list(batch.names)
        student_bank = self.student.encode_vocabulary(self.student.vocabulary(names)).weights
        teacher_bank = teacher.encode_vocabulary(teacher.vocabulary(names)).weights
        with torch.no_grad():
            embedded, valid = teacher.encode_regions(teacher.encode_images(images), sets)
            labels = pseudo_labels(embedded[valid], teacher_bank, 1 / float(teacher.logit_scale))
        states = self.student.encode_images(images)
        embedded, valid = self.student.encode_regions(states, sets)
        own = embedded[valid][labels.kept]
        if not len(own):  # pictures without regions teach nothing, but the step goes on
            own = own + 0.0 * sum(p.sum() for p in self.student.parameters() if p.requires_grad)
        temperature = 1 / float(self.student.logit_scale)
        losses = {
            "loss_contrast": region_text_contrast(own, labels.concept, student_bank, temperature, self.dedup),
            "loss_distill": distillation(own, student_bank, labels.logits, temperature),
        }
        if self.image_text:
            texts = self.student.text.encode(captions_of(batch))
            losses["loss_image"] = image_text_contrast(
                gathered(self.student.image_embeddings(states)), gathered(texts.to(own)), temperature
            )
        return losses


class Proposals:
    """Regions to learn from: `data` (the source's own, names aside), `grid` (`grid_boxes`), or any source of
    `rgpt.recognizers.proposals` that needs nothing but the picture, such as rpn:FILE.

    Args:
        most: of a source, its best. nms: of an rpn's proposals (published: 0.5 in pretraining).

    Raises:
        InputError: a source that cannot be opened, or that looks pictures up by their ids.
    """

    def __init__(self, name: str, most: int, nms: float | None = None) -> None:
        self.name, self.most, self.source = name, most, None
        if name in ("data", "grid"):
            return
        if name == "gt" or name.startswith("json:"):
            raise InputError.about(
                "proposals",
                "data, grid or a source that finds them on the picture",
                repr(name),
                "name rpn:FILE, sam:MODEL, grounding-dino:MODEL?TEXT or rovit:FOLDER",
            )
        self.source = open_source(name)
        if isinstance(self.source, RpnProposals) and nms is not None:
            self.source.model.rpn.nms_thresh = nms

    def __call__(self, example: Example, device: torch.device) -> RegionSet:
        height, width = example.image.height, example.image.width
        if self.name == "data":
            return example.regions
        if self.source is None:
            return RegionSet.of_boxes(grid_boxes(height, width), height, width, source="grid")
        if isinstance(self.source, RpnProposals):
            self.source.model.to(device)
        return best(self.source(example.image), self.most)


def grid_boxes(height: int, width: int) -> Tensor:
    """Squares of half and a third of the shorter side, overlapping by half, `[N, 4]` in pixels."""
    rows = []
    for share in (2, 3):
        side = min(height, width) / share
        for top in torch.arange(0, height - side + 1e-3, side / 2).tolist():
            rows += [
                [left, top, left + side, top + side]
                for left in torch.arange(0, width - side + 1e-3, side / 2).tolist()
            ]
    return torch.tensor(rows)


def teacher_from(folder: str, student: RegionClip) -> RegionClip:
    """A frozen copy of the student's architecture with the tower of a trained clip or regionclip.

    Raises:
        InputError: it is no clip or regionclip, or its tower is no ResNet of open_clip.
    """
    source: Any = load_recognizer(Path(folder))
    if isinstance(source, RegionClip):
        return source
    if source.kind != "clip":
        raise InputError.about(
            f"teacher {folder!r}", "a clip or regionclip", f"a {source.kind}", "name another folder"
        )
    made: RegionRecognizer = build_recognizer("regionclip", {**student.config, "clip": source.config["clip"]})
    assert isinstance(made, RegionClip)
    tower = {
        key: value
        for key, value in source.vision.module.model.state_dict().items()
        if key in made.visual.state_dict()
    }
    made.visual.load_state_dict(tower)
    return made.eval()


def _start_as(student: RegionClip, teacher: RegionClip, name: str) -> None:
    try:
        student.load_state_dict(teacher.state_dict())
    except RuntimeError as error:
        raise InputError.about(
            f"teacher {name!r}",
            "the student's own architecture, where the student starts as its teacher",
            "another one",
            "make model.config's clip the teacher's, or set random_student",
        ) from error

"""Region recognizers and detectors as kinds of model of `eval.run`, beside the chat models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rgpt.errors import InputError
from rgpt.placement import EVERYWHERE
from rgpt.regions import Region

if TYPE_CHECKING:
    from rgpt.recognizers.detectors import Detector
    from rgpt.recognizers.scores import RegionScores


def is_recognizer(model: str) -> bool:
    """Whether `--model` names a recognizer: by its name, or a folder that `save_recognizer` wrote."""
    from rgpt.recognizers.loading import NAMES

    return model.partition("@")[0] in NAMES or (Path(model) / "recognizer.json").is_file()


def is_detector(model: str) -> bool:
    """Whether `--model` names a detector, or a recognizer, which becomes one with proposals."""
    from rgpt.recognizers.detectors import DETECTORS

    return model.partition("@")[0] in DETECTORS or is_recognizer(model)


def proposes_itself(model: str) -> bool:
    """Whether `--model` is a detector that takes no proposals."""
    from rgpt.recognizers.detectors import detector_kind

    return is_detector(model) and detector_kind(model) == "rovit-detector"


def check(args: argparse.Namespace) -> None:
    """Refuse what a recognizer or a detector cannot do. Raises InputError."""
    if args.task == "detection":
        _check_detection(args)
    if not is_detector(args.model):
        return
    chosen = {
        "task": (args.task, ("region_classification", "detection")[not is_recognizer(args.model) :]),
        "--ask": (getattr(args, "ask", "single"), ("single",)),
        "--dtype": (args.dtype or "float32", ("float32", "auto")),
        "--bits": (args.bits, (None,)),
        "--device": (args.device if args.device == EVERYWHERE else "one device", ("one device",)),
    }
    for what, (value, known) in chosen.items():
        if value not in known:
            raise InputError.about(
                f"{what} with the recognizer {args.model}",
                str(known[0]),
                repr(value),
                "a recognizer names regions and does nothing else: leave it out, or name a chat model",
            )


def _check_detection(args: argparse.Namespace) -> None:
    from rgpt.recognizers.detectors import check_detector
    from rgpt.recognizers.proposals import BOX_SOURCES

    if is_detector(args.model):
        check_detector(args.model, args.proposals, args.iou_type == "segm")
    elif args.proposals is None:
        raise InputError.about(
            f"--proposals for {args.model}",
            "a source of regions, for a chat model only names them",
            "none",
            "give for example --proposals gt, or sam:facebook/sam-vit-base",
        )
    elif args.iou_type == "segm" and args.proposals.partition(":")[0] in BOX_SOURCES:
        raise InputError.about(
            f"masks of {args.model}",
            "proposals that are masks, for a chat model paints none",
            repr(args.proposals),
            "compare boxes, or take sam:MODEL",
        )
    if args.most < 1 or not 0 < args.nms <= 1:
        raise InputError(f"--most {args.most} and --nms {args.nms}: expected 1 or more, and above 0 to 1.")


class RecognizerSession:
    """What a task needs of a model, answered by a recognizer: a picture, then all its regions at once."""

    def __init__(self, name: str, device: str | None = None) -> None:
        from rgpt.model.device import device_of
        from rgpt.recognizers.loading import open_recognizer

        self.recognizer = open_recognizer(name, device_of(device))
        self.image: Any = None

    @property
    def network(self) -> Any:
        return self.recognizer

    def set_image(self, image: Any) -> None:
        self.image = image

    def reset(self) -> None:
        """There is no conversation to forget."""

    def recognize(self, regions: Sequence[Region], names: Sequence[str]) -> RegionScores:
        """Probabilities of all names for all regions of the picture."""
        from rgpt.recognizers.region_set import RegionSet

        own = RegionSet(tuple(regions), self.image.height, self.image.width)
        return self.recognizer.recognize([self.image], [own], names)[0]


class DetectorSession:
    """A detector as a task asks it: a picture, then everything on it."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.network = detector, detector.network
        self.image: Any = None

    def set_image(self, image: Any) -> None:
        self.image = image

    def reset(self) -> None:
        """There is no conversation to forget."""


def parameters(session: Any) -> dict[str, int]:
    """How many parameters a model has, and how many of them its training changes.

    Frozen parts of a recognizer or detector do not count; of a chat model it is the second stage's, all but
    the vision tower. `trained` is 0 for the CLIP baselines: they are used as they come.
    """
    if isinstance(session, RecognizerSession | DetectorSession):
        own = [(p.requires_grad, p.numel()) for p in session.network.parameters()]
        return {"all": sum(n for _, n in own), "trained": sum(n for trains, n in own if trains)}
    from rgpt.train.stages import STAGES, part_of

    sizes = [(part_of(name), p.numel()) for name, p in session.model.named_parameters()]
    trained = sum(count for part, count in sizes if part in STAGES["tune"].trains)
    return {"all": sum(count for _, count in sizes), "trained": trained}

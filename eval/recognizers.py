"""Region recognizers as a kind of model of `eval.run`, beside the chat models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rgpt.errors import InputError
from rgpt.regions import Region

if TYPE_CHECKING:
    from rgpt.recognizers.scores import RegionScores


def is_recognizer(model: str) -> bool:
    """Whether `--model` names a recognizer: by its name, or a folder that `save_recognizer` wrote."""
    from rgpt.recognizers.loading import NAMES

    return model.partition("@")[0] in NAMES or (Path(model) / "recognizer.json").is_file()


def check(args: argparse.Namespace) -> None:
    """Refuse what a recognizer cannot do. Raises InputError."""
    if not is_recognizer(args.model):
        return
    chosen = {
        "task": (args.task, ("region_classification",)),
        "--ask": (getattr(args, "ask", "single"), ("single",)),
        "--dtype": (args.dtype or "float32", ("float32", "auto")),
    }
    for what, (value, known) in chosen.items():
        if value not in known:
            raise InputError.about(
                f"{what} with the recognizer {args.model}",
                expected=known[0],
                actual=repr(value),
                fix="a recognizer names regions and does nothing else: leave it out, or name a chat model",
            )


class RecognizerSession:
    """What a task needs of a model, answered by a recognizer: a picture, then all its regions at once."""

    def __init__(self, name: str, device: str | None = None) -> None:
        import torch

        from rgpt.recognizers.loading import open_recognizer

        self.recognizer = open_recognizer(name, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.image: Any = None

    def set_image(self, image: Any) -> None:
        self.image = image

    def reset(self) -> None:
        """There is no conversation to forget."""

    def recognize(self, regions: Sequence[Region], names: Sequence[str]) -> RegionScores:
        """Probabilities of all names for all regions of the picture."""
        from rgpt.recognizers.region_set import RegionSet

        own = RegionSet(tuple(regions), self.image.height, self.image.width)
        return self.recognizer.recognize([self.image], [own], names)[0]


def parameters(session: Any) -> dict[str, int]:
    """How many parameters a model has, and how many of them its training changes.

    A recognizer says so itself (its frozen parts do not count); of a chat model it is the second stage's, all
    but the vision tower. `trained` is 0 for the CLIP baselines: they are used as they come.
    """
    if isinstance(session, RecognizerSession):
        network: Any = session.recognizer
        return {
            "all": sum(p.numel() for p in network.parameters()),
            "trained": network.trainable_parameters(),
        }
    from rgpt.train.stages import STAGES, part_of

    sizes = [(part_of(name), p.numel()) for name, p in session.model.named_parameters()]
    trained = sum(count for part, count in sizes if part in STAGES["tune"].trains)
    return {"all": sum(count for _, count in sizes), "trained": trained}

"""What every recipe of a recognizer shares: its recognizer, its vocabularies, where it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rgpt.errors import InputError
from rgpt.hub import open_pretrained
from rgpt.recognizers.base import RegionRecognizer
from rgpt.recognizers.loading import build_recognizer, load_recognizer, save_recognizer
from rgpt.recognizers.vocabulary import TextBank, Vocabulary, read_vocabulary
from rgpt.train.recognizers.data import Batch


class Recipe(nn.Module):
    """Base: holds the recognizer and the embedded vocabularies of the sources.

    Attributes:
        keys: what `model` of a config may hold; others are refused.
    """

    keys: tuple[str, ...] = ()

    def __init__(self, recognizer: RegionRecognizer) -> None:
        super().__init__()
        self.recognizer = recognizer
        self._vocabularies: dict[str, Vocabulary] = {}

    def vocabulary(self, batch: Batch) -> Vocabulary:
        """The batch's whole vocabulary, with the recognizer's own templates."""
        if batch.source not in self._vocabularies:
            self._vocabularies[batch.source] = self.recognizer.vocabulary(batch.names)
        return self._vocabularies[batch.source]

    def bank(self, batch: Batch) -> TextBank:
        """The batch's vocabulary, embedded."""
        return self.recognizer.encode_vocabulary(self.vocabulary(batch))

    def save(self, folder: Path) -> None:
        """Write the trained recognizer."""
        save_recognizer(self.recognizer, folder)


def start(kind: str, model: dict[str, Any], init: str) -> RegionRecognizer | None:
    """The recognizer a recipe starts from: `init`, then `model.config`; None if neither is given.

    Raises:
        InputError: the folder holds another kind.
    """
    if init:
        made = load_recognizer(init)
        if made.kind != kind:
            raise InputError.about(f"init {init!r}", f"a {kind}", f"a {made.kind}", "name the other one")
        return made
    tokenizer = open_tokenizer(model["tokenizer"]) if model.get("tokenizer") else None
    return build_recognizer(kind, model["config"], tokenizer) if "config" in model else None


def open_tokenizer(name: str) -> Any:
    """A tokenizer of transformers (folder or hub id). Raises InputError."""
    from transformers import AutoTokenizer

    try:
        return open_pretrained(AutoTokenizer, name)
    except (OSError, ValueError) as error:
        raise InputError.about(
            f"tokenizer {name!r}",
            "one of transformers (folder or hub id)",
            " ".join(str(error).split())[:160],
            "check the name and that it is on this machine",
        ) from error


def listed(given: Any) -> list[str] | None:
    """Names of a config: a list, a file (see `read_vocabulary`), or nothing."""
    if not given:
        return None
    return list(given) if isinstance(given, list | tuple) else list(read_vocabulary(str(given)).given)


def captions_of(batch: Batch) -> list[str]:
    """The caption of every example. Raises InputError when one has none."""
    if not all(example.caption for example in batch.examples):
        raise InputError(
            f"source {batch.source}: an example has no caption; this recipe learns from captions."
        )
    return [example.caption for example in batch.examples]


def fits(batch: Batch) -> Tensor:
    """Which captions (columns) are true of which pictures (rows), bool `[B, B]`: equal captions, and captions
    that are a name of something in the picture. What is true is no negative. B counts the examples of all
    processes, in the order of `gathered`."""
    own = [(e.caption, {e.caption, *(name for names in e.names for name in names)}) for e in batch.examples]
    rows = _all_of(own)
    return torch.tensor([[caption in true for caption, _ in rows] for _, true in rows])


def gathered(rows: Tensor) -> Tensor:
    """`[B, …]` of every process below one another, with gradient; in a single process the rows themselves."""
    if not _distributed():
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows.contiguous()))


def _all_of(items: list[Any]) -> list[Any]:
    """The items of all processes, one process after the other."""
    if not _distributed():
        return items
    lists: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(lists, items)
    return [item for own in lists for item in own]


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()

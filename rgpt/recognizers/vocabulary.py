"""The names a recognizer chooses among, and their embeddings.

Names that a text encoder reads as the same text are one class: two rows with the same embedding would share
their probability, and under a sigmoid get contradictory targets. `Vocabulary.rows` still tells the row of
every name as given.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rgpt.errors import InputError
from rgpt.files import sha256
from rgpt.recognizers.text import TextEncoder

TEMPLATES = ("bare", "openai80", "openai81")
FILES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml")


def clean_name(name: str) -> str:
    """ "aerosol_can" -> "aerosol can", "arctic_(type_of_shoe)" -> "arctic type of shoe", "tree-merged" ->
    "tree".

    The published RegionSpot strips only "-other", "-merged" and "-stuff" and embeds LVIS names raw;
    RegionCLIP replaces underscores and removes parentheses. We do both; `clean_names=False` leaves names as
    they are.
    """
    name = re.sub(r"-(other|merged|stuff)$", "", unicodedata.normalize("NFC", name).strip())
    return " ".join(re.sub(r"[_()]", " ", name.replace("+", " ").replace(",", " ")).split())


@dataclass(frozen=True)
class Vocabulary:
    """Names, and how they become text.

    Args:
        names: as given; duplicates are merged into the first of them.
        frequency: "r", "c" or "f" a name as given, or empty (LVIS).
        is_base: whether each name as given was trained with, or empty (unknown).
        templates: `bare` ("{}"), `openai80`, `openai81` (those and "{}."; both papers' 81), or texts with
            one "{}".
        clean_names: see `clean_name`.
        normalise_first: average unit vectors (open_clip, RO-ViT) instead of raw embeddings (RegionSpot,
            RegionCLIP).

    Raises:
        InputError: no names, a blank name, or lists that do not fit the names.
    """

    names: Sequence[str]
    frequency: tuple[str, ...] = ()
    is_base: tuple[bool, ...] = ()
    templates: str | tuple[str, ...] = "bare"
    clean_names: bool = True
    normalise_first: bool = False
    given: tuple[str, ...] = field(init=False)
    texts: tuple[str, ...] = field(init=False)
    rows: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        given = tuple(self.names)
        if isinstance(self.names, str) or not given:
            raise InputError.about("vocabulary", "at least one name", "none", "give names to choose among")
        for name in given:
            if not isinstance(name, str) or not name.strip():
                raise InputError.about("vocabulary", "words", repr(name)[:40], "remove it or write a name")
        for what, values in (("frequency", self.frequency), ("is_base", self.is_base)):
            if values and len(values) != len(given):
                raise InputError.about(
                    f"vocabulary {what}",
                    f"one a name, {len(given)}",
                    str(len(values)),
                    "give as many as there are names",
                )
        if isinstance(self.templates, str) and self.templates not in TEMPLATES:
            raise InputError.about(
                "templates", f"one of {', '.join(TEMPLATES)} or a tuple of texts", repr(self.templates)
            )
        own = () if isinstance(self.templates, str) else tuple(self.templates)
        if not isinstance(self.templates, str) and {text.count("{}") for text in own} != {1}:
            raise InputError.about(
                "templates",
                'texts with one "{}" for the name',
                repr(own)[:80],
                'write for example "a photo of {}."',
            )
        texts = [(clean_name(name) or name) if self.clean_names else name for name in given]
        # What an encoder reads: CLIP's tokenizers and the word vectors lower the case and know one spelling
        # of an accent, so "Dog" and "dog" could only ever share their probability.
        read = [text.lower() for text in texts] if self.clean_names else texts
        first: dict[str, int] = {}  # text as read -> position among the given names
        for position, text in enumerate(read):
            first.setdefault(text, position)
        order = {text: row for row, text in enumerate(first)}
        kept = list(first.values())
        object.__setattr__(self, "given", given)
        object.__setattr__(self, "rows", tuple(order[text] for text in read))
        object.__setattr__(self, "names", tuple(given[i] for i in kept))
        object.__setattr__(self, "texts", tuple(texts[i] for i in kept))
        for what in ("frequency", "is_base"):
            values = getattr(self, what)
            object.__setattr__(self, what, tuple(values[i] for i in kept) if values else ())

    def __len__(self) -> int:
        return len(self.names)

    @property
    def merged(self) -> int:
        """How many given names were duplicates of earlier ones."""
        return len(self.given) - len(self.names)

    def prompts(self) -> list[str]:
        """The filled templates."""
        if not isinstance(self.templates, str):
            return list(self.templates)
        if self.templates == "bare":
            return ["{}"]
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return [t("{}") for t in OPENAI_IMAGENET_TEMPLATES] + ["{}."] * (self.templates == "openai81")

    def content_hash(self) -> str:
        """Changes whenever the embeddings could."""
        content = [self.texts, self.prompts(), self.normalise_first, self.is_base]
        return sha256(json.dumps(content))


@dataclass(frozen=True)
class TextBank:
    """Embedded names: `weights` unit rows `[C, D]`, `background` `[D]` unit or None, `is_base` bool `[C]` or
    None."""

    names: tuple[str, ...]
    weights: Tensor
    background: Tensor | None = None
    is_base: Tensor | None = None


def embed(
    encoder: TextEncoder, vocabulary: Vocabulary, background: str | None = None, block: int = 1024
) -> TextBank:
    """Embed a vocabulary: every name in every template, averaged, unit rows.

    Whether vectors are normalised before they are averaged is `vocabulary.normalise_first`. At most `block`
    texts are embedded at once: V3Det's 13,000 names in 81 templates would be gigabytes.
    """
    from tqdm import tqdm

    templates = vocabulary.prompts()
    texts = [*vocabulary.texts, *([background] if background is not None else [])]
    step, means = max(1, block // len(templates)), []
    progress = tqdm(total=len(texts), desc="names", unit="name", delay=2, leave=False, disable=None)
    with torch.no_grad(), progress:
        for start in range(0, len(texts), step):
            own = texts[start : start + step]
            filled = [template.replace("{}", text) for text in own for template in templates]
            vectors = encoder.encode(filled).float().unflatten(0, (len(own), len(templates)))
            means.append((F.normalize(vectors, dim=-1) if vocabulary.normalise_first else vectors).mean(1))
            progress.update(len(own))
        rows = F.normalize(torch.cat(means), dim=-1)
    is_base = torch.tensor(vocabulary.is_base) if vocabulary.is_base else None
    extra = None if background is None else rows[-1]
    return TextBank(tuple(vocabulary.names), rows[: len(vocabulary)], extra, is_base)


def read_vocabulary(text: str, **settings: Any) -> Vocabulary:
    """The vocabulary of a command line: `coco80`, `lvis`, a file, or "a,b,c".

    A `.json` file is a list of names or an annotation file with `categories` (COCO, LVIS: by id, with LVIS's
    frequencies); any other file holds one name a line. `lvis` reads the annotation file named by the
    environment variable RGPT_LVIS, because the 1,203 names are data that this package does not carry.

    Raises:
        InputError: nothing is named, or the file cannot be read as one of these.
    """
    text = text.strip()
    if text == "coco80":
        return Vocabulary(coco80(), **settings)
    if text == "lvis":
        path = os.environ.get("RGPT_LVIS")
        if not path:
            raise InputError.about(
                "vocabulary lvis",
                "an LVIS annotation file in the environment variable RGPT_LVIS",
                "none",
                "set it, or give the file itself as the vocabulary",
            )
        return _read_file(Path(path), settings)
    path_given = Path(os.path.expanduser(text))
    if os.path.isfile(path_given):  # Path.is_file raises where a list of names is longer than a file name
        return _read_file(path_given, settings)
    # A single name is no choice: what looks like a path is one that was misspelt.
    like_a_path = text and "," not in text and (os.sep in text or os.path.isdir(path_given))
    if path_given.suffix in FILES or like_a_path:
        raise InputError.about(f"vocabulary {text!r}", "an existing file", "none here")
    return Vocabulary(tuple(name.strip() for name in text.split(",") if name.strip()), **settings)


def mark_base(names: Sequence[str], base: Sequence[str]) -> tuple[bool, ...]:
    """Whether each of `names` is one of `base`, as a text encoder reads them.

    Raises:
        InputError: a base name is none of the names.
    """
    known = {clean_name(name).lower() for name in names}
    wanted = {clean_name(name).lower(): name for name in base}
    if unknown := [name for text, name in wanted.items() if text not in known]:
        raise InputError.about(
            "base names",
            f"some of the {len(known)} names of the vocabulary",
            f"also {', '.join(map(repr, unknown[:5]))}",
            "correct the spelling, or leave them out",
        )
    return tuple(clean_name(name).lower() in wanted for name in names)


def coco80() -> tuple[str, ...]:
    """COCO's 80 category names, in the order of their ids, as torchvision lists them."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple(name for name in names if name not in ("__background__", "N/A"))


def _read_file(path: Path, settings: dict[str, Any]) -> Vocabulary:
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".json":
            return Vocabulary(tuple(filter(None, map(str.strip, content.splitlines()))), **settings)
        value = json.loads(content)
        if isinstance(value, list):
            return Vocabulary(tuple(value), **settings)
        categories = sorted(value["categories"], key=lambda c: c["id"])
        frequency = tuple(c["frequency"] for c in categories if "frequency" in c)
        return Vocabulary(tuple(c["name"] for c in categories), frequency, **settings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError.about(
            f"vocabulary {str(path)!r}",
            "one name a line, a JSON list of names or annotations with categories",
            f"{type(error).__name__}: {error}"[:120],
            "write one name a line",
        ) from error


def multi_hot(vocabulary: Vocabulary, names: Sequence[Sequence[str]]) -> Tensor:
    """Targets float `[N, C]`: row i has a 1 for each of region i's names (synonyms count together).

    Raises:
        InputError: a name is not in the vocabulary, so nothing silently becomes class 0.
    """
    row_of = dict(zip(vocabulary.given, vocabulary.rows, strict=True))
    targets = torch.zeros(len(names), len(vocabulary))
    for i, own in enumerate(names):
        for name in own:
            if name not in row_of:
                raise InputError.about(
                    f"name {name!r} of region {i + 1}",
                    f"one of the vocabulary's {len(vocabulary)} names",
                    "another one",
                    "add it to the vocabulary or drop the region",
                )
            targets[i, row_of[name]] = 1.0
    return targets

"""What a model has seen: `about.json` beside its weights, for those who show its answers.

    {"pictures": "drawn scenes", "vocabulary": "shape", "names": ["circle", "square"]}

`pictures`: `photographs` or `drawn scenes`. `vocabulary` and `names`, both or neither: the model was trained
to answer the guide sentence of this vocabulary (`rgpt.prompts.classification_guide`) with one of these names.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rgpt.errors import InputError
from rgpt.files import write_json

FILE = "about.json"
PICTURES = ("photographs", "drawn scenes")


@dataclass(frozen=True)
class About:
    """What a model has seen; everything is empty where nobody has said."""

    pictures: str = ""
    vocabulary: str = ""
    names: tuple[str, ...] = ()

    @property
    def only_drawn(self) -> bool:
        """Whether it has never seen a photograph."""
        return self.pictures == "drawn scenes"


def read_about(folder: str | Path) -> About:
    """What the folder's `about.json` says; nothing where there is none, or for a hub id.

    Raises:
        InputError: it is damaged or has other keys than the three above.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return About()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        about = About(**{**found, "names": tuple(found.get("names", ()))})
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(file, str(error)) from error
    if about.pictures not in PICTURES:
        raise _damaged(file, f"pictures is {about.pictures!r}, not one of {', '.join(PICTURES)}")
    if bool(about.vocabulary) != bool(about.names):
        raise _damaged(file, "vocabulary and names belong together")
    if not all(isinstance(text, str) and text for text in (about.vocabulary or "-", *about.names)):
        raise _damaged(file, "vocabulary and names are not texts")
    return about


def write_about(folder: str | Path, about: About) -> None:
    """The file that `read_about` reads; none for a model of which nobody has said anything."""
    if about != About():
        said = {name: value for name, value in asdict(about).items() if value}
        write_json(Path(folder) / FILE, said)


def _damaged(file: Path, why: str) -> InputError:
    return InputError(f"{file} cannot be used ({why}): copy it again.")

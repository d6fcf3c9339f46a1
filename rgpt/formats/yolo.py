"""YOLO's text labels: a line an object, fractions of the upright picture, classes by their index.

`labels/train/a.txt` belongs to the picture of the same name in `images/train/`; in older layouts both lie in
one folder. Names stand in `data.yaml` (`names`, a list or numbered), or line by line in `classes.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rgpt.errors import InputError
from rgpt.formats.annotated import AnnotatedObject, AnnotatedPicture, number, refuse

LISTS_OF_NAMES = (
    "data.yaml",
    "data.yml",
    "dataset.yaml",
    "classes.txt",
    "obj.names",
    "predefined_classes.txt",
)
_LISTS = re.compile(r"(train|val|valid|test|labels|requirements|readme.*)\.txt$", re.IGNORECASE)
"""Texts beside pictures that hold no labels."""
SLACK = 0.01
"""By how much a fraction may leave [0, 1]: labels of cut pictures do, pixels are far beyond."""


class Names(NamedTuple):
    """Class names by index, and whether a line holds key points behind its box."""

    names: Mapping[int, str]
    key_points: bool = False


def find_labels(annotations: Path, images: Path) -> tuple[Path, Path]:
    """(file of class names, folder of labels) of a data set.

    Args:
        annotations: `data.yaml`, `classes.txt`, the folder of the data set, or that of its labels.
        images: the folder of its pictures; `labels` stands where its path has `images`.

    Raises:
        InputError: there are no names, or no folder of labels.
    """
    folder = annotations if annotations.is_dir() else annotations.parent
    names = annotations
    if annotations.is_dir():
        places = [place / name for place in (folder, folder.parent) for name in LISTS_OF_NAMES]
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            refuse(
                f"labels {str(annotations)!r}",
                "class names beside them",
                "none",
                "add data.yaml or classes.txt",
            )
        names = found
    beside = _beside(images)
    places = [folder / "labels", folder] if annotations.is_dir() else [folder / "labels", images, folder]
    if folder.resolve() == images.resolve():
        places = [folder]  # pictures are named from there, too
    elif beside is not None and (annotations.is_file() or beside.resolve().is_relative_to(folder.resolve())):
        places.insert(0, beside)
    for place in places:
        if place.is_dir() and label_files(place):
            return names, place
    raise InputError.about(
        f"labels of {str(images)!r}", "a folder labels/ beside images/", "none",
        "put them there, or give their folder as --annotations",
    )  # fmt: skip


def _beside(images: Path) -> Path | None:
    """`…/images/train` → `…/labels/train`, by the last folder of that name."""
    parts = list(images.absolute().parts)
    for place in range(len(parts) - 1, 0, -1):
        if parts[place].lower() == "images":
            parts[place] = "labels"
            return Path(*parts)
    return None


def label_files(folder: Path) -> list[Path]:
    """The files of labels below a folder, sorted: in folders called labels, if there are any."""
    files = sorted(path for path in folder.rglob("*.txt") if path.name not in LISTS_OF_NAMES)
    if folder.name.lower() == "labels" or folder.parent.name.lower() == "labels":
        return files
    inside = [
        path for path in files if "labels" in (part.lower() for part in path.relative_to(folder).parts[:-1])
    ]
    return inside or [path for path in files if not _LISTS.match(path.name)]


def read_names(path: Path) -> Names:
    """The class names of a `data.yaml` or of lines of text.

    Raises:
        InputError: it cannot be read, or has no names.
    """
    thing = f"class names {str(path)!r}"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError.about(thing, "a text file in UTF-8", str(error)[:80], "save it as UTF-8") from error
    if path.suffix.lower() not in (".yaml", ".yml"):
        lines = [line.strip() for line in text.splitlines()]
        if not any(lines):
            refuse(thing, "a name a line", "none", "write them in the order of their indices")
        return Names(dict(enumerate(lines)))
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError.about(thing, "YAML", " ".join(str(error).split())[:120]) from error
    return _names_of_yaml(value, thing)


def _names_of_yaml(value: Any, thing: str) -> Names:
    names = value.get("names") if isinstance(value, Mapping) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not names:
        refuse(
            f"{thing}, names",
            "a list, or names by number",
            repr(names)[:40],
            "write the classes' names there",
        )
    try:
        return Names({int(key): str(name) for key, name in names.items()}, "kpt_shape" in value)
    except (TypeError, ValueError):
        refuse(f"{thing}, names", "whole numbers as keys", repr(list(names))[:40])


def read_labels(folder: Path, names: Names) -> Iterator[AnnotatedPicture]:
    """The pictures of every file of labels below `folder`, in the order of their names.

    A picture's name is that of its labels without ending, `images` in the place of `labels`. A line is
    `class x y width height`, of the box's centre, or `class x1 y1 x2 y2 x3 y3 …`, an outline.

    Raises:
        InputError: a line is broken, holds pixels, or a class without a name; file, line and field are named.
    """
    for path in label_files(folder):
        parts = list(path.relative_to(folder).with_suffix("").parts)
        for place in range(len(parts) - 2, -1, -1):
            if parts[place].lower() == "labels":
                parts[place] = "images"
                break
        thing = f"labels {str(path.relative_to(folder))!r}"
        picture = AnnotatedPicture("/".join(parts), unit="fractions", place=thing)
        try:
            lines = path.read_bytes().decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError.about(thing, "text", str(error)[:80], "write them again") from error
        for count, line in enumerate(lines, start=1):
            if fields := line.split():
                item = _object(fields, names, f"{thing}, line {count}")
                item.key = f"{path.relative_to(folder).as_posix()}#{count}"
                picture.objects.append(item)
        yield picture


def _object(fields: list[str], names: Names, place: str) -> AnnotatedObject:
    index = number(fields[0], f"{place}, class")
    if index not in names.names:
        known = f"one of {min(names.names)} to {max(names.names)}, which have names"
        refuse(f"{place}, class", known, repr(fields[0])[:40])
    values = fields[1:]
    if names.key_points:
        values = values[:4]
    box = len(values) == 4
    if not box and (len(values) < 6 or len(values) % 2):
        refuse(
            place, "4 numbers of a box or 6, 8, … of an outline behind the class", f"{len(values)} numbers"
        )
    parts = ("x", "y", "width", "height") if box else [f"number {n + 2}" for n in range(len(values))]
    read = [number(text, f"{place}, {part}") for text, part in zip(values, parts, strict=True)]
    for part, value in zip(parts, read, strict=True):
        if abs(value) > 1 + SLACK:
            refuse(f"{place}, {part}", "a fraction of the picture", f"{value:g}", "divide pixels by its size")
    item = AnnotatedObject(names.names[int(index)])
    if box:
        x, y, w, h = read
        item.box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    else:
        item.polygon = list(zip(read[0::2], read[1::2], strict=True))
    return item

"""Anybody's own annotations in other forms than COCO's: CSV, Label Studio's JSON, CVAT's XML.

Each reader yields one `OwnPicture` after the other with coordinates in pixels. XML and CSV list pictures
one by one; Label Studio's file is a list of tasks.
"""

from __future__ import annotations

import csv
import io
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_recipes.json_stream import open_data, read_array
from rgpt.errors import InputError

COORDINATES = ("pixels", "fractions", "percent")
Ring = list[tuple[float, float]]


@dataclass
class OwnObject:
    """A box [x1, y1, x2, y2], a polygon of one ring, or runs of a mask (see `mask`), with its label.

    mask: runs row by row, the first of zeros, within the window (left, top, width, height).
    problem: why the object cannot be read; the rest is empty then.
    """

    label: str = ""
    box: Sequence[float] | None = None
    polygon: Ring | None = None
    mask: tuple[list[int], tuple[int, int, int, int]] | None = None
    caption: str = ""
    problem: str = ""


@dataclass
class OwnPicture:
    """A picture's file name, its size where the file says it, and its objects."""

    name: str
    size: tuple[int, int] | None = None
    """(height, width)"""
    objects: list[OwnObject] = field(default_factory=list)
    unit: str = "pixels"
    """One of COORDINATES: what the objects' numbers are."""


# ------------------------------------------------------------------------------------------------------- CSV

_PICTURE = ("image", "filename", "file_name", "image_path", "path", "imageid", "image_id", "img")
_LABEL = ("label", "class", "name", "category", "labelname", "class_name", "category_name")
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_SIZED = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("bbox_x", "bbox_y", "bbox_w", "bbox_h"))
_PICTURE_SIZE = (("image_width", "image_height"), ("img_width", "img_height"), ("width", "height"))


def read_csv(path: Path, unit: str, caption_key: str | None) -> Iterator[OwnPicture]:
    """One object a row, in any order; the caller brings rows of one picture together.

    Columns are known by their usual names, in any case: the picture (image, filename, …), the label (label,
    class, …), the box (x1 y1 x2 y2, xmin ymin xmax ymax, or x y w h). Beside corners, "width" and "height"
    are the picture's size. A decimal comma is read as a point.

    Raises InputError when a column is missing.
    """
    with open_data(path) as stream:
        rows = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
        header = [name.strip().lower() for name in next(rows, [])]
        columns = _Columns.of(header, path, caption_key)
        for row in rows:
            if row:
                yield columns.read(row, unit)


@dataclass
class _Columns:
    """Where what stands in a row."""

    picture: int
    label: int | None
    box: tuple[int, ...]
    sized: bool
    size: tuple[int, ...] | None
    caption: int | None

    @classmethod
    def of(cls, header: list[str], path: Path, caption_key: str | None) -> _Columns:
        picture = next((header.index(name) for name in _PICTURE if name in header), None)
        label = next((header.index(name) for name in _LABEL if name in header), None)
        caption = header.index(caption_key.lower()) if caption_key and caption_key.lower() in header else None
        corners = next((names for names in _CORNERS if set(names) <= set(header)), None)
        box = corners or next((names for names in _SIZED if set(names) <= set(header)), None)
        missing = [
            what
            for what, found in (("a picture", picture), ("a box", box), ("a label", label))
            if found is None and not (what == "a label" and caption is not None)
        ]
        if missing or picture is None or box is None:
            raise InputError.about(
                f"table {str(path)!r}",
                f"columns for {' and '.join(missing)} (image, label, x1, y1, x2, y2 or x, y, w, h)",
                f"the columns {', '.join(header)[:120] or 'none'}",
                "rename them in the first line",
            )
        size = next((pair for pair in _PICTURE_SIZE if set(pair) <= set(header) - set(box)), None)
        return cls(
            picture,
            label,
            tuple(header.index(name) for name in box),
            corners is None,
            tuple(header.index(name) for name in (size[1], size[0])) if size else None,
            caption,
        )

    def read(self, row: list[str], unit: str) -> OwnPicture:
        try:
            numbers = [float(row[place].replace(",", ".")) for place in self.box]
            if self.sized:
                numbers[2:] = numbers[0] + numbers[2], numbers[1] + numbers[3]
            item = OwnObject(row[self.label] if self.label is not None else "", numbers)
            if self.caption is not None:
                item.caption = row[self.caption]
            height, width = (int(float(row[place])) for place in self.size) if self.size else (0, 0)
        except (ValueError, IndexError, OverflowError):
            name = row[self.picture] if self.picture < len(row) else ""
            return OwnPicture(name, None, [OwnObject(problem="row with a missing or broken number")], unit)
        size = (height, width) if height > 0 and width > 0 else None
        return OwnPicture(row[self.picture], size, [item], unit)


# ---------------------------------------------------------------------------------------------- Label Studio

_SHAPES = {
    "rectanglelabels": "rectanglelabels",
    "rectangle": "",
    "polygonlabels": "polygonlabels",
    "polygon": "",
}


def read_label_studio(path: Path, caption_key: str | None) -> Iterator[OwnPicture]:
    """Tasks of an export as "JSON" (not "JSON-MIN"): the first annotation that was not cancelled.

    Numbers are percent of the picture. Rectangles may be turned and become polygons then. Brushes are not
    read. With `caption_key`, a textarea of that name that belongs to a region is its description.

    Raises InputError when the file is no list.
    """
    for task in read_array(path):
        if not isinstance(task, Mapping):
            continue
        annotations = task.get("annotations") or task.get("completions") or []
        kept = [item for item in annotations if isinstance(item, Mapping) and not item.get("was_cancelled")]
        results = kept[0].get("result", []) if kept else []
        data = task.get("data", {})
        uploaded = next((value for value in data.values() if _is_picture(value)), "")
        yield _studio_picture(uploaded, [r for r in results if isinstance(r, Mapping)], caption_key)


def _is_picture(value: Any) -> bool:
    return isinstance(value, str) and value.lower().rpartition(".")[2][:4] in (
        "jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff",
    )  # fmt: skip


def _studio_picture(
    address: str, results: Sequence[Mapping[str, Any]], caption_key: str | None
) -> OwnPicture:
    # "/data/local-files/?d=folder/a.jpg" and "/data/upload/3/0a1b2c3d-a.jpg" both end in the file's name.
    picture = OwnPicture(address.rpartition("?d=")[2].rpartition("/")[2], unit="pixels")
    texts = {
        str(result.get("id")): " ".join(map(str, result.get("value", {}).get("text", [])))
        for result in results
        if caption_key and result.get("from_name") == caption_key and result.get("type") == "textarea"
    }
    for result in results:
        kind, value = result.get("type"), result.get("value", {})
        if kind not in _SHAPES:
            if kind not in ("textarea", "choices", "labels", "relation", "taxonomy", "rating", "number"):
                picture.objects.append(OwnObject(problem=f"{kind} is not read"))
            continue
        try:
            width, height = int(result["original_width"]), int(result["original_height"])
            item = _studio_object(kind, value, width, height)
        except (KeyError, TypeError, ValueError, IndexError):
            picture.objects.append(OwnObject(problem="result without its keys"))
            continue
        picture.size = (height, width)
        item.caption = texts.get(str(result.get("id")), "")
        picture.objects.append(item)
    return picture


def _studio_object(kind: str, value: Mapping[str, Any], width: int, height: int) -> OwnObject:
    names = value.get(_SHAPES[kind]) or [""]
    item = OwnObject(str(names[0]))
    if "points" in value:
        item.polygon = [(x * width / 100, y * height / 100) for x, y in value["points"]]
        return item
    x, y = value["x"] * width / 100, value["y"] * height / 100
    w, h = value["width"] * width / 100, value["height"] * height / 100
    if turn := float(value.get("rotation") or 0):
        item.polygon = _turned(x, y, w, h, turn, (x, y))  # around its first corner
    else:
        item.box = (x, y, x + w, y + h)
    return item


def _turned(x: float, y: float, w: float, h: float, degrees: float, pivot: tuple[float, float]) -> Ring:
    """The corners of a box turned clockwise (y points down) around `pivot`."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((x, y), (x + w, y), (x + w, y + h), (x, y + h))
    return [
        (
            pivot[0] + (cx - pivot[0]) * cos - (cy - pivot[1]) * sin,
            pivot[1] + (cx - pivot[0]) * sin + (cy - pivot[1]) * cos,
        )
        for cx, cy in corners
    ]


# ------------------------------------------------------------------------------------------------------ CVAT


def read_cvat(path: Path, caption_key: str | None) -> Iterator[OwnPicture]:
    """Pictures of an export "CVAT for images 1.1": boxes (turned ones, too), polygons and masks, in pixels.

    With `caption_key`, the attribute of that name is the description.

    Raises InputError when the file is no such XML.
    """
    with open_data(path) as stream:
        try:
            for _, element in ElementTree.iterparse(_WithoutEntities(stream, path), events=("end",)):
                if element.tag == "image":
                    yield _cvat_picture(element, caption_key)
                    element.clear()  # or the whole file stays in memory
                elif element.tag == "track":
                    raise InputError.about(
                        f"file {str(path)!r}",
                        "an export as CVAT for images",
                        "one for video",
                        "export it again as CVAT for images 1.1",
                    )
        except ElementTree.ParseError as error:
            raise InputError.about(
                f"file {str(path)!r}", "whole XML", str(error), "export it again"
            ) from error


class _WithoutEntities(io.RawIOBase):
    """Refuses XML that declares entities: a kilobyte of them can unfold to gigabytes."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path, self._tail = stream, path, b""

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        if b"<!ENTITY" in self._tail + data:
            raise InputError.about(f"file {str(self._path)!r}", "plain XML", "<!ENTITY", "export it again")
        self._tail = data[-8:]
        return data


def _cvat_picture(image: ElementTree.Element, caption_key: str | None) -> OwnPicture:
    picture = OwnPicture(image.get("name", ""))
    try:
        picture.size = int(image.get("height", "")), int(image.get("width", ""))
    except ValueError:
        picture.size = None
    for shape in image:
        try:
            item = _cvat_object(shape)
        except (ValueError, KeyError):
            item = OwnObject(problem=f"{shape.tag} with a missing or broken number")
        if caption_key:
            found = (a.text for a in shape.iter("attribute") if a.get("name") == caption_key)
            item.caption = next(found, None) or ""
        picture.objects.append(item)
    return picture


def _cvat_object(shape: ElementTree.Element) -> OwnObject:
    item, get = OwnObject(shape.get("label", "")), shape.attrib
    if shape.tag == "box":
        x1, y1, x2, y2 = (float(get[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        if turn := float(get.get("rotation", "0")):
            centre = ((x1 + x2) / 2, (y1 + y2) / 2)
            item.polygon = _turned(x1, y1, x2 - x1, y2 - y1, turn, centre)  # around its centre
        else:
            item.box = (x1, y1, x2, y2)
    elif shape.tag == "polygon":
        pairs = (point.split(",") for point in get["points"].split(";") if point.strip())
        item.polygon = [(float(x), float(y)) for x, y in pairs]
    elif shape.tag == "mask":
        window = (int(get["left"]), int(get["top"]), int(get["width"]), int(get["height"]))
        item.mask = ([int(run) for run in get["rle"].split(",")], window)
    else:
        item.problem = f"{shape.tag} is not read"
    return item


def merged(pictures: Iterable[OwnPicture]) -> OwnPicture:
    """One picture of several parts of it."""
    parts = list(pictures)
    size = next((part.size for part in parts if part.size), None)
    objects = [item for part in parts for item in part.objects]
    return OwnPicture(parts[0].name, size, objects, parts[0].unit)

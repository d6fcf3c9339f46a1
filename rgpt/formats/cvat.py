"""CVAT's export "CVAT for images 1.1"."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import BinaryIO

from rgpt.errors import InputError
from rgpt.formats.annotated import AnnotatedObject, AnnotatedPicture, number, refuse
from rgpt.formats.plain_xml import read_elements
from rgpt.formats.size_claims import claimed_size


def read_images(stream: BinaryIO, name: str, caption_key: str | None = None) -> Iterator[AnnotatedPicture]:
    """Pictures with their boxes (turned ones, too), polygons and masks, in pixels.

    A picture of a project is named with its subset ("Train/a.jpg"): that is the folder CVAT exports it into.

    Args:
        caption_key: the attribute of this name is an object's description.

    Raises:
        InputError: it is no such XML, a number is missing or broken (picture, shape and attribute are named),
            or pictures of two tasks have one name, which only their tasks would tell apart.
    """
    tasks: dict[str, str] = {}
    for element in read_elements(stream, name):
        if element.tag == "image":
            picture = _picture(element, f"file {name!r}", caption_key)
            task = element.get("task_id", "")
            if tasks.setdefault(picture.name, task) != task:
                refuse(
                    f"file {name!r}, picture {picture.name!r}", "it in one task",
                    f"it in the tasks {tasks[picture.name]} and {task}", "export each task into a file",
                )  # fmt: skip
            yield picture
            element.clear()  # or the whole file stays in memory
        elif element.tag == "track":
            raise InputError.about(
                f"file {name!r}",
                "an export as CVAT for images",
                "one for video",
                "export it again as CVAT for images 1.1",
            )
        elif element.tag == "annotation":
            refuse(f"file {name!r}", "an export as CVAT for images", "Pascal VOC", "give --format voc")


def _picture(image: ElementTree.Element, thing: str, caption_key: str | None) -> AnnotatedPicture:
    name = image.get("name", "").strip()
    if not name:
        refuse(f"{thing}, image {image.get('id', '')!r}", "its name", "none", "export it again")
    claim = claimed_size(image.get("height"), image.get("width"))
    place = f"{thing}, picture {name!r}"
    picture = AnnotatedPicture("/".join(filter(None, [image.get("subset"), name])), claim, place=place)
    for count, shape in enumerate(image, start=1):
        if shape.tag == "tag":  # of the whole picture
            continue
        item = _object(shape, f"{place}, shape {count}")
        item.key = f"{picture.name}#{count}"
        if caption_key:
            said = (a.text for a in shape.iter("attribute") if a.get("name") == caption_key)
            item.caption = next(said, None) or ""
        picture.objects.append(item)
    return picture


def _object(shape: ElementTree.Element, place: str) -> AnnotatedObject:
    item, get = AnnotatedObject(shape.get("label", "")), shape.get
    if shape.tag == "box":
        x1, y1, x2, y2 = (number(get(key), f"{place}, {key}") for key in ("xtl", "ytl", "xbr", "ybr"))
        item.box, item.around = (x1, y1, x2, y2), "centre"
        item.turn = number(get("rotation", "0"), f"{place}, rotation")
    elif shape.tag == "polygon":
        item.polygon = [
            _point(pair, f"{place}, points") for pair in get("points", "").split(";") if pair.strip()
        ]
        if len(item.polygon) < 3:
            item.problem = "polygon of fewer than three points"
    elif shape.tag == "mask":
        left, top, width, height = (
            int(number(get(key), f"{place}, {key}")) for key in ("left", "top", "width", "height")
        )
        runs = [int(number(run, f"{place}, rle")) for run in get("rle", "").split(",")]
        item.mask = (runs, (left, top, width, height))
    else:
        item.problem = f"{shape.tag} is not read"
    return item


def _point(pair: str, place: str) -> tuple[float, float]:
    x, comma, y = pair.partition(",")
    if not comma:
        refuse(place, "x,y", repr(pair)[:40])
    return number(x, place), number(y, place)

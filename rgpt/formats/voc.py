"""Pascal VOC's XML: a file a picture, as LabelImg, Roboflow and many converters write it.

The corners are taken as they are written. The data set of 2007 counts its first pixel as 1, and some programs
still add that one; most do not, and the file does not say. Where it is known, `one_based` takes it off.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import BinaryIO

from rgpt.formats.annotated import AnnotatedObject, AnnotatedPicture, number, refuse
from rgpt.formats.plain_xml import read_elements
from rgpt.formats.size_claims import claimed_size


def read_annotation(stream: BinaryIO, name: str, one_based: bool = False) -> AnnotatedPicture:
    """The picture of one file, in pixels. Its name is <filename>, else the end of <path>, else empty.

    Args:
        one_based: the first pixel is number 1: subtract 1 from every coordinate.

    Raises:
        InputError: it is no such XML, or a corner is missing or no number (object and field are named).
    """
    thing = f"file {name!r}"
    root: ElementTree.Element | None = None
    for element in read_elements(stream, name):
        root = element
    if root is None or root.tag != "annotation":
        refuse(
            thing, "Pascal VOC's <annotation>", f"<{root.tag if root is not None else ''}>", "check --format"
        )
    path = _text(root, "path").replace("\\", "/")
    picture = AnnotatedPicture(
        _text(root, "filename") or path.rpartition("/")[2],
        claimed_size(_text(root, "size/height"), _text(root, "size/width")),
        place=thing,
    )
    # Direct children only: a <part> of an object has a box, too.
    for count, item in enumerate(root.findall("object"), start=1):
        read = _object(item, f"{thing}, object {count}", 1.0 if one_based else 0.0)
        read.key = f"{name}#{count}"
        picture.objects.append(read)
    return picture


def _object(item: ElementTree.Element, place: str, first: float) -> AnnotatedObject:
    result = AnnotatedObject(_text(item, "name"))
    box, polygon = item.find("bndbox"), item.find("polygon")
    if polygon is not None:  # <x1>, <y1>, <x2>, …
        values = [number(child.text, f"{place}, polygon/{child.tag}") - first for child in polygon]
        if len(values) % 2:
            refuse(f"{place}, polygon", "pairs of x and y", f"{len(values)} numbers")
        if len(values) >= 6:
            result.polygon = list(zip(values[0::2], values[1::2], strict=True))
    if box is not None:
        x1, y1, x2, y2 = (
            number(_text(box, key) or None, f"{place}, {key}") - first
            for key in ("xmin", "ymin", "xmax", "ymax")
        )
        result.box = (x1, y1, x2, y2)
    elif result.polygon is None:
        if item.find("robndbox") is None:
            refuse(place, "a <bndbox>", "none")
        result.problem = "robndbox is not read"
    return result


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()

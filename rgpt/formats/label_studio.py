"""Label Studio's export as "JSON": a list of tasks with their annotations.

Numbers are percent of the picture, upright as a browser shows it. A task may show several pictures; which one
a result belongs to is said by its `source` ("$image") or its `to_name`, the <Image>'s name in the labelling
interface, which is not in the file: it is compared with the keys of the task's data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rgpt.errors import InputError
from rgpt.formats.annotated import AnnotatedObject, AnnotatedPicture, number, refuse
from rgpt.formats.paths import ENDINGS
from rgpt.formats.size_claims import claimed_size

_SHAPES = {
    "rectanglelabels": "rectangle",
    "rectangle": "rectangle",
    "polygonlabels": "polygon",
    "polygon": "polygon",
}
_NO_SHAPES = (
    "textarea", "choices", "labels", "relation", "taxonomy", "rating", "number", "datetime", "pairwise",
)  # fmt: skip
"""What is said of regions, or of the whole task."""


def read_tasks(tasks: Iterable[Any], name: str, caption_key: str | None = None) -> Iterator[AnnotatedPicture]:
    """The pictures of every task with the objects of its first annotation that was not cancelled.

    Rectangles and polygons are read, with their own labels or those of a <Labels> or <Choices> beside them.

    Args:
        tasks: elements of the export.
        name: of the file, for messages.
        caption_key: a textarea of this name that belongs to a region is its description.

    Raises:
        InputError: JSON-MIN or no tasks at all; a result without its picture or with broken numbers (task,
            result and field are named).
    """
    for count, task in enumerate(tasks, start=1):
        place = f"file {name!r}, task {count}"
        if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
            flat = isinstance(task, Mapping) and any(map(_flat_results, task.values()))
            actual = "JSON-MIN" if flat else f"{_kind(task)} without data"
            raise InputError.about(place, "Label Studio's export as JSON", actual, "export it again as JSON")
        for picture in _pictures(task, place, caption_key):
            for item in picture.objects:
                item.key = f"{count}#{item.key}"
            yield picture


def _flat_results(value: Any) -> bool:
    """JSON-MIN lists values where the export has annotations with results."""
    return isinstance(value, list) and any(
        isinstance(item, Mapping) and "original_width" in item for item in value
    )


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, Mapping) else type(value).__name__


def _pictures(task: Mapping[str, Any], place: str, caption_key: str | None) -> Iterator[AnnotatedPicture]:
    annotations = _annotations(task)
    if not isinstance(annotations, list) or not all(isinstance(item, Mapping) for item in annotations):
        refuse(f"{place}, annotations", "a list of objects", repr(annotations)[:40], "export it again")
    results = annotation_read(task).get("result") or []
    if not isinstance(results, list) or not all(isinstance(result, Mapping) for result in results):
        refuse(f"{place}, result", "a list of objects", repr(results)[:40], "export it again")
    said = _Said(results, caption_key)
    addresses = _addresses(task["data"])
    pictures = {
        address: AnnotatedPicture(address, unit="percent", place=place) for address in addresses.values()
    }
    for count, result in enumerate(results, start=1):
        kind, where = str(result.get("type")), f"{place}, result {count}"
        if kind in _NO_SHAPES:
            continue
        address = _address_of(result, task["data"], addresses, where)
        picture = pictures.setdefault(address, AnnotatedPicture(address, unit="percent", place=place))
        if kind not in _SHAPES:
            picture.objects.append(AnnotatedObject(problem=f"{kind} is not read", key=str(count)))
            continue
        claim = claimed_size(result.get("original_height"), result.get("original_width"))
        if claim and picture.claim not in (None, claim):
            refuse(f"{where}, original_width", f"one size of {address!r}", "two", "export it again")
        picture.claim = claim or picture.claim
        item = _object(result, _SHAPES[kind], said, where)
        item.key = str(count)
        picture.objects.append(item)
    for picture in pictures.values():
        if picture.name.startswith("data:"):
            refuse(
                f"{place}, data", "the name of a picture's file", "the picture itself", "save it as a file"
            )
        yield picture


def _annotations(task: Mapping[str, Any]) -> Any:
    return task.get("annotations") or task.get("completions") or []


def annotation_read(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """The annotation of a task whose results are its objects; empty where there is none."""
    return next((item for item in _annotations(task) if not item.get("was_cancelled")), {})


class _Said:
    """What is said of regions in results of their own, by the region's id."""

    def __init__(self, results: Sequence[Mapping[str, Any]], caption_key: str | None) -> None:
        self.labels: dict[str, list[Any]] = {}
        self.captions: dict[str, str] = {}
        results = [result for result in results if result.get("id") is not None]
        for kind in ("choices", "labels"):  # <Labels> speaks last: choices may be about anything
            for result in results:
                value = result.get("value")
                if result.get("type") == kind and isinstance(value, Mapping) and value.get(kind):
                    self.labels[str(result.get("id"))] = _listed(value[kind])
        for result in results:
            value = result.get("value")
            if caption_key and result.get("type") == "textarea" and result.get("from_name") == caption_key:
                texts = _listed(value.get("text", [])) if isinstance(value, Mapping) else []
                self.captions[str(result.get("id"))] = " ".join(map(str, texts))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _object(result: Mapping[str, Any], shape: str, said: _Said, where: str) -> AnnotatedObject:
    value, known = result.get("value"), str(result.get("id"))
    if not isinstance(value, Mapping):
        refuse(f"{where}, value", "an object", repr(value)[:40])
    labels = _listed(value.get(f"{shape}labels") or said.labels.get(known) or [""])
    item = AnnotatedObject(str(labels[0]), caption=said.captions.get(known, ""))
    if shape == "polygon":
        points = value.get("points")
        if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
            refuse(f"{where}, points", "a list of [x, y]", repr(points)[:40])
        item.polygon = [(number(x, f"{where}, points"), number(y, f"{where}, points")) for x, y in points]
        if len(points) < 3:
            item.problem = "polygon of fewer than three points"
        return item
    x, y, w, h = (number(value.get(key), f"{where}, {key}") for key in ("x", "y", "width", "height"))
    item.box = (x, y, x + w, y + h)
    item.turn = number(value.get("rotation") or 0, f"{where}, rotation")
    return item


# ------------------------------------------------------------------------------ which picture it belongs to


def _addresses(data: Mapping[str, Any]) -> dict[str, str]:
    """The task's pictures by key of its data: values that look like a picture's file, else its only text."""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value.strip()}
    likely = {key: value for key, value in texts.items() if _looks_like_picture(value)}
    return likely or (texts if len(texts) == 1 else {})


def _looks_like_picture(text: str) -> bool:
    if text.startswith("data:image/"):
        return True
    local = text.partition("?d=")[2]
    return "\n" not in text and (local or re.split(r"[?#]", text, maxsplit=1)[0]).lower().endswith(ENDINGS)


def _address_of(
    result: Mapping[str, Any], data: Mapping[str, Any], addresses: Mapping[str, str], where: str
) -> str:
    """The address of the picture that a result belongs to."""
    said = str(result.get("source") or result.get("to_name") or "").removeprefix("$")
    named = str(result.get("to_name") or "")
    key = next((key for key in (said, named) if key in data), None)
    if key is None and len(addresses) == 1:
        (key,) = addresses
    if key is None:
        key = _like(named, addresses)
    found = data.get(key) if key is not None else None
    if isinstance(found, list):  # <Image valueList="$pages">
        index = result.get("item_index", 0 if len(found) == 1 else None)
        right = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(found)
        found = found[index] if right else None
    if not isinstance(found, str) or not found.strip():
        refuse(
            f"{where}, to_name",
            f"one of the data's pictures ({', '.join(addresses) or 'none'})",
            repr(named)[:40],
            "give the <Image> the name of its data",
        )
    return found


def _like(named: str, addresses: Mapping[str, str]) -> str | None:
    """The one key that is spelled like `named`, or else ends in its number ("img2" and "image_2")."""
    for read in (_letters, _last_number):
        same = [key for key in addresses if read(key) and read(key) == read(named)]
        if len(same) == 1:
            return same[0]
    return None


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _last_number(name: str) -> str:
    found = re.search(r"(\d+)\D*$", name)
    return str(int(found[1])) if found else ""

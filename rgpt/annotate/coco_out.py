"""COCO out: the file that came in, each annotation with `caption`, `names` and `attributes` of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rgpt.annotate.questions import CAPTION, NAME
from rgpt.annotate.records import Annotated
from rgpt.formats.coco import id_key
from rgpt.formats.json_stream import open_data


def write_coco(folder: Path, source: Path, objects: Mapping[str, Annotated]) -> None:
    """`annotations.json`: every entry, id and number as it was, in its order."""
    with open_data(source) as stream:
        value = json.loads(stream.read().decode("utf-8-sig"))
    for entry in value["annotations"]:
        if (item := objects.get(id_key(entry.get("id")) or "")) is not None:
            entry.update(fields_of(item, entry.get("attributes")))
    text = json.dumps(value, ensure_ascii=False)
    (folder / "annotations.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def fields_of(item: Annotated, before: Any = None) -> dict[str, Any]:
    """An annotation's new members. `names`: [{"name", "share"}, …], the likeliest first. `attributes`: by
    property, as CVAT writes them; those that were there stay."""
    found: dict[str, Any] = {}
    attributes = dict(before) if isinstance(before, Mapping) else {}
    for key, answer in item.answers.items():
        if answer.value is None:
            continue
        if key == CAPTION:
            found["caption"] = answer.text()
        elif key == NAME:
            shares = answer.shares or ((answer.text(), None),)
            found["names"] = [
                {"name": n} if share is None else {"name": n, "share": round(share, 4)} for n, share in shares
            ]
        else:
            attributes[key] = answer.value
    return found | ({"attributes": attributes} if attributes else {})

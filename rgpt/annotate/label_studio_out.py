"""Label Studio out: tasks with *predictions*, whose regions carry text, choices and a score; and the
labelling interface that shows them.

Annotations stay as they are: a prediction copies their regions, with the same ids, and adds results to them.
Label Studio shows it beside the annotation and makes a new annotation of it when a person accepts it.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rgpt.annotate.questions import Question
from rgpt.annotate.records import Annotated, Answer
from rgpt.formats.json_stream import read_array
from rgpt.formats.label_studio import annotation_read

SHAPES = {"rectanglelabels": "RectangleLabels", "polygonlabels": "PolygonLabels"}
PLAIN_SHAPES = {"rectangle": "Rectangle", "polygon": "Polygon"}


def write_tasks(
    folder: Path, source: Path, questions: Sequence[Question], objects: Mapping[str, Annotated], model: str
) -> None:
    """`tasks.json`, to be imported, and `label-config.xml`, to be pasted into the labelling interface."""
    tasks = []
    interface = _Interface()
    for count, task in enumerate(read_array(source), start=1):
        results = annotation_read(task).get("result") or []
        said: list[dict[str, Any]] = []
        sure: list[float] = []
        for number, result in enumerate(results, start=1):
            interface.see(result, task["data"])
            if (item := objects.get(f"{count}#{number}")) is None:
                continue
            said += _said(result, item, questions)
            sure += [] if item.sureness is None else [item.sureness]
        ours = {question.key for question in questions}
        kept = [r for r in results if r.get("from_name") not in ours]
        if said:
            prediction: dict[str, Any] = {"model_version": model, "result": [*kept, *said]}
            if sure:
                prediction["score"] = round(min(sure), 4)  # Label Studio sorts by it: least certain first
            task = {**task, "predictions": [*(task.get("predictions") or []), prediction]}
        tasks.append(_importable(task))
    (folder / "tasks.json").write_text(
        json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    (folder / "label-config.xml").write_text(interface.config(questions), encoding="utf-8")


def _importable(task: Mapping[str, Any]) -> dict[str, Any]:
    """An export names the project, users and counts of another server: those are not imported."""
    kept = ("id", "data", "meta", "annotations", "completions", "predictions")
    return {key: task[key] for key in kept if key in task}


def _said(result: Mapping[str, Any], item: Annotated, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """A region's answers as results of the same id. They repeat the geometry, as Label Studio's own do."""
    geometry = {k: v for k, v in result["value"].items() if not k.endswith("labels")}
    shared = {
        key: result[key]
        for key in ("id", "to_name", "original_width", "original_height", "image_rotation", "item_index")
        if key in result
    }
    found = []
    for question in questions:
        answer = item.answers[question.key]
        if answer.value is None:
            continue
        kind, key = ("choices", "choices") if question.choices else ("textarea", "text")
        value = {**geometry, key: [answer.text()]}
        row = {**shared, "from_name": question.key, "type": kind, "value": value}
        if answer.confidence is not None:
            row["score"] = round(answer.confidence, 4)
        found.append(row)
    return found


class _Interface:
    """What the results say of the labelling interface, which an export does not hold."""

    def __init__(self) -> None:
        self.images: dict[str, str] = {}
        self.controls: dict[str, tuple[str, str, dict[str, None]]] = {}

    def see(self, result: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        to_name, kind = str(result.get("to_name") or "image"), str(result.get("type"))
        if to_name not in self.images:
            texts = [key for key, value in data.items() if isinstance(value, str)]
            self.images[to_name] = to_name if to_name in data else (texts[0] if texts else "image")
        if kind in SHAPES or kind in PLAIN_SHAPES:
            name = str(result.get("from_name") or "label")
            labels = self.controls.setdefault(name, (kind, to_name, {}))[2]
            labels.update(dict.fromkeys(map(str, result.get("value", {}).get(kind) or [])))

    def config(self, questions: Sequence[Question]) -> str:
        view = ElementTree.Element("View")
        for name, key in (self.images or {"image": "image"}).items():
            ElementTree.SubElement(view, "Image", name=name, value=f"${key}")
        for name, (kind, to_name, labels) in self.controls.items():
            control = ElementTree.SubElement(
                view, {**SHAPES, **PLAIN_SHAPES}[kind], name=name, toName=to_name
            )
            for label in labels:
                ElementTree.SubElement(control, "Label", value=label)
        image = next(iter(self.images), "image")
        for question in questions:
            shared = {"name": question.key, "toName": image, "perRegion": "true"}
            if question.choices:
                control = ElementTree.SubElement(view, "Choices", {**shared, "choice": "single"})
                for value in question.allowed:
                    ElementTree.SubElement(control, "Choice", value=Answer(value).text())
            else:
                ElementTree.SubElement(
                    view, "TextArea", {**shared, "rows": "2", "displayMode": "region-list"}
                )
        ElementTree.indent(view)
        return ElementTree.tostring(view, encoding="unicode") + "\n"

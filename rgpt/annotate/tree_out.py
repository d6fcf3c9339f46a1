"""CVAT, VOC and YOLO out: the files that came in, each object with its answers, geometry to the digit."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rgpt.annotate.questions import NAME, Question
from rgpt.annotate.records import Annotated
from rgpt.formats import yolo
from rgpt.formats.json_stream import open_data

CVAT_TEXT = 4096
"""Characters of an attribute's value that CVAT stores."""


def write_cvat(
    folder: Path, source: Path, questions: Sequence[Question], objects: Mapping[str, Annotated]
) -> None:
    """`annotations.xml` ("CVAT for images 1.1"), and `labels.json`, the definition of labels with the
    attributes, for the Raw tab of CVAT's constructor: a task that does not declare them refuses the file."""
    with open_data(source) as stream:
        tree = ElementTree.parse(stream)
    root = tree.getroot()
    used: dict[str, None] = {}
    for image in root.iter("image"):
        name = "/".join(filter(None, [image.get("subset"), image.get("name", "").strip()]))
        for count, shape in enumerate(image, start=1):
            if shape.get("label"):
                used[shape.get("label", "")] = None
            if (item := objects.get(f"{name}#{count}")) is not None:
                _set_attributes(shape, item)
    declared = {
        (label.findtext("name") or "").strip(): label for labels in root.iter("labels") for label in labels
    }
    definition = []
    for name in {**dict.fromkeys(declared), **used}:
        known = [] if name not in declared else _declared(declared[name])
        ours = [_declaration(q) for q in questions]
        kept = [a for a in known if a["name"] not in {q.key for q in questions}]
        definition.append({"name": name, "attributes": [*kept, *ours]})
        if name in declared:
            _declare(declared[name], ours)
    tree.write(folder / "annotations.xml", encoding="utf-8", xml_declaration=True)
    text = json.dumps(definition, indent=1, ensure_ascii=False)
    (folder / "labels.json").write_text(text + "\n", encoding="utf-8")


def _set_attributes(shape: ElementTree.Element, item: Annotated) -> None:
    for key, answer in item.answers.items():
        for old in [a for a in shape.findall("attribute") if a.get("name") == key]:
            shape.remove(old)
        if answer.value is not None:
            text = " ".join(answer.text().split())[:CVAT_TEXT]
            ElementTree.SubElement(shape, "attribute", name=key).text = text


def _declaration(question: Question) -> dict[str, Any]:
    """An attribute as CVAT's label constructor has it; the first value of a list is its default."""
    found: dict[str, Any] = {"name": question.key, "mutable": False, "input_type": "text", "values": [""]}
    if question.choices:
        kind = "checkbox" if question.allowed == (True, False) else "select"
        values = ["false"] if kind == "checkbox" else [" ".join(str(v).split()) for v in question.allowed]
        found |= {"input_type": kind, "values": values}
    return found | {"default_value": found["values"][0]}


def _declared(label: ElementTree.Element) -> list[dict[str, Any]]:
    """The attributes that a label of the file's <meta> has already."""
    found = []
    for attribute in label.iter("attribute"):
        values = (attribute.findtext("values") or "").split("\n")
        said = {key: attribute.findtext(key) or "" for key in ("name", "input_type", "default_value")}
        mutable = (attribute.findtext("mutable") or "").strip().lower() == "true"
        found.append({**said, "mutable": mutable, "values": values})
    return found


def _declare(label: ElementTree.Element, attributes: Sequence[Mapping[str, Any]]) -> None:
    listed = label.find("attributes")
    if listed is None:
        listed = ElementTree.SubElement(label, "attributes")
    for said in attributes:
        for old in [a for a in listed if a.findtext("name") == said["name"]]:
            listed.remove(old)
        attribute = ElementTree.SubElement(listed, "attribute")
        for key in ("name", "mutable", "input_type", "default_value"):
            ElementTree.SubElement(attribute, key).text = str(said[key])
        ElementTree.SubElement(attribute, "values").text = "\n".join(said["values"])


def write_voc(folder: Path, source: Path, objects: Mapping[str, Annotated]) -> None:
    """`Annotations/`: every file, its objects with <attributes>, as CVAT writes them in VOC."""
    files = sorted(source.rglob("*.xml")) if source.is_dir() else [source]
    root = source if source.is_dir() else source.parent
    for file in files:
        relative = file.relative_to(root)
        tree = ElementTree.parse(file)
        for count, element in enumerate(tree.getroot().findall("object"), start=1):
            item = objects.get(f"{relative}#{count}")
            for key, answer in item.answers.items() if item else ():
                if answer.value is not None:
                    _voc_attribute(element, key, answer.text())
        target = folder / "Annotations" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        tree.write(target, encoding="utf-8")


def _voc_attribute(element: ElementTree.Element, key: str, text: str) -> None:
    listed = element.find("attributes")
    if listed is None:
        listed = ElementTree.SubElement(element, "attributes")
    for old in [a for a in listed if a.findtext("name") == key]:
        listed.remove(old)
    attribute = ElementTree.SubElement(listed, "attribute")
    ElementTree.SubElement(attribute, "name").text = key
    ElementTree.SubElement(attribute, "value").text = text


def write_yolo(
    folder: Path, source: Path, images: Path, questions: Sequence[Question], objects: Mapping[str, Annotated]
) -> None:
    """`labels/` and `data.yaml`.

    A line holds a class and numbers, no text: where names were asked, the class is the likeliest name (new
    names follow the old ones, so that old numbers stay); all else is in objects.jsonl.
    """
    import yaml

    file, labels = yolo.find_labels(source, images)
    known = yolo.read_names(file)
    names = dict(known.names)
    asked = next((q for q in questions if q.key == NAME), None)
    number = {name: index for index, name in sorted(names.items(), reverse=True)}
    for name in asked.choices if asked else ():
        if name not in number:
            number[name] = max(names, default=-1) + 1
            names[number[name]] = name
    for path in yolo.label_files(labels):
        relative = path.relative_to(labels)
        target = folder / "labels" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if asked is None:
            shutil.copyfile(path, target)
            continue
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
        for count, line in enumerate(lines, start=1):
            item = objects.get(f"{relative.as_posix()}#{count}")
            answer = item.answers[NAME] if item else None
            if answer and answer.value is not None:
                lines[count - 1] = f"{number[str(answer.value)]} {line.split(None, 1)[1]}"
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = yaml.safe_dump({"names": dict(sorted(names.items()))}, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")

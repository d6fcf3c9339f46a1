"""One picture with two objects, a box and an outline, in every format that can come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 80, 60
BOX = (10.25, 12.5, 30.75, 40.125)
RING = [(40.5, 10.0), (70.0, 12.25), (55.0, 50.0)]


def write_picture(folder: Path, name: str = "a.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (WIDTH, HEIGHT), "grey")
    ImageDraw.Draw(image).rectangle(BOX, "red")
    ImageDraw.Draw(image).polygon(RING, "blue")
    image.save(folder / name)
    return folder / name


def coco(folder: Path) -> Path:
    write_picture(folder / "images")
    flat = [number for point in RING for number in point]
    x1, y1, x2, y2 = BOX
    entries: list[dict[str, Any]] = [
        {"id": 7, "image_id": 3, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0,
         "area": 566.3},
        {"id": 9, "image_id": 3, "category_id": 2, "bbox": [40.5, 10, 29.5, 40], "iscrowd": 0, "area": 600,
         "segmentation": [flat], "attributes": {"occluded": True}, "mine": "stays"},
        {"id": 11, "image_id": 3, "category_id": 2, "bbox": [0, 0, 0, 0], "iscrowd": 0, "area": 0},
    ]  # fmt: skip
    images = [{"id": 3, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return _write(
        folder / "instances.json", {"images": images, "annotations": entries, "categories": categories}
    )


def label_studio(folder: Path) -> Path:
    write_picture(folder / "images")
    x1, y1, x2, y2 = BOX
    box = {"x": x1 / 0.8, "y": y1 / 0.6, "width": (x2 - x1) / 0.8, "height": (y2 - y1) / 0.6, "rotation": 0}
    shared = {"to_name": "image", "from_name": "label", "original_width": WIDTH, "original_height": HEIGHT}
    ring = [[x / 0.8, y / 0.6] for x, y in RING]
    results = [
        {**shared, "id": "r1", "type": "rectanglelabels", "value": {**box, "rectanglelabels": ["cat"]}},
        {**shared, "id": "p1", "from_name": "outline", "type": "polygonlabels",
         "value": {"points": ring, "polygonlabels": ["dog"]}},
    ]  # fmt: skip
    task = {"id": 5, "data": {"image": "/data/upload/1/a.png"}, "annotations": [{"id": 2, "result": results}]}
    return _write(folder / "export.json", [task])


def cvat(folder: Path) -> Path:
    write_picture(folder / "images")
    x1, y1, x2, y2 = BOX
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in RING)
    path = folder / "annotations.xml"
    path.write_text(
        f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><id>4</id><labels>
<label><name>cat</name><color>#ff0000</color><attributes><attribute><name>old</name><mutable>True</mutable>
<input_type>text</input_type><default_value></default_value><values></values></attribute></attributes></label>
<label><name>dog</name><attributes></attributes></label></labels></task></meta>
<image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">
<box label="cat" source="manual" occluded="0" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" z_order="0">
<attribute name="old">kept</attribute></box>
<polygon label="dog" source="manual" occluded="1" points="{points}" z_order="1"></polygon>
</image></annotations>
""",
        encoding="utf-8",
    )
    return path


def voc(folder: Path) -> Path:
    write_picture(folder / "JPEGImages")
    x1, y1, x2, y2 = BOX
    box = f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
    corners = "".join(f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate(RING, start=1))
    whole = "<bndbox><xmin>40.5</xmin><ymin>10</ymin><xmax>70</xmax><ymax>50</ymax></bndbox>"
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "a.xml").write_text(
        f"<annotation><filename>a.png</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        f"<object><name>cat</name>{box}</object>"
        f"<object><name>dog</name>{whole}<polygon>{corners}</polygon></object></annotation>"
    )
    return folder / "Annotations"


def yolo(folder: Path) -> Path:
    write_picture(folder / "images" / "train")
    (folder / "labels" / "train").mkdir(parents=True)
    ring = " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in RING)
    (folder / "labels" / "train" / "a.txt").write_text(f"0 0.25625 0.438542 0.25625 0.460417\n1 {ring}\n")
    (folder / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\n")
    return folder / "data.yaml"


def jsonl(folder: Path) -> Path:
    write_picture(folder)
    regions = [{"box": list(BOX)}, {"polygon": [list(map(list, RING))]}]
    sample = {"id": "s", "image": "a.png", "regions": regions}
    path = folder / "samples.jsonl"
    path.write_text(json.dumps({**sample, "turns": [{"question": "Hello?", "answer": "Hello."}]}) + "\n")
    return path


def _write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


MAKERS = {"coco": coco, "label-studio": label_studio, "cvat": cvat, "voc": voc, "yolo": yolo, "jsonl": jsonl}

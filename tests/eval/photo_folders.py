"""Small folders in COCO's layout: coloured boxes on grey, a colour a class."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {"person": "red", "dog": "blue", "traffic light": "lime", "car": "yellow", "skis": "purple"}
WIDTH, HEIGHT = 96, 64


def write_folder(folder: Path, numbers: range, seed: int = 0, objects: int = 7) -> Path:
    """Pictures with these numbers; nearly half of the objects are persons, the first has an outline."""
    rng = random.Random(seed)
    names = list(COLOURS)
    (folder / "images").mkdir(parents=True)
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "captions": []}
    for number in numbers:
        image = Image.new("RGB", (WIDTH, HEIGHT), "grey")
        said = []
        for k in range(objects):
            name = "person" if k % 2 else rng.choice(names[1:])
            w, h = rng.randint(11, 40), rng.randint(11, 30)
            # Fractions, so that no two boxes of a folder are the same.
            x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
            ImageDraw.Draw(image).rectangle((x, y, x + w, y + h), COLOURS[name])
            entry = {
                "id": len(content["annotations"]) + 1 + 100_000 * seed,
                "image_id": number,
                "category_id": names.index(name) + 1,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h]] if k == 0 else [],
            }
            content["annotations"].append(entry)
            said.append(name)
        image.save(folder / "images" / f"{number}.png")
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
        )
        for text in (
            f"A {said[0]} and a {said[2]} in picture {number}.",
            f"Picture {number} with a {said[0]}.",
        ):
            content["captions"].append({"image_id": number, "id": len(content["captions"]), "caption": text})
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    instances = {key: content[key] for key in ("images", "annotations")} | {"categories": categories}
    (folder / "instances_test.json").write_text(json.dumps(instances))
    captions = {"images": content["images"], "annotations": content["captions"]}
    (folder / "captions_test.json").write_text(json.dumps(captions))
    return folder

"""Small ground truths whose scores theory knows, and answers to them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

NAMES = ("dog", "cat", "sofa_bed", "person")
SIDES = (20, 60, 200)  # small, medium, large


def grid_truth(pictures: int = 6, names: tuple[str, ...] = NAMES, lvis: bool = False) -> dict[str, Any]:
    """Disjoint boxes, as many of each name, in pictures of one name and size each."""
    categories: list[dict[str, Any]] = [{"id": 10 * n, "name": name} for n, name in enumerate(names, start=1)]
    images, annotations = [], []
    for picture in range(1, pictures + 1):
        images.append({"id": picture, "width": 1000, "height": 1000})
        for n, category in enumerate(categories):
            side = SIDES[(picture + n) % len(SIDES)]
            annotations.append(
                {
                    "id": 100 * picture + n,
                    "image_id": picture,
                    "category_id": category["id"],
                    "bbox": [240 * n, 5, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
    if lvis:
        for image in images:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for n, category in enumerate(categories):
            category["frequency"] = "rcf"[n % 3]
    return {"images": images, "annotations": annotations, "categories": categories}


def answer_rows(truth: dict[str, Any], say: Callable[[str, int], str], seed: int = 0) -> list[dict[str, Any]]:
    """Rows of `eval.run`: `say(true name, annotation id)` with a random score."""
    rng = random.Random(seed)
    name = {c["id"]: c["name"] for c in truth["categories"]}
    return [
        {
            "id": str(a["id"]),
            "image_id": a["image_id"],
            "task": "region_classification",
            "raw_answer": say(name[a["category_id"]], a["id"]),
            "answer": say(name[a["category_id"]], a["id"]),
            "score": rng.random(),
            "seconds": 0.1,
        }
        for a in truth["annotations"]
    ]

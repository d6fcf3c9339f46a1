"""COCO-format ground truth (COCO, LVIS, any other) and result lists.

Boxes in these files are `[x, y, w, h]` in pixels, x right, y down, continuous (x2 = x + w, no +1).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from eval.layouts.rows import check_known, check_score
from rgpt.errors import InputError
from rgpt.formats.coco import as_meant
from rgpt.regions.rle import decompress

SIZES = ("small", "medium", "large")
LONGEST_SIDE = 65_500
"""Pixels; what a JPEG can be."""


def clean_name(name: str) -> str:
    """A category name as it is said: lower case, blanks for underscores. "Sofa_bed" -> "sofa bed"."""
    return " ".join(name.lower().replace("_", " ").split())


def size_of(annotation: Mapping[str, Any]) -> str:
    """small < 32² <= medium < 96² <= large, by the area of the mask in square pixels (COCO's bins)."""
    area = annotation["area"]
    return "small" if area < 32**2 else "medium" if area < 96**2 else "large"


@dataclass(frozen=True)
class CocoTruth:
    """Ground truth by id. Categories of the same cleaned name are one (the smallest id stands for all)."""

    source: str
    images: Mapping[int, Mapping[str, Any]]
    annotations: Mapping[int, Mapping[str, Any]]
    categories: Mapping[int, Mapping[str, Any]]
    is_lvis: bool
    merged: Mapping[int, int] = field(default_factory=dict)

    @cached_property
    def id_of_name(self) -> dict[str, int]:
        return {clean_name(c["name"]): i for i, c in self.categories.items()}

    def name(self, category_id: int) -> str:
        return clean_name(self.categories[category_id]["name"])

    def restricted(self, image_ids: Collection[int]) -> CocoTruth:
        """The same with these images only."""
        keep = set(image_ids)
        return replace(
            self,
            images={i: v for i, v in self.images.items() if i in keep},
            annotations={i: a for i, a in self.annotations.items() if a["image_id"] in keep},
        )

    def with_annotations(self, ids: Collection[int]) -> CocoTruth:
        """The same with these annotations and all crowds only."""
        keep = set(ids)
        return replace(
            self, annotations={i: a for i, a in self.annotations.items() if i in keep or a["iscrowd"]}
        )

    def as_dataset(self) -> dict[str, Any]:
        """A COCO dictionary of its own, which an evaluator may change."""
        return {
            "info": {},
            "images": [dict(i) for i in self.images.values()],
            "annotations": [dict(a) for a in self.annotations.values()],
            "categories": [dict(c) for c in self.categories.values()],
        }


def is_coco(value: Any) -> bool:
    return isinstance(value, Mapping) and {"images", "annotations", "categories"} <= set(value)


def read_truth(source: PathOrValue) -> CocoTruth:
    """Read and check an instances file. LVIS is known by `neg_category_ids` and `frequency`.

    Raises:
        InputError: not such a file, ids given twice, or annotations that name unknown images or categories.
    """
    value, name = read_json(source), name_of(source)
    if not is_coco(value):
        found = f"the keys {', '.join(map(str, value))[:60]}" if isinstance(value, Mapping) else "a list"
        raise InputError.about(
            name,
            "a COCO instances file with images, annotations and categories",
            found,
            "name the ground truth of the split that was predicted",
        )
    value = as_meant(value, name)
    images = _by_id(value["images"], f"{name}, images")
    categories = _by_id(value["categories"], f"{name}, categories")
    merged: dict[int, int] = {}
    first: dict[str, int] = {}
    for id_ in sorted(categories):
        merged[id_] = first.setdefault(clean_name(str(categories[id_].get("name"))), id_)
    annotations = {}
    for id_, annotation in _by_id(value["annotations"], f"{name}, annotations").items():
        thing = f"{name}, annotation {id_}"
        for key, known in (("image_id", images), ("category_id", categories)):
            if annotation.get(key) not in known:
                raise InputError.about(
                    f"{thing}, {key}", f"one of the file's {len(known)}", show(annotation.get(key))
                )
        box = check_box(annotation.get("bbox"), f"{thing}, bbox")
        if segmentation := annotation.get("segmentation"):
            image = images[annotation["image_id"]]
            check_segmentation(segmentation, *_size(image, name), f"{thing}, segmentation")
        annotations[id_] = {
            **annotation,
            "bbox": box,
            "area": annotation.get("area", box[2] * box[3]),
            "iscrowd": annotation.get("iscrowd", 0),
            "category_id": merged[annotation["category_id"]],
        }
    is_lvis = any("neg_category_ids" in i for i in images.values()) and all(
        "frequency" in c for c in categories.values()
    )
    kept = {i: c for i, c in categories.items() if merged[i] == i}
    if is_lvis:  # lists of verified absence must speak of the merged categories too
        lists = ("neg_category_ids", "not_exhaustive_category_ids")
        images = {
            i: {**v, **{k: [merged.get(c, c) for c in v.get(k, ())] for k in lists}}
            for i, v in images.items()
        }
    return CocoTruth(name, images, annotations, kept, is_lvis, merged)


def _by_id(listed: Any, thing: str) -> dict[int, dict[str, Any]]:
    if not isinstance(listed, list) or not all(isinstance(v, Mapping) and "id" in v for v in listed):
        raise InputError.about(thing, "a list of objects with ids", show(listed))
    found: dict[int, dict[str, Any]] = {}
    for value in listed:
        if value["id"] in found:
            raise InputError.about(thing, "every id once", f"{value['id']} twice", "remove one of the two")
        found[value["id"]] = dict(value)
    return found


def _size(image: Mapping[str, Any], source: str) -> tuple[int, int]:
    """(height, width) of an image record in pixels, or InputError."""
    size = image.get("height"), image.get("width")
    if not all(isinstance(v, int) and not isinstance(v, bool) and 0 < v <= LONGEST_SIDE for v in size):
        raise InputError.about(
            f"{source}, image {image['id']}",
            f"height and width from 1 to {LONGEST_SIDE} pixels",
            show(list(size)),
        )
    return size  # type: ignore[return-value]


def check_box(value: Any, thing: str) -> list[float]:
    """`[x, y, w, h]` in pixels as floats, or InputError."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise InputError.about(thing, "[x, y, w, h]", show(value))
    box = [check_score(v, thing) for v in value]
    if box[2] < 0 or box[3] < 0:
        raise InputError.about(
            thing, "[x, y, w, h] with w, h of at least 0", show(value), "is it [x1, y1, x2, y2]?"
        )
    return box


@dataclass(frozen=True)
class Detection:
    """One row of a result list. `bbox` `[x, y, w, h]` px or None; `segmentation` is an RLE or None."""

    image_id: int
    category_id: int
    score: float
    bbox: list[float] | None
    segmentation: dict[str, Any] | None
    ann_id: int | None = None


def are_results(value: Any) -> bool:
    """Whether a parsed file is a COCO result list of boxes or masks."""
    return isinstance(value, list) and all(
        isinstance(row, Mapping)
        and {"image_id", "category_id", "score"} <= set(row)
        and ("bbox" in row or "segmentation" in row)
        for row in value
    )


def read_results(value: list[Any], truth: CocoTruth, source: PathOrValue) -> list[Detection]:
    """Checked detections in file order; polygons become one RLE of the picture's size.

    Raises:
        InputError: unknown images, categories or annotations, NaN scores, the same region and class twice.
    """
    check_known((str(r["image_id"]) for r in value), {str(i) for i in truth.images}, source, "image id")
    known = {str(i) for i in truth.merged}
    check_known((str(r["category_id"]) for r in value), known, source, "category id")
    detections, seen = [], {}
    for index, row in enumerate(value):
        thing = row_name(source, index)
        ann_id = row.get("ann_id", row.get("annotation_id"))
        category = truth.merged[row["category_id"]]
        if ann_id is not None:
            annotation = truth.annotations.get(ann_id)
            if annotation is None or annotation["image_id"] != row["image_id"]:
                raise InputError.about(
                    f"{thing}, ann_id",
                    f"an annotation of image {row['image_id']}",
                    show(ann_id),
                    "the ground truth may be of another split or data set",
                )
            if (ann_id, category) in seen:
                raise InputError.about(
                    thing,
                    "one row for each annotation and class",
                    f"annotation {ann_id} a second time, first in row {seen[ann_id, category] + 1}",
                    "remove one of the two",
                )
            seen[ann_id, category] = index
        box = row.get("bbox") or None
        detections.append(
            Detection(
                image_id=row["image_id"],
                category_id=category,
                score=check_score(row["score"], f"{thing}, score"),
                bbox=None if box is None else check_box(box, f"{thing}, bbox"),
                segmentation=_mask_of(row, truth, thing),
                ann_id=ann_id,
            )
        )
    return detections


def _mask_of(row: Mapping[str, Any], truth: CocoTruth, thing: str) -> dict[str, Any] | None:
    """A predicted mask as pycocotools wants it; an empty mask is allowed (it overlaps nothing)."""
    segmentation = row.get("segmentation")
    if not segmentation:
        return None
    from pycocotools import mask as coco_mask

    height, width = _size(truth.images[row["image_id"]], truth.source)
    check_segmentation(segmentation, height, width, f"{thing}, segmentation")
    if isinstance(segmentation, list):
        return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    if isinstance(segmentation["counts"], list):
        return dict(coco_mask.frPyObjects(segmentation, height, width))
    return dict(segmentation)


def check_segmentation(segmentation: Any, height: int, width: int, thing: str) -> None:
    """Refuse what pycocotools would read past its end or allocate gigabytes for.

    It takes the size in an RLE and the corners of a polygon at their word: a polygon is traced pixel by pixel
    along its edges, wherever these lead. So everything is checked against the picture before it sees any.

    Args:
        segmentation: polygons `[[x1, y1, x2, y2, …], …]` in pixels, or an RLE with `size` `[height, width]`
            and `counts` in either spelling.

    Raises:
        InputError: in one sentence.
    """

    def refuse(actual: str) -> InputError:
        return InputError.about(
            thing, f"polygons or an RLE of the picture's size, {width} x {height}", actual
        )

    if isinstance(segmentation, list):
        for ring in segmentation:
            if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
                raise refuse(f"a polygon {show(ring)}")
            corners = np.array(ring) if all(isinstance(v, int | float) for v in ring) else np.array("")
            if corners.dtype.kind not in "if":
                raise refuse(f"a polygon {show(ring)}")
            sides = np.array([width, height] * (len(ring) // 2))
            if not ((corners >= -sides) & (corners <= 2 * sides)).all():  # NaN fails too
                raise refuse("a polygon with corners far outside")
        return
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= set(segmentation):
        raise refuse(show(segmentation))
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width] and size != (height, width):
        raise refuse(f"size {show(size)}, [height, width]")
    if isinstance(counts, list):
        if not all(isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in counts):
            raise refuse("counts that are not whole numbers of at least 0")
        total, least = sum(counts), 0
    elif isinstance(counts, str | bytes):
        runs = decompress(counts.decode("latin-1") if isinstance(counts, bytes) else counts, thing)
        total, least = float(runs.astype(float).sum()), int(runs.min())
    else:
        raise refuse(f"counts {show(counts)}")
    if total != height * width or least < 0:
        raise refuse(f"counts that sum to {total:.0f}" if least >= 0 else f"a run of {least}")

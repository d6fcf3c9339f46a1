"""COCO-format ground truth (COCO, LVIS, any other) and result lists.

Boxes in these files are `[x, y, w, h]` in pixels, x right, y down, continuous (x2 = x + w, no +1).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from eval.layouts.fields import WHOLE, Ids, check_number, field_of, has_rows, id_text, list_of, once, words_of
from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from eval.metrics.detection import id_order
from rgpt.errors import InputError
from rgpt.formats.coco import as_meant
from rgpt.regions.rasterize import cut_rings
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
    images: Mapping[Any, Mapping[str, Any]]
    annotations: Mapping[Any, Mapping[str, Any]]
    categories: Mapping[Any, Mapping[str, Any]]
    is_lvis: bool
    merged: Mapping[Any, Any] = field(default_factory=dict)

    @cached_property
    def id_of_name(self) -> dict[str, int]:
        return {clean_name(c["name"]): i for i, c in self.categories.items()}

    def name(self, category_id: int) -> str:
        return clean_name(self.categories[category_id]["name"])

    def with_masks(self) -> CocoTruth:
        """The same with every mask as an RLE. Raises InputError naming the first that cannot be compared."""
        found = {}
        for id_, annotation in self.annotations.items():
            thing = f"{self.source}, annotation {id_}, segmentation"
            segmentation = annotation.get("segmentation")
            if not segmentation:
                raise InputError.about(thing, "a mask", show(segmentation), "compare boxes: --iou-type bbox")
            height, width = _size(self.images[annotation["image_id"]], self.source)
            check_segmentation(segmentation, height, width, thing)
            found[id_] = {**annotation, "segmentation": _rle(segmentation, height, width)}
        return replace(self, annotations=found)

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
    """Read and check an instances file. LVIS is known by `neg_category_ids`.

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
    for id_, category in categories.items():
        words_of(category, "name", f"{name}, category {id_}")
    merged: dict[Any, Any] = {}
    first: dict[str, Any] = {}
    for id_ in sorted(categories, key=id_order):
        merged[id_] = first.setdefault(clean_name(categories[id_]["name"]), id_)
    own = {
        key: (Ids(by_text, f"{key[:-3]} id"), by_text)
        for key, by_text in (
            ("image_id", {id_text(i, name): i for i in images}),
            ("category_id", {id_text(i, name): i for i in categories}),
        )
    }
    annotations = {}
    for id_, annotation in _by_id(value["annotations"], f"{name}, annotations").items():
        thing = f"{name}, annotation {id_}"
        meant = {}
        for key, (ids, by_text) in own.items():
            meant[key] = by_text.get(ids.spell(field_of(annotation, key, thing), f"{thing}, {key}"))
            if meant[key] is None:
                raise InputError.about(
                    f"{thing}, {key}", f"one of the file's {len(by_text)}", show(annotation[key])
                )
        box = check_box(annotation.get("bbox"), f"{thing}, bbox")
        area = annotation.get("area")
        crowd = annotation.get("iscrowd")
        if crowd not in (None, 0, 1, "0", "1"):
            raise InputError.about(f"{thing}, iscrowd", "0 or 1", show(crowd))
        annotations[id_] = {
            **annotation,
            "image_id": meant["image_id"],
            "bbox": box,
            "area": _mask_area(annotation, images[meant["image_id"]], box, name, thing)
            if area is None
            else check_number(area, f"{thing}, area"),
            "iscrowd": int(crowd or 0),
            "category_id": merged[meant["category_id"]],
        }
    is_lvis = any("neg_category_ids" in i for i in images.values())
    if is_lvis:  # lists of verified absence must speak of the merged categories too
        for id_, category in categories.items():
            if (frequency := field_of(category, "frequency", f"{name}, category {id_}")) not in (
                "r",
                "c",
                "f",
            ):
                raise InputError.about(f"{name}, category {id_}, frequency", "r, c or f", show(frequency))
        lists = ("neg_category_ids", "not_exhaustive_category_ids")
        images = {
            i: {**v, **{k: _of_image(v, k, own["category_id"], merged, name) for k in lists}}
            for i, v in images.items()
        }
    kept = {i: c for i, c in categories.items() if merged[i] == i}
    return CocoTruth(name, images, annotations, kept, is_lvis, merged)


def _mask_area(
    annotation: Mapping[str, Any], image: Mapping[str, Any], box: list[float], name: str, thing: str
) -> float:
    """The area that an annotation does not state, in square pixels: its mask's, or its box's."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return box[2] * box[3]
    from pycocotools import mask as coco_mask

    height, width = _size(image, name)
    check_segmentation(segmentation, height, width, f"{thing}, segmentation")
    rle = _rle(segmentation, height, width)
    return float(coco_mask.area(rle))


def _of_image(
    image: Mapping[str, Any],
    key: str,
    own: tuple[Ids, Mapping[str, Any]],
    merged: Mapping[Any, Any],
    name: str,
) -> list[Any]:
    """The categories that LVIS lists for a picture, the file's own ids. Raises InputError."""
    thing, (ids, by_text) = f"{name}, image {image['id']}", own
    found = []
    for id_ in list_of(image, key, thing):
        if (text := ids.spell(id_, f"{thing}, {key}")) not in by_text:
            raise InputError.about(f"{thing}, {key}", f"some of the file's {len(by_text)}", show(id_))
        found.append(merged[by_text[text]])
    return found


def _by_id(listed: Any, thing: str) -> dict[Any, dict[str, Any]]:
    """Rows by id; whole numbers are ints, however each is spelled, where all are. Raises InputError."""
    if not isinstance(listed, list):
        raise InputError.about(thing, "a list of objects with ids", show(listed))
    rows = [row_name(thing, index) for index in range(len(listed))]
    texts = [
        id_text(field_of(value, "id", row), f"{row}, id") for value, row in zip(listed, rows, strict=True)
    ]
    numbers = Ids(texts).numbers
    found: dict[Any, dict[str, Any]] = {}
    for value, text in zip(listed, texts, strict=True):
        id_ = text if isinstance(value["id"], str) and not numbers else int(text)
        if id_ in found:
            raise InputError.about(thing, "every id once", f"{id_} twice", "remove one of the two")
        found[id_] = {**value, "id": id_}
    return found


def _size(image: Mapping[str, Any], source: str) -> tuple[int, int]:
    """(height, width) of an image record in pixels, or InputError. 100.0 and "100" are 100."""
    size = []
    for side in ("height", "width"):
        number = WHOLE.fullmatch(str(image.get(side)))
        pixels = int(f"{number[1]}{number[2]}") if number and len(number[2]) < 9 else 0
        if isinstance(image.get(side), bool) or not 0 < pixels <= LONGEST_SIDE:
            raise InputError.about(
                f"{source}, image {image['id']}, {side}",
                f"1 to {LONGEST_SIDE} pixels",
                show(image.get(side)),
            )
        size.append(pixels)
    return size[0], size[1]


def check_box(value: Any, thing: str) -> list[float]:
    """`[x, y, w, h]` in pixels as floats, or InputError."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise InputError.about(thing, "[x, y, w, h]", show(value))
    box = [check_number(v, thing) for v in value]
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
    """Whether a parsed file is a COCO result list of boxes or masks: some row has what these have."""
    return has_rows(value, "image_id", "category_id", "score")


def read_results(
    value: list[Any], truth: CocoTruth, source: PathOrValue, masks: bool = False
) -> list[Detection]:
    """Checked detections in file order; polygons become one RLE of the picture's size.

    Rows that name their annotation and are the same count once. Of rows that do not, each is a detection, as
    to COCOeval.

    Args:
        masks: masks are compared: each row needs one. Otherwise only rows without a box do.

    Raises:
        InputError: unknown images, categories or annotations, NaN scores, the same region and class twice.
    """
    columns: dict[str, list[Any]] = {}
    for key, own, what in (
        ("image_id", truth.images, "image id"),
        ("category_id", truth.merged, "category id"),
    ):
        by_text = {id_text(i, truth.source): i for i in own}
        given = [field_of(row, key, row_name(source, index)) for index, row in enumerate(value)]
        columns[key] = [by_text[text] for text in Ids(by_text, what).find(given, source, key)]
    annotations = Annotations(truth)
    naming = [row.get("ann_id", row.get("annotation_id")) is not None for row in value]
    if any(naming) and not all(naming):
        thing = f"{row_name(source, naming.index(False))}, ann_id"
        raise InputError.about(thing, "an annotation, as in other rows", "none", "name it in every row")
    keys: list[Any] = []
    found = []
    for index, row in enumerate(value):
        thing, image_id = row_name(source, index), columns["image_id"][index]
        category = truth.merged[columns["category_id"][index]]
        ann_id = annotations.find(row.get("ann_id", row.get("annotation_id")), image_id, f"{thing}, ann_id")
        keys.append(index if ann_id is None else (ann_id, category))
        found.append(
            Detection(
                image_id=image_id,
                category_id=category,
                score=check_number(field_of(row, "score", thing), f"{thing}, score"),
                bbox=None if row.get("bbox") in (None, []) else check_box(row["bbox"], f"{thing}, bbox"),
                segmentation=None,
                ann_id=ann_id,
            )
        )
    kept = once(value, keys, source, "annotation and class", "ann_id")
    return [
        replace(
            found[n], segmentation=_mask_of(value[n], found[n].image_id, truth, row_name(source, n), masks)
        )
        if masks or found[n].bbox is None
        else found[n]
        for n in kept
    ]


class Annotations:
    """The annotations of a truth, by whatever spells their ids."""

    def __init__(self, truth: CocoTruth) -> None:
        self.truth, self.by_text = truth, {id_text(i, truth.source): i for i in truth.annotations}
        self.ids = Ids(self.by_text, "annotation id")

    def find(self, value: Any, image_id: Any, thing: str) -> Any:
        """The truth's own id of an annotation of this picture; None for None. Raises InputError."""
        if value is None:
            return None
        own = self.by_text.get(self.ids.spell(value, thing))
        if own is None or self.truth.annotations[own]["image_id"] != image_id:
            raise InputError.about(
                thing,
                f"an annotation of image {image_id}",
                show(value),
                "the ground truth may be of another split or data set",
            )
        return own


def _mask_of(
    row: Mapping[str, Any], image_id: Any, truth: CocoTruth, thing: str, masks: bool
) -> dict[str, Any]:
    """A predicted mask as pycocotools wants it; an empty mask is allowed (it overlaps nothing)."""
    segmentation = row.get("segmentation")
    if not segmentation and not masks:
        raise InputError.about(f"{thing}, bbox", "a box, or a mask", show(row.get("bbox")))
    if not segmentation:
        raise InputError.about(
            f"{thing}, segmentation", "a mask", show(segmentation), "or a box, to compare boxes"
        )
    height, width = _size(truth.images[image_id], truth.source)
    check_segmentation(segmentation, height, width, f"{thing}, segmentation")
    return _rle(segmentation, height, width)


def _rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A checked mask as pycocotools wants it."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    whole = {"size": [height, width], "counts": segmentation["counts"]}  # 80.0 is not 80 to pycocotools
    return dict(coco_mask.frPyObjects(whole, height, width)) if isinstance(whole["counts"], list) else whole


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
        try:
            cut_rings([np.reshape(ring, (-1, 2)) for ring in segmentation], height, width)
        except InputError as error:
            raise refuse(f"one too long ({error})") from error
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

"""Referring expressions and what was answered to them, in the layouts they are published in.

Boxes leave this module as `(x1, y1, x2, y2)` in pixels of the picture, x right, y down, continuous.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.layouts.coco import check_box
from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from eval.layouts.rows import (
    Prediction,
    are_rows,
    check_known,
    check_score,
    check_unique,
    read_predictions,
    read_rows,
)
from eval.metrics.referring import Corners, Referred
from rgpt.errors import InputError
from rgpt.formats.plain_pickle import read_plain_pickle
from rgpt.prompts import parse_region_answer
from rgpt.regions import region_from_json


@dataclass(frozen=True)
class Expression:
    """One item. `box` is None where nothing fits; `candidates` are the regions offered, if the file says."""

    id: str
    text: str
    box: Corners | None
    candidates: tuple[Corners, ...] = ()
    annotation_id: str | None = None


def read_expressions(
    source: PathOrValue, split: str | None = None, instances: Path | str | None = None
) -> dict[str, Expression]:
    """Items by id, in file order.

    Reads our form `{"id", "expression", "box": [x1, y1, x2, y2] | null, "candidates": [boxes]}`; REC rows
    `{"expression", "bbox": [x1, y1, x2, y2], "width", "height"}` (pixels, or fractions; the id is the row's
    number); `refs(….).p` (the id is `sent_id`) and Google RefExp files (`refexp_id`), whose boxes come from a
    COCO instances file.

    Raises:
        InputError: another layout, no boxes, an unknown split.
    """
    name = name_of(source)
    if isinstance(source, str | Path) and Path(source).suffix in (".p", ".pkl", ".pickle"):
        return _from_refs(read_plain_pickle(source), name, split, _boxes(instances))
    value = read_json(source)
    if split is not None:
        raise InputError.about(f"{name}, split", "none (the file holds one)", repr(split), "leave it out")
    if isinstance(value, Mapping) and {"annotations", "refexps"} <= set(value):
        return _from_refexp(value, name, instances)
    rows = [value] if isinstance(value, Mapping) else value
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise _no_layout(name, value)
    found = []
    for index, row in enumerate(rows):
        thing = row_name(source, index)
        if {"id", "expression"} <= set(row) and "box" in row:
            box = None if row["box"] is None else _corners(row["box"], f"{thing}, box")
            candidates = tuple(_corners(c, f"{thing}, candidates") for c in row.get("candidates") or ())
            found.append(Expression(str(row["id"]), row["expression"], box, candidates))
        elif {"expression", "bbox"} <= set(row):
            found.append(Expression(str(index + 1), row["expression"], _rec_box(row, thing)))
        else:
            raise _no_layout(thing, row)
    check_unique((e.id for e in found), source)
    return {e.id: e for e in found}


def _no_layout(name: str, value: Any) -> InputError:
    return InputError.about(name, "referring expressions", show(value), "eval/README.md shows the layouts")


def _corners(value: Any, thing: str) -> Corners:
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise InputError.about(thing, "[x1, y1, x2, y2]", show(value))
    x1, y1, x2, y2 = (check_score(v, thing) for v in value)
    if x2 < x1 or y2 < y1:
        raise InputError.about(thing, "[x1, y1, x2, y2]", show(value), "is it [x, y, w, h]?")
    return x1, y1, x2, y2


def _rec_box(row: Mapping[str, Any], thing: str) -> Corners:
    """A REC row's box; fractions (nothing above 1) are multiplied by the picture's size."""
    box = _corners(row["bbox"], f"{thing}, bbox")
    if max(box) > 1:
        return box
    for side in ("width", "height"):
        if side not in row:
            raise InputError.about(thing, f"the picture's {side} beside fractions", "none", "add it")
    w, h = row["width"], row["height"]
    return box[0] * w, box[1] * h, box[2] * w, box[3] * h


def _from_coco(xywh: list[float]) -> Corners:
    x, y, w, h = xywh
    return x, y, x + w, y + h


def _boxes(instances: Path | str | None) -> dict[str, Corners]:
    if instances is None:
        raise InputError.about("--instances", "the COCO instances file with the boxes", "none", "name it")
    value = read_json(instances)
    if not isinstance(value, Mapping) or not isinstance(value.get("annotations"), list):
        raise InputError.about(str(instances), "a COCO instances file", show(value))
    return {
        str(a["id"]): _from_coco(check_box(a.get("bbox"), f"{instances}, annotation {a['id']}"))
        for a in value["annotations"]
    }


def _from_refs(
    refs: Any, name: str, split: str | None, boxes: Mapping[str, Corners]
) -> dict[str, Expression]:
    if not isinstance(refs, list) or not all(isinstance(r, Mapping) and "sentences" in r for r in refs):
        raise _no_layout(name, refs)
    splits = sorted({ref["split"] for ref in refs})
    if split is not None and split not in splits:
        raise InputError.about(f"{name}, split", f"one of {', '.join(splits)}", repr(split))
    check_known((str(r["ann_id"]) for r in refs), boxes, name, "annotation id")
    return {
        str(s["sent_id"]): Expression(
            str(s["sent_id"]), s["raw"], boxes[str(ref["ann_id"])], annotation_id=str(ref["ann_id"])
        )
        for ref in refs
        if split in (None, ref["split"])
        for s in ref["sentences"]
    }


def _from_refexp(value: Mapping[str, Any], name: str, instances: Path | str | None) -> dict[str, Expression]:
    annotations = value["annotations"]
    if all("bbox" in a for a in annotations.values()):
        boxes = {
            str(i): _from_coco(check_box(a["bbox"], f"{name}, annotation {i}"))
            for i, a in annotations.items()
        }
    else:
        boxes = _boxes(instances)
        check_known((str(i) for i in annotations), boxes, name, "annotation id")
    return {
        str(e): Expression(str(e), value["refexps"][str(e)]["raw"], boxes[str(i)], annotation_id=str(i))
        for i, annotation in annotations.items()
        for e in annotation["refexp_ids"]
    }


def read_answers(source: PathOrValue, expressions: Mapping[str, Expression]) -> dict[str, Referred]:
    """What was answered, by id.

    Reads our rows (an answer such as "Region [2]." picks from the row's `regions`, or from the expression's
    candidates), Google RefExp results (the first predicted box), and REC rows, one for each expression in the
    same order.

    Raises:
        InputError: another layout, unknown or duplicate ids, an expression or annotation of another split.
    """
    value = read_predictions(source)
    if are_rows(value):
        rows = read_rows(value, source)
        check_known((r.id for r in rows), expressions, source)
        return {r.id: _picked(r, expressions[r.id], source) for r in rows}
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        raise _no_layout(name_of(source), value)
    if all({"refexp_id", "predicted_bounding_boxes"} <= set(row) for row in value):
        return _google(value, expressions, source)
    if all({"expression", "bbox"} <= set(row) for row in value):
        return _rec_rows(value, expressions, source)
    raise _no_layout(name_of(source), value)


def _google(
    value: list[Any], expressions: Mapping[str, Expression], source: PathOrValue
) -> dict[str, Referred]:
    ids = [str(row["refexp_id"]) for row in value]
    check_unique(ids, source, "refexp_id")
    check_known(ids, expressions, source, "refexp_id")
    found = {}
    for index, (id_, row) in enumerate(zip(ids, value, strict=True)):
        thing, expected = row_name(source, index), expressions[id_].annotation_id
        if expected is not None and str(row.get("annotation_id", expected)) != expected:
            raise InputError.about(
                f"{thing}, annotation_id",
                expected,
                show(row["annotation_id"]),
                "the ground truth may be of another split",
            )
        boxes = row["predicted_bounding_boxes"]
        found[id_] = Referred(_from_coco(check_box(boxes[0], thing))) if boxes else Referred()
    return found


def _rec_rows(
    value: list[Any], expressions: Mapping[str, Expression], source: PathOrValue
) -> dict[str, Referred]:
    if len(value) > len(expressions):
        raise InputError.about(
            name_of(source),
            f"one row for each of {len(expressions)} expressions",
            str(len(value)),
            "the ground truth may be of another split",
        )
    found = {}
    for index, (row, expression) in enumerate(zip(value, expressions.values(), strict=False)):
        if row["expression"] != expression.text:
            raise InputError.about(
                row_name(source, index),
                f"the expression {expression.text!r}",
                show(row["expression"]),
                "the ground truth may be of another split",
            )
        found[expression.id] = Referred(_rec_box(row, row_name(source, index)))
    return found


def _picked(row: Prediction, expression: Expression, source: PathOrValue) -> Referred:
    if row.failed:
        return Referred(failed=row.failed)
    answer = row.answer.strip()
    number = int(answer) if answer.isdigit() else parse_region_answer(row.raw_answer)
    if number is None:
        number = parse_region_answer(answer)
    if number is None or number == 0:
        return Referred(nothing=number == 0)
    listed = row.row.get("regions")
    if not listed and not expression.candidates:
        raise InputError.about(
            f"{name_of(source)}, id {row.id}",
            "the regions that were offered",
            "none in the row or the ground truth",
            "write them under regions",
        )
    boxes = [_bounds(region) for region in listed] if listed else list(expression.candidates)
    return Referred(boxes[number - 1]) if number <= len(boxes) else Referred()


def _bounds(region: Any) -> Corners:
    if isinstance(region, list):
        return _corners(region, "regions")
    if isinstance(region, Mapping) and "box" in region:
        return _corners(region["box"], "regions")
    size = region.get("mask", {}).get("size") if isinstance(region, Mapping) else None
    if size is None:
        raise InputError.about("regions", "boxes or masks", show(region), "repair the row")
    return region_from_json(region).bounds(*size).xyxy

"""Referring expressions and what was answered to them, in the layouts they are published in.

Boxes leave this module as `(x1, y1, x2, y2)` in pixels of the picture, x right, y down, continuous.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.layouts.captions import google_expressions, is_pickle, of_split, read_refs, sentences_of
from eval.layouts.coco import check_box
from eval.layouts.fields import (
    Ids,
    as_object,
    check_number,
    field_of,
    has_rows,
    id_text,
    list_of,
    once,
    words_of,
)
from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from eval.layouts.rows import Prediction, are_rows, read_rows
from eval.metrics.referring import Corners, Referred
from rgpt.errors import InputError
from rgpt.prompts import parse_region_answer
from rgpt.regions import region_from_json

SHIKRA_BOX = re.compile(r"\[\s*(\d(?:\.\d*)?(?:\s*[,;]\s*\d(?:\.\d*)?)*)\s*\]", re.ASCII)
SHIKRA_STEP = 0.002
"""Shikra writes three decimals, and pads by whole pixels."""


@dataclass(frozen=True)
class Expression:
    """One item. `box` is None where nothing fits; `candidates` are the regions offered, if the file says."""

    id: str
    text: str
    box: Corners | None
    candidates: tuple[Corners, ...] = ()
    annotation_id: str | None = None
    row: Mapping[str, Any] | None = None


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
    if is_pickle(source):
        return _from_refs(read_refs(source), name, split, _boxes(instances))  # type: ignore[arg-type]
    value = read_json(source)
    if split is not None:
        raise InputError.about(f"{name}, split", "none (the file holds one)", repr(split), "leave it out")
    if isinstance(value, Mapping) and "refexps" in value:
        return _from_refexp(value, name, instances)
    if instances is not None:
        raise InputError.about("--instances", "none (the file has boxes)", str(instances), "leave it out")
    rows = [value] if isinstance(value, Mapping) else value
    things = [row_name(source, index) for index in range(len(rows))] if isinstance(rows, list) else []
    if has_rows(rows, "id", "expression"):
        ids = [
            id_text(field_of(row, "id", thing), f"{thing}, id")
            for row, thing in zip(rows, things, strict=True)
        ]
        kept = once(rows, ids, source)
        return {ids[n]: _own_item(ids[n], rows[n], things[n]) for n in kept}
    if not has_rows(rows, "expression", "bbox"):
        raise _no_layout(name, value)
    boxes = _rec_boxes(rows, things, strict=True)
    return {
        str(n): Expression(str(n), words_of(row, "expression", thing), box, row=row)
        for n, (row, thing, box) in enumerate(zip(rows, things, boxes, strict=True), start=1)
    }


def _own_item(id_: str, row: Mapping[str, Any], thing: str) -> Expression:
    box = field_of(row, "box", thing)
    box = None if box is None else _corners(box, f"{thing}, box")
    listed = [] if row.get("candidates") is None else list_of(row, "candidates", thing)
    candidates = tuple(_corners(c, f"{thing}, candidates") for c in listed)
    return Expression(id_, words_of(row, "expression", thing), box, candidates)


def _no_layout(name: str, value: Any) -> InputError:
    return InputError.about(name, "referring expressions", show(value), "eval/README.md shows the layouts")


def _corners(value: Any, thing: str) -> Corners:
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise InputError.about(thing, "[x1, y1, x2, y2]", show(value))
    x1, y1, x2, y2 = (check_number(v, thing) for v in value)
    if x2 < x1 or y2 < y1:
        raise InputError.about(thing, "[x1, y1, x2, y2]", show(value), "is it [x, y, w, h]?")
    return x1, y1, x2, y2


def _rec_boxes(rows: Sequence[Any], things: Sequence[str], strict: bool = False) -> list[Corners]:
    """The boxes of REC rows in pixels; of a file of fractions, times the picture's size.

    A file has one or the other, which all of its boxes decide: a box of a pixel is no fraction. With `strict`
    a single row of the other kind is refused; a model may answer anything, so its boxes need a majority.
    """
    boxes = [_corners(field_of(r, "bbox", t), f"{t}, bbox") for r, t in zip(rows, things, strict=True)]
    small = [n for n, box in enumerate(boxes) if 0 < max(box) <= 1]
    large = [n for n, box in enumerate(boxes) if max(box) > 1]
    fractions = len(small) > len(large)
    other = (large if fractions else small) if strict or fractions else []
    if small and other:
        expected, got = ("fractions", "pixels") if fractions else ("pixels", "fractions")
        raise InputError.about(
            f"{things[other[0]]}, bbox", f"{expected} as in most rows", f"{got}, {show(boxes[other[0]])}"
        )
    if not fractions:
        return boxes
    scaled = []
    for row, thing, box in zip(rows, things, boxes, strict=True):
        w, h = _rec_size(row, thing)
        scaled.append((box[0] * w, box[1] * h, box[2] * w, box[3] * h))
    return scaled


def _rec_size(row: Any, thing: str) -> tuple[float, float]:
    """(width, height) in pixels that a REC row gives beside fractions."""
    size = []
    for side in ("width", "height"):
        if side not in row:
            raise InputError.about(
                f"{thing}, {side}", f"the picture's {side} beside fractions", "none", "add it"
            )
        size.append(check_number(row[side], f"{thing}, {side}"))
        if size[-1] < 1:
            raise InputError.about(f"{thing}, {side}", "1 pixel or more", show(row[side]))
    return size[0], size[1]


def _from_coco(xywh: list[float]) -> Corners:
    x, y, w, h = xywh
    return x, y, x + w, y + h


def _boxes(instances: Path | str | None) -> dict[str, Corners]:
    if instances is None:
        raise InputError.about("--instances", "the COCO instances file with the boxes", "none", "name it")
    value = read_json(instances)
    if not isinstance(value, Mapping) or not isinstance(value.get("annotations"), list):
        raise InputError.about(str(instances), "a COCO instances file", show(value))
    found = {}
    for index, annotation in enumerate(value["annotations"]):
        thing = f"{instances}, annotations, row {index + 1}"
        id_ = id_text(field_of(annotation, "id", thing), f"{thing}, id")
        found[id_] = _from_coco(check_box(annotation.get("bbox"), f"{instances}, annotation {id_}, bbox"))
    return found


def _from_refs(
    refs: Any, name: str, split: str | None, boxes: Mapping[str, Corners]
) -> dict[str, Expression]:
    if not has_rows(refs, "sentences"):
        raise _no_layout(name, refs)
    annotations = Ids(boxes, "annotation id")
    found: dict[str, Expression] = {}
    for thing, ref in of_split(refs, split, name):
        own = annotations.find_one(field_of(ref, "ann_id", thing), f"{thing}, ann_id")
        for sentence in sentences_of(ref, thing):
            sent_id = id_text(field_of(sentence, "sent_id", thing), f"{thing}, sent_id")
            item = Expression(sent_id, sentence["raw"], boxes[own], annotation_id=own)
            if found.setdefault(sent_id, item) != item:
                raise InputError.about(f"{thing}, sent_id", "every sentence once", f"{sent_id} twice")
    return found


def _from_refexp(value: Mapping[str, Any], name: str, instances: Path | str | None) -> dict[str, Expression]:
    listed = google_expressions(value, name)
    if not any("bbox" in annotation for _, _, annotation, _ in listed):
        boxes = _boxes(instances)
        own = Ids(boxes, "annotation id").find([id_ for id_, *_ in listed], name, "annotations")
        corners = [boxes[id_] for id_ in own]
    elif instances is not None:
        raise InputError.about("--instances", "none (the file has boxes)", str(instances), "leave it out")
    else:
        corners = [
            _from_coco(check_box(field_of(annotation, "bbox", thing), f"{thing}, bbox"))
            for _, thing, annotation, _ in listed
        ]
    return {
        key: Expression(key, words_of(refexp, "raw", f"{thing}, refexp {key}"), box, annotation_id=id_)
        for (id_, thing, _, pairs), box in zip(listed, corners, strict=True)
        for key, refexp in pairs
    }


def read_answers(
    value: Any, expressions: Mapping[str, Expression], source: PathOrValue
) -> dict[str, Referred]:
    """What was answered, by id.

    Reads our rows (an answer such as "Region [2]." picks from the row's `regions`, or from the expression's
    candidates), Google RefExp results (the first predicted box), and REC rows, one for each expression in the
    same order.

    Raises:
        InputError: another layout, unknown or duplicate ids, an expression or annotation of another split.
    """
    if are_rows(value):
        rows = read_rows(value, source, expressions)
        return {r.id: _picked(r, expressions[r.id], r.place) for r in rows}
    if has_rows(value, "refexp_id"):
        return _google(value, expressions, source)
    if has_rows(value, "expression", "bbox"):
        return _rec_rows(value, expressions, source)
    raise _no_layout(name_of(source), value)


def _google(
    value: list[Any], expressions: Mapping[str, Expression], source: PathOrValue
) -> dict[str, Referred]:
    given = [field_of(row, "refexp_id", row_name(source, index)) for index, row in enumerate(value)]
    ids = Ids(expressions, "refexp_id").find(given, source, "refexp_id")
    found = {}
    for index in once(value, ids, source, "refexp_id", "refexp_id"):
        row, thing, expected = value[index], row_name(source, index), expressions[ids[index]].annotation_id
        stated = row.get("annotation_id")
        if None not in (expected, stated) and id_text(stated, f"{thing}, annotation_id") != expected:
            raise InputError.about(
                f"{thing}, annotation_id",
                str(expected),
                show(stated),
                "the ground truth may be of another split",
            )
        boxes = list_of(row, "predicted_bounding_boxes", thing)
        found[ids[index]] = (
            Referred(_from_coco(check_box(boxes[0], f"{thing}, predicted_bounding_boxes")))
            if boxes
            else Referred()
        )
    return found


def _check_count(value: Sequence[Any], expressions: Mapping[str, Expression], source: PathOrValue) -> None:
    if len(value) > len(expressions):
        raise InputError.about(
            name_of(source),
            f"one row for each of {len(expressions)} expressions",
            str(len(value)),
            "the ground truth may be of another split",
        )


def _rec_rows(
    value: list[Any], expressions: Mapping[str, Expression], source: PathOrValue
) -> dict[str, Referred]:
    _check_count(value, expressions, source)
    things = [row_name(source, index) for index in range(len(value))]
    found = {}
    boxes = _rec_boxes(value, things)
    for row, thing, box, expression in zip(value, things, boxes, expressions.values(), strict=False):
        if words_of(row, "expression", thing) != expression.text:
            raise InputError.about(
                f"{thing}, expression",
                f"the expression {expression.text!r}",
                show(row["expression"]),
                "the ground truth may be of another split",
            )
        found[expression.id] = Referred(box)
    return found


def are_shikra(value: Any) -> bool:
    """Whether a parsed file holds Shikra's predictions: what the model said beside what it should have."""
    return has_rows(value, "pred", "target")


def read_shikra(
    value: list[Any], expressions: Mapping[str, Expression] | None, source: PathOrValue
) -> tuple[dict[str, Expression], dict[str, Referred]]:
    """Items and answers of `…_extra_prediction.jsonl`, `{"pred": "…[0.123,0.2,0.5,0.9]…", "target": …}` [A].

    Boxes are fractions of the picture padded to a square, on both sides; IoU is the same there as in pixels.
    An answer without exactly one box is unreadable, as to the authors.

    Args:
        expressions: the REC file that was asked, in the same order; its boxes must be those of `target`.
    """
    if expressions is not None:
        _check_count(value, expressions, source)
    items, answers = {}, {}
    known = list(expressions.values()) if expressions is not None else []
    for index, row in enumerate(value):
        thing = row_name(source, index)
        box = _shikra_box(words_of(row, "target", thing, empty=True))
        if box is None:
            raise InputError.about(f"{thing}, target", "one box [x1,y1,x2,y2]", show(row["target"]))
        asked = known[index] if known else Expression(str(index + 1), "", box)
        if known and not _is_padded(box, asked, thing):
            raise InputError.about(
                f"{thing}, target",
                f"the box of {asked.text!r}, {show(asked.box)}",
                show(box),
                "the ground truth may be of another split",
            )
        items[asked.id] = Expression(asked.id, asked.text, box)
        answers[asked.id] = Referred(_shikra_box(words_of(row, "pred", thing, empty=True)))
    return items | {e.id: e for e in known if e.id not in items}, answers


def _shikra_box(text: str) -> Corners | None:
    """The box in an answer; None unless there is one alone (boxes of one group are parted by `;`)."""
    found = SHIKRA_BOX.findall(text)
    numbers = re.split(r"[,;]", found[0]) if len(found) == 1 else ()
    if len(numbers) != 4 or ";" in found[0]:
        return None
    x1, y1, x2, y2 = map(float, numbers)
    return x1, y1, x2, y2


def _is_padded(box: Corners, asked: Expression, thing: str) -> bool:
    """Whether fractions of the padded square are an expression's box in pixels."""
    if asked.box is None or asked.row is None:
        raise InputError.about(thing, "a REC file as the ground truth", "another layout", "leave --gt out")
    w, h = _rec_size(asked.row, f"expression {asked.id}")
    side, left, up = max(w, h), max(0.0, (h - w) // 2), max(0.0, (w - h) // 2)
    moved = (asked.box[0] + left, asked.box[1] + up, asked.box[2] + left, asked.box[3] + up)
    return all(
        abs(min(max(ours / side, 0.0), 1.0) - theirs) <= SHIKRA_STEP + 1 / side
        for ours, theirs in zip(moved, box, strict=True)
    )


def _picked(row: Prediction, expression: Expression, thing: str) -> Referred:
    if row.failed:
        return Referred(failed=row.failed)
    answer = row.answer.strip()
    number = (
        int(answer) if re.fullmatch(r"\d{1,9}", answer, re.ASCII) else parse_region_answer(row.raw_answer)
    )
    if number is None:
        number = parse_region_answer(answer)
    listed = row.row.get("regions")
    if listed is not None and not isinstance(listed, list):
        raise InputError.about(f"{thing}, regions", "a list of boxes or masks", show(listed))
    if number is None or number == 0:
        return Referred(nothing=number == 0)
    if not listed and not expression.candidates:
        raise InputError.about(
            f"{thing}, regions",
            "the regions that were offered",
            "none in the row or the ground truth",
            "write them under regions",
        )
    boxes = [_bounds(r, f"{thing}, regions") for r in listed] if listed else list(expression.candidates)
    return Referred(boxes[number - 1]) if number <= len(boxes) else Referred()


def _bounds(region: Any, thing: str) -> Corners:
    if isinstance(region, list):
        return _corners(region, thing)
    if isinstance(region, Mapping) and "box" in region:
        return _corners(region["box"], thing)
    mask = as_object(field_of(region, "mask", thing), f"{thing}, mask")
    size = list_of(mask, "size", f"{thing}, mask")
    try:
        return region_from_json(dict(region)).bounds(*size).xyxy
    except (InputError, TypeError, ValueError) as error:
        raise InputError.about(thing, "boxes or masks", str(error)[:100], "repair the row") from error

"""The pictures of a report: which classes are taken for which, the worst mistakes, what was detected."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from eval.tasks.base import RECORDED, Item, Picture, Task
from rgpt.files import whole_file
from rgpt.regions import draw_regions, region_from_json

MISTAKES = 24
COLUMNS = 6
CELL = 240
"""Pixels along the longer side of a picture on the sheet."""
LINES = 8
PICTURES = 12
FOUND = LINES - 1
"""Detections drawn on a picture of the sheet, as many as have a line."""
SHOWN_CLASSES = 30
SQUARE = 26
MARGIN = 130


def confusion(scores: Mapping[str, Any]) -> Image.Image | None:
    """A matrix, true class by row and answer by column, of the classes with most mistakes; None without any.

    Cells are shares of the row; the diagonal is what was right. Answers outside the shown classes have no
    cell.
    """
    per_class = scores.get("per_class") or {}
    counts = {(true, said): n for true, said, n in scores.get("confusions") or ()}
    if not counts:
        return None
    weight: dict[str, int] = {}
    for pair, n in counts.items():
        for name in pair:
            weight[name] = weight.get(name, 0) + n
    names = sorted(sorted(weight, key=lambda name: (-weight[name], name))[:SHOWN_CLASSES])
    font, side = ImageFont.load_default(12), len(names) * SQUARE
    image = Image.new("RGB", (MARGIN + side + 8, MARGIN + side + 8), "white")
    draw = ImageDraw.Draw(image)
    flat = Image.new("RGB", (MARGIN, side), "white")
    for k, name in enumerate(names):
        ImageDraw.Draw(flat).text((4, k * SQUARE + 6), name[:20], fill="black", font=font)
        draw.text((4, MARGIN + k * SQUARE + 6), name[:20], fill="black", font=font)
    image.paste(flat.transpose(Image.Transpose.ROTATE_90), (MARGIN, 0))  # row k becomes column k
    for y, true in enumerate(names):
        row = per_class.get(true) or {"n": 0, "accuracy": 0.0}
        for x, said in enumerate(names):
            right = round(row.get("n", 0) * (row.get("accuracy") or 0.0))
            count = right if x == y else counts.get((true, said), 0)
            share = count / max(1, row.get("n", 0))
            left, top = MARGIN + x * SQUARE, MARGIN + y * SQUARE
            base = (40, 120, 60) if x == y else (190, 40, 40)
            colour = tuple(round(255 - (255 - c) * min(1.0, share)) for c in base)
            draw.rectangle(
                (left, top, left + SQUARE - 1, top + SQUARE - 1), fill=colour, outline=(225, 225, 225)
            )
            if count:
                draw.text(
                    (left + 4, top + 6), str(count), fill="black" if share < 0.6 else "white", font=font
                )
    return image


def contact_sheet(
    task: Task, pictures: Sequence[Picture], rows: Sequence[Mapping[str, Any]]
) -> Image.Image | None:
    """The worst mistakes: wrong answers, the most confident first, each on its picture with its regions."""
    by_image: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_image.setdefault(str(row["image_id"]), []).append(row)
    wrong: list[tuple[float, int, Picture, Mapping[str, Any], Item]] = []
    for picture in pictures:
        said = by_image.get(str(picture.id), [])
        if not said or all(row.get("right") is True for row in said):
            continue
        items = {item.id: item for item in picture.make_items()}
        for row in said:
            item = items.get(str(row["id"]))
            if item is not None and "failed" not in row and task.is_right(row, item) is False:
                wrong.append((-(row.get("score") or 0.0), len(wrong), picture, row, item))
    wrong.sort(key=lambda found: found[:2])
    return _sheet([cell for found in wrong[:MISTAKES] if (cell := _cell(*found[2:])) is not None])


def detections(
    task: Task, pictures: Sequence[Picture], rows: Sequence[Mapping[str, Any]]
) -> Image.Image | None:
    """What was found on the first pictures, the surest numbered and named below; None of other tasks."""
    of_image = {str(row["image_id"]): row for row in rows if "failed" not in row}
    cells = []
    for picture in pictures:
        row = of_image.get(str(picture.id))
        found = None if row is None else task.found(row)
        if found is None:
            continue
        found = found[:FOUND]
        try:
            image = draw_regions(picture.open(), {n: region for n, (region, _, _) in enumerate(found, 1)})
        except RECORDED:
            continue
        named = [f"{n} {name} {score:.2f}" for n, (_, name, score) in enumerate(found, 1)]
        cells.append(_framed(image, [f"picture {picture.id}", *(named or ["nothing found"])]))
        if len(cells) == PICTURES:
            break
    return _sheet(cells)


def _sheet(cells: Sequence[Image.Image]) -> Image.Image | None:
    """The cells in rows; None without any."""
    if not cells:
        return None
    columns = min(COLUMNS, len(cells))
    width, height = cells[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height), "white")
    for k, cell in enumerate(cells):
        sheet.paste(cell, (k % columns * width, k // columns * height))
    return sheet


def _cell(picture: Picture, row: Mapping[str, Any], item: Item) -> Image.Image | None:
    try:
        image = picture.open()
        regions = dict(item.regions) or {
            n: region_from_json(r) for n, r in enumerate(row["regions"], start=1)
        }
        image = draw_regions(image, regions) if regions else image.copy()
    except RECORDED:
        return None
    score = f" ({row['score']:.2f})" if row.get("score") is not None else ""
    lines = [str(row["id"])]
    for mark, text in (
        ("Q ", row["prompt"]),
        ("A ", f"{row['raw_answer']}{score}"),
        ("= ", item.truth or ""),
    ):
        lines += textwrap.wrap(str(text), CELL // 7, initial_indent=mark, subsequent_indent="   ")
    if len(lines) > LINES:
        lines = [*lines[: LINES - 3], "…", *lines[-2:]]
    return _framed(image, lines)


def _framed(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    """One cell: the picture, which is changed, and at most `LINES` lines below it, the first in grey."""
    font = ImageFont.load_default(12)
    cell = Image.new("RGB", (CELL + 12, CELL + 20 + 16 * LINES), "white")
    image.thumbnail((CELL, CELL))
    cell.paste(image, (6 + (CELL - image.width) // 2, 6 + (CELL - image.height) // 2))
    draw = ImageDraw.Draw(cell)
    for k, text in enumerate(lines):
        draw.text((6, CELL + 12 + 16 * k), text, fill="grey" if k == 0 else "black", font=font)
    return cell


def write(picture: Image.Image, path: Path) -> None:
    """Save as PNG, whole or not at all."""
    with whole_file(path) as partial:
        picture.save(partial, "PNG")

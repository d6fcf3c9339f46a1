"""Regions drawn on a picture: a tint, an outline with a halo, and the region's number; names beside it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rgpt.regions.frame import check_numbered
from rgpt.regions.labels import place_labels
from rgpt.regions.rasterize import mask_bounds
from rgpt.regions.values import Mask, Region

# Fixed, so that a region keeps its colour for life; neighbours in number differ in hue and in brightness.
PALETTE = (
    (230, 25, 75),
    (0, 130, 200),
    (255, 200, 0),
    (60, 160, 60),
    (240, 50, 230),
    (70, 220, 220),
    (245, 130, 48),
    (110, 40, 170),
    (170, 240, 70),
    (128, 60, 20),
    (250, 160, 190),
    (0, 60, 110),
)
TINT = 0.28  # share of the colour inside a region
LONGEST_LINE = 48  # characters beside a picture


def color_of(number: int) -> tuple[int, int, int]:
    """The RGB colour of region `number` (1-based)."""
    return PALETTE[(number - 1) % len(PALETTE)]


def draw_regions(image: Image.Image, regions: Mapping[int, Region], tint: float = TINT) -> Image.Image:
    """A new RGB picture with every region tinted, outlined and numbered; the numbers do not overlap.

    `tint` is the share of the region's colour inside it; 0 leaves the picture's own colours.

    Raises InputError, naming the number, when a region lies outside the picture.
    """
    height, width = image.height, image.width
    for number, region in regions.items():
        check_numbered(number, region, height, width)
    pixels = np.array(image.convert("RGB"))
    thickness = max(2, round(max(height, width) / 320))
    bounds, tips = {}, {}
    # Large regions first, so that a small one inside a large one stays on top.
    areas = {number: _area(region, height, width) for number, region in regions.items()}
    for number in sorted(areas, key=lambda n: -areas[n]):
        mask = regions[number].to_mask(height, width)  # one at a time: each is as large as the picture
        bounds[number] = mask_bounds(mask)
        y1 = bounds[number][1]
        tips[number] = (int(np.argmax(mask[y1])), y1)
        _paint(pixels, mask, bounds[number], color_of(number), thickness, tint)
    drawn = Image.fromarray(pixels)
    _write_numbers(drawn, bounds, tips)
    return drawn


def write_beside(picture: Image.Image, lines: Mapping[int, str]) -> Image.Image:
    """The picture, and at its right a line a region, in as many columns as needed, each with a patch of its
    region's colour; without lines the picture itself.
    """
    if not lines:
        return picture
    size = max(12, min(28, picture.height // 24))
    font, step = ImageFont.load_default(size), size * 3 // 2
    a_column = max(1, (picture.height - size) // step)
    shown = {
        n: x if len(x) <= LONGEST_LINE else f"{x[: LONGEST_LINE - 1]}…" for n, x in sorted(lines.items())
    }
    width = int(max(font.getlength(line) for line in shown.values())) + 2 * size
    columns = -(-len(shown) // a_column)
    canvas = Image.new("RGB", (picture.width + columns * width, max(picture.height, step + size)), "white")
    canvas.paste(picture, (0, 0))
    pen = ImageDraw.Draw(canvas)
    for k, (number, line) in enumerate(shown.items()):
        column, row = divmod(k, a_column)
        x, y = picture.width + column * width + size // 2, size // 2 + row * step
        pen.rectangle((x, y + size // 4, x + size // 2, y + size), fill=color_of(number))
        pen.text((x + size * 3 // 4, y), line, fill="black", font=font)
    return canvas


def _area(region: Region, height: int, width: int) -> int:
    if isinstance(region, Mask):
        return int(region.array.sum())
    x1, y1, x2, y2 = region.rectangles(height, width).T
    return int(((x2 - x1) * (y2 - y1)).sum())


def _paint(
    pixels: np.ndarray,
    mask: np.ndarray,
    bounds: tuple[int, int, int, int],
    color: tuple[int, int, int],
    thickness: int,
    tint: float,
) -> None:
    """Tint, outline and halo of one mask, in place, working only on the window around it."""
    x1, y1, x2, y2 = bounds
    margin = thickness + 1
    top, left = max(0, y1 - margin), max(0, x1 - margin)
    bottom, right = min(mask.shape[0], y2 + margin), min(mask.shape[1], x2 + margin)
    window = pixels[top:bottom, left:right]
    inside = mask[top:bottom, left:right]
    paint = np.array(color)
    # A table a channel: as fractions, the pixels of a large region would take eight times their memory.
    for channel, value in enumerate(color):
        table = (np.arange(256) * (1 - tint) + value * tint).astype(np.uint8)
        np.copyto(window[..., channel], table[window[..., channel]], where=inside)
    # Outline inside the region, thin halo outside: visible on any background and true to the region's area.
    # Padded with "outside", so that a region at the border of the picture is closed there, too.
    outside = np.pad(~inside, thickness, constant_values=True)
    core = ~_grown(outside, thickness)[thickness:-thickness, thickness:-thickness]
    halo = _grown(inside, 1) & ~inside
    window[inside & ~core] = paint
    window[halo] = _text_color(color)


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    """Dilated by a 3 x 3 square `steps` times: twice as far with every pass."""
    result = mask.copy()
    for axis in (0, 1):
        rows, reach = np.moveaxis(result, axis, 0), 0
        while reach < steps:
            step = min(reach + 1, steps - reach)
            before = rows.copy()
            rows[step:] |= before[:-step]
            rows[:-step] |= before[step:]
            reach += step
    return result


def _text_color(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever is readable on `color`."""
    brightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if brightness > 140 else (255, 255, 255)


def _write_numbers(
    image: Image.Image, bounds: Mapping[int, tuple[int, int, int, int]], tips: Mapping[int, tuple[int, int]]
) -> None:
    draw = ImageDraw.Draw(image)
    points = max(11, min(48, round(max(image.size) / 36)))
    font = ImageFont.load_default(points)
    pad = max(2, points // 5)
    numbers = sorted(bounds)
    boxes = [draw.textbbox((0, 0), str(number), font=font) for number in numbers]
    sizes = []
    for x1, y1, x2, y2 in boxes:
        tall = round(y2 - y1) + 2 * pad
        sizes.append((max(round(x2 - x1) + 2 * pad, tall), tall))
    anchors, highest = [bounds[number] for number in numbers], [tips[number] for number in numbers]
    places = place_labels(anchors, sizes, image.height, image.width, highest)
    for number, text, place in zip(numbers, boxes, places, strict=True):
        color = color_of(number)
        x1, y1, x2, y2 = place
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=color, outline=_text_color(color))
        left = x1 + (x2 - x1 - (text[2] - text[0])) / 2 - text[0]
        top = y1 + (y2 - y1 - (text[3] - text[1])) / 2 - text[1]
        draw.text((left, top), str(number), fill=_text_color(color), font=font)

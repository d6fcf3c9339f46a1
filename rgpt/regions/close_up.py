"""The pictures that are sent: the whole one, and the close-up of a region."""

from __future__ import annotations

from PIL import Image

from rgpt.regions import Box, Frame, Region


def close_up(
    image: Image.Image, region: Region, margin: float, min_side: int = 1, max_side: int = 1 << 30
) -> Image.Image:
    """The region's box with a margin, cut to the picture and rounded outwards to whole pixels.

    Args:
        margin: how much wider on every side, as a part of the box's sides.
        min_side, max_side: pixels; what is smaller is enlarged (some models refuse tiny pictures), what is
            larger is shrunk, in proportion. `max_side` wins.

    Raises InputError when the region lies outside the picture.
    """
    left, top, right, bottom = close_up_box(image, region, margin).xyxy
    crop = image.crop((int(left), int(top), int(right), int(bottom)))
    grow = min(min_side / min(crop.size), max_side / max(crop.size))
    if grow > 1:
        size = (max(1, round(crop.width * grow)), max(1, round(crop.height * grow)))
        crop = crop.resize(size, Image.Resampling.BICUBIC)
    return shrunk(crop, max_side)


def close_up_box(image: Image.Image, region: Region, margin: float) -> Box:
    """The box of `close_up`, in whole pixels. Raises InputError when the region lies outside the picture."""
    box = region.bounds(image.height, image.width)
    across, down = margin * (box.x2 - box.x1), margin * (box.y2 - box.y1)
    wide = Box(box.x1 - across, box.y1 - down, box.x2 + across, box.y2 + down)
    cut = wide.bounds(image.height, image.width)
    return Box(int(cut.x1), int(cut.y1), -int(-cut.x2 // 1), -int(-cut.y2 // 1))


def shrunk(image: Image.Image, max_side: int) -> Image.Image:
    """The picture itself, or a smaller copy whose longer side is `max_side` pixels."""
    if max(image.size) <= max_side:
        return image
    smaller = image.copy()
    smaller.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
    return smaller


def moved(region: Region, image: Image.Image, sent: Image.Image) -> Region:
    """The region of `image` on its smaller copy `sent`. Raises InputError when it lies outside."""
    region.check_inside(image.height, image.width)
    if sent is image:
        return region
    return Frame(image, {1: region}).resize(sent.height, sent.width).regions[1]

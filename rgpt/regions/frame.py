"""One object that moves a picture and its regions together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rgpt.errors import InputError
from rgpt.regions.checks import picture_size
from rgpt.regions.rasterize import mask_bounds
from rgpt.regions.values import RLE, Box, Mask, Point, Polygon, Region, Scribble
from rgpt.regions.weights import square_padding

MovePoint = Callable[[float, float], tuple[float, float]]
MoveMask = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Frame:
    """A picture and the regions on it, by number; every method gives a new Frame in which both have moved.

    `regions` may be given as a mapping from number to region or as a list, which is numbered from 1. Boxes,
    polygons, points and strokes move as geometry, masks pixel by pixel (an RLE stays an RLE).
    Raises InputError, naming the number, when a region lies outside the picture.
    """

    image: Image.Image
    regions: dict[int, Region]

    def __init__(self, image: Image.Image, regions: Mapping[int, Region] | Sequence[Region] = ()) -> None:
        numbered = dict(regions) if isinstance(regions, Mapping) else dict(enumerate(regions, start=1))
        for number, region in numbered.items():
            check_numbered(number, region, image.height, image.width)
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "regions", numbered)

    @property
    def height(self) -> int:
        return int(self.image.height)

    @property
    def width(self) -> int:
        return int(self.image.width)

    def masks(self) -> dict[int, np.ndarray]:
        """Every region as a bool mask [H, W]."""
        return {number: region.to_mask(self.height, self.width) for number, region in self.regions.items()}

    def resize(self, height: int, width: int) -> Frame:
        """Picture (bicubic) and regions stretched to a new size; a mask keeps at least one pixel."""
        height, width = picture_size(height, width)
        right, down = width / self.width, height / self.height
        rows = ((np.arange(height) + 0.5) / down).astype(np.int64)
        columns = ((np.arange(width) + 0.5) / right).astype(np.int64)

        def move_mask(mask: np.ndarray) -> np.ndarray:
            resized = mask[np.ix_(rows, columns)]
            if not resized.any():
                x1, y1, x2, y2 = mask_bounds(mask)
                resized[int((y1 + y2) / 2 * down), int((x1 + x2) / 2 * right)] = True
            return resized

        image = self.image.resize((width, height), Image.Resampling.BICUBIC)
        # A disc stretched unevenly is an ellipse; the circle of the same area stands for it.
        scale = float(np.sqrt(right * down))
        return self._moved(image, lambda x, y: (x * right, y * down), move_mask, scale)

    def crop(self, box: Box, drop_outside: bool = False) -> Frame:
        """The part of the picture inside `box`, which must have whole-pixel corners inside the picture.

        A region with nothing inside the crop raises InputError, or is left out with `drop_outside`.
        """
        if any(value != int(value) for value in box.xyxy) or box != box.bounds(self.height, self.width):
            raise InputError.about(
                "crop",
                f"whole-pixel corners inside the {self.width} x {self.height} picture",
                str([float(value) for value in box.xyxy]),
                "round the box and cut it to the picture",
            )
        x1, y1, x2, y2 = (int(value) for value in box.xyxy)
        return self._moved(
            self.image.crop((x1, y1, x2, y2)),
            lambda x, y: (x - x1, y - y1),
            lambda mask: mask[y1:y2, x1:x2],
            drop_outside=drop_outside,
        )

    def pad_to_square(self, fill: tuple[int, int, int] = (0, 0, 0)) -> Frame:
        """The picture centred in a square of its longer side, filled with the colour `fill` (RGB 0..255)."""
        side, (left, top) = square_padding(self.height, self.width)
        return self.pad(side, side, left, top, fill)

    def pad(
        self, height: int, width: int, left: int = 0, top: int = 0, fill: tuple[int, int, int] = (0, 0, 0)
    ) -> Frame:
        """The picture on a larger canvas of the colour `fill`, its corner at (`left`, `top`) pixels.

        Raises InputError when it does not fit on it.
        """
        right, bottom = width - left - self.width, height - top - self.height
        if min(left, top, right, bottom) < 0:
            raise InputError.about(
                "pad",
                f"a canvas that holds {self.width} x {self.height} pixels from ({left}, {top}) on",
                f"{width} x {height}",
                "make it larger",
            )
        image = Image.new("RGB", (width, height), fill)
        image.paste(self.image, (left, top))
        return self._moved(
            image,
            lambda x, y: (x + left, y + top),
            lambda mask: np.pad(mask, ((top, bottom), (left, right))),
            cut_first=True,
        )

    def flip_horizontal(self) -> Frame:
        """Left and right exchanged."""
        return self._moved(
            self.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            lambda x, y: (self.width - x, y),
            lambda mask: mask[:, ::-1],
        )

    def _moved(
        self,
        image: Image.Image,
        move_point: MovePoint,
        move_mask: MoveMask,
        scale: float = 1.0,
        drop_outside: bool = False,
        cut_first: bool = False,
    ) -> Frame:
        regions = {}
        for number, region in self.regions.items():
            if cut_first:
                region = self._cut(region)
            try:
                moved = self._move_region(region, move_point, move_mask, scale)
                moved.check_inside(image.height, image.width)
            except InputError as error:
                if drop_outside:
                    continue
                raise InputError(f"<region{number}>: {error}") from error
            regions[number] = moved
        return Frame(image, regions)

    def _move_region(
        self, region: Region, move_point: MovePoint, move_mask: MoveMask, scale: float
    ) -> Region:
        if isinstance(region, Box):
            (x1, y1), (x2, y2) = move_point(region.x1, region.y1), move_point(region.x2, region.y2)
            return Box(min(x1, x2), y1, max(x1, x2), y2)
        if isinstance(region, Polygon):
            return Polygon([[move_point(x, y) for x, y in ring] for ring in region.rings])
        if isinstance(region, Scribble):
            strokes = [[move_point(x, y) for x, y in stroke] for stroke in region.points]
            return Scribble(strokes, region.width * scale)
        if isinstance(region, Point):
            x, y = move_point(region.x, region.y)
            return Point(x, y, region.radius_in(self.height, self.width) * scale)
        moved = np.ascontiguousarray(move_mask(region.to_mask(self.height, self.width)))
        return RLE.from_mask(moved) if isinstance(region, RLE) else Mask(moved)

    def _cut(self, region: Region) -> Region:
        """Padding shows what lay outside the picture: cut a region that sticks out before it moves."""
        if isinstance(region, Box):
            return region.bounds(self.height, self.width)
        if isinstance(region, Polygon):
            corners, reach = [point for ring in region.rings for point in ring], 0.0
        elif isinstance(region, Scribble):
            corners, reach = [point for stroke in region.points for point in stroke], region.width / 2
        elif isinstance(region, Point):
            corners, reach = [(region.x, region.y)], region.radius_in(self.height, self.width)
        else:
            return region
        sticks_out = any(
            min(x, y) < reach or x > self.width - reach or y > self.height - reach for x, y in corners
        )
        return Mask(region.to_mask(self.height, self.width)) if sticks_out else region


def check_numbered(number: int, region: Region, height: int, width: int) -> None:
    """`region.check_inside`, with the region's number at the head of the message."""
    try:
        region.check_inside(height, width)
    except InputError as error:
        raise InputError(f"<region{number}>: {error}") from error

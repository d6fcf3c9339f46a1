"""A picture's size: the picture is the truth, what a file says of it a claim.

Annotation files carry width and height, and their boxes count in pixels of that frame. It may be another one
than the upright picture's: some programs overlook the turn that a camera noted in EXIF, some annotate a
smaller copy. `place` says how geometry of the claimed frame lies on the upright picture, or refuses the
claim. Whether turned pictures were annotated upright cannot be told from one record; `Turns` gathers what all
of a file's records show.

Sizes are (height, width); points are pixels, x right, y down.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Mask, Polygon
from rgpt.regions.encoded import check_parts, read_file, without_large_text
from rgpt.regions.image import known_formats

Size = tuple[int, int]
ANOTHER_SIZE = "size is not the picture's"
MOVED = "picture turned by EXIF, its regions moved upright"
ALREADY = "picture turned by EXIF, its regions upright already"
SCALED = "regions scaled to the picture's size"
UNTOLD = "picture turned by EXIF to the same sides, its regions taken as upright"

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class PictureHeader:
    """What a picture's header says: its size as stored, and the EXIF orientation (1 to 8) that turns it."""

    stored: Size
    orientation: int = 1

    @property
    def sideways(self) -> bool:
        return self.orientation in _SIDEWAYS

    @property
    def upright(self) -> Size:
        """The size of the picture as `rgpt.regions.open_image` gives it."""
        return (self.stored[1], self.stored[0]) if self.sideways else self.stored


def read_header(path: Path | str) -> PictureHeader | None:
    """The header without decoding a pixel; None when there is no readable picture."""
    try:
        if not Path(path).is_file():  # a pipe would be waited for, a device has no end
            return None
        return _header(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass
    try:  # as `open_image` does: texts too long for Pillow are no reason to give the pixels up
        return _header(io.BytesIO(without_large_text(check_parts("picture", read_file(path, "picture")))))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _header(source: Path | str | io.BytesIO) -> PictureHeader:
    with Image.open(source, formats=known_formats()) as image:
        width, height = image.size
        orientation = image.getexif().get(_ORIENTATION, 1)
        if image.format == "TIFF" and orientation in _SIDEWAYS:
            width, height = height, width  # Pillow exchanges a TIFF's sides when it reads the header
    return PictureHeader((height, width), orientation if orientation in range(1, 9) else 1)


def upright_size(path: Path | str) -> Size | None:
    """(height, width) of the upright picture; None when there is no readable picture."""
    header = read_header(path)
    return header.upright if header else None


def claimed_size(height: Any, width: Any) -> Size | None:
    """A file's height and width, as 100, 100.0 or "100"; None where they are missing or no size."""
    sides = _side(height), _side(width)
    return (sides[0], sides[1]) if sides[0] and sides[1] else None


def _side(value: Any) -> int:
    try:
        number = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return int(number) if math.isfinite(number) and number >= 1 and number == int(number) else 0


@dataclass(frozen=True)
class Placement:
    """How geometry of a `frame` lies on the upright picture of `size`.

    Args:
        orientation: of EXIF, still to be carried out on the geometry.
        note: what was found out about the claim, worth counting; "" where it holds.
    """

    size: Size
    frame: Size
    orientation: int = 1
    note: str = ""

    @property
    def unchanged(self) -> bool:
        return self.size == self.frame and self.orientation == 1

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the frame lies on the upright picture."""
        height, width = self.size if self.orientation not in _SIDEWAYS else self.size[::-1]
        x, y = x * width / self.frame[1], y * height / self.frame[0]
        if self.orientation in (2, 3, 7, 8):
            x = width - x
        if self.orientation in (3, 4, 6, 7):
            y = height - y
        return (y, x) if self.orientation in _SIDEWAYS else (x, y)

    def box(self, x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
        """Corners of a box (pixels, in order) on the upright picture."""
        if self.unchanged:
            return x1, y1, x2, y2
        (ax, ay), (bx, by) = self.point(x1, y1), self.point(x2, y2)
        return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A bool mask `[H, W]` of the frame's size as one of the picture's; scaled by nearest pixel."""
        turned = {
            1: mask, 2: mask[:, ::-1], 3: mask[::-1, ::-1], 4: mask[::-1],
            5: mask.T, 6: mask[::-1].T, 7: mask[::-1, ::-1].T, 8: mask[:, ::-1].T,
        }[self.orientation]  # fmt: skip
        rows, columns = (
            ((np.arange(after) + 0.5) * before / after).astype(np.int64)
            for after, before in zip(self.size, turned.shape, strict=True)
        )
        return np.ascontiguousarray(turned[np.ix_(rows, columns)])

    def region(self, region: Box | Polygon | RLE) -> Box | Polygon | RLE:
        """A region of the frame on the upright picture.

        Raises InputError: a mask of another size than the frame's, or one that scaling left without a pixel.
        """
        if self.unchanged:
            return region
        if isinstance(region, Box):
            return Box(*self.box(*region.xyxy))
        if isinstance(region, Polygon):
            return Polygon([[self.point(x, y) for x, y in ring] for ring in region.rings])
        return Mask(self.mask(region.to_mask(*self.frame))).to_rle()


@dataclass(frozen=True)
class Decision:
    """Whether a file's regions on EXIF-turned pictures lie as stored: on `sideways` ones, whose sides are
    exchanged, and on `others`, turned by 180° or mirrored, of which sizes say nothing."""

    sideways: bool = False
    others: bool = False


class Turns:
    """What the records of one file show about EXIF-turned pictures."""

    def __init__(self) -> None:
        self._claims = {"stored": 0, "upright": 0}
        self._only: dict[str, str] = {}

    def see(
        self,
        name: str,
        header: PictureHeader,
        claim: Size | None,
        reach: Iterable[tuple[float, float]] = (),
        masks: Iterable[Size] = (),
    ) -> None:
        """Take one picture into account.

        Args:
            name: of the picture, for messages.
            claim: the file's (height, width) of it, or None.
            reach: the largest (x, y) of each region, in the frame that is claimed.
            masks: sizes of run-length masks.
        """
        if not header.sideways or header.stored == header.upright:
            return
        frame = header.stored if claim is None else claim
        if claim is not None:
            stored = _follows(claim, header) == "stored"
            self._claims["stored" if stored else "upright"] += 1
            if not stored:
                return
        for x, y in reach:
            self._witness(name, fits(x, y, frame), fits(y, x, frame))
        for size in masks:
            self._witness(name, size == frame, size == frame[::-1])

    def _witness(self, name: str, in_stored: bool, in_upright: bool) -> None:
        if in_stored != in_upright:
            self._only.setdefault("stored" if in_stored else "upright", name)

    def decide(self) -> Decision:
        """One answer for the whole file. Raises InputError when some regions only fit the stored pictures and
        others only the upright ones."""
        if len(self._only) == 2:
            raise InputError.about(
                "regions on pictures that EXIF turns",
                "all of them as stored or all upright",
                f"those of {self._only['stored']!r} as stored and those of {self._only['upright']!r} upright",
                "split the file, or save the pictures upright and annotate them anew",
            )
        if self._only:
            sideways = "stored" in self._only
        else:
            sideways = self._claims["stored"] > 0
        return Decision(sideways, sideways and not self._claims["upright"])


def place(
    header: PictureHeader, claim: Size | None, decision: Decision = Decision(), name: str = ""
) -> Placement:
    """How regions of the claimed frame lie on the upright picture.

    Args:
        claim: the file's (height, width), or None: the regions' frame is the picture's.
        decision: of the file's `Turns`.
        name: of the picture, for the message.

    Raises:
        InputError: the claim is neither the picture's size nor a scaled copy's.
    """
    upright, stored = header.upright, header.stored
    if header.sideways and upright != stored:
        if claim is None:
            return _turned(header, stored) if decision.sideways else Placement(upright, upright)
        if _follows(claim, header) == "stored":
            if decision.sideways:
                return _turned(header, claim)
            return Placement(upright, claim[::-1], note=ALREADY)
    elif header.orientation != 1 and (claim is None or _same_aspect(claim, upright)):
        if decision.others:
            return _turned(header, claim or stored)
        return Placement(upright, claim or upright, note=UNTOLD)
    if claim is None or claim == upright:
        return Placement(upright, upright)
    if _same_aspect(claim, upright):
        return Placement(upright, claim, note=SCALED)
    raise InputError.about(
        f"picture {name!r}",
        f"the size that the file claims, {claim[1]} x {claim[0]}",
        f"{upright[1]} x {upright[0]} pixels",
        "give the picture that was annotated",
    )


def _turned(header: PictureHeader, frame: Size) -> Placement:
    return Placement(header.upright, frame, header.orientation, MOVED)


def _follows(claim: Size, header: PictureHeader) -> str:
    """Which size of a sideways picture a claim means: "upright", "stored" or "" for neither."""
    for same in (tuple.__eq__, _same_aspect):
        for which, size in (("upright", header.upright), ("stored", header.stored)):
            if same(claim, size):
                return which
    return ""


def _same_aspect(one: Size, two: Size) -> bool:
    """Whether two sizes are of one picture, scaled: sides are rounded to whole pixels."""
    return abs(one[1] * two[0] - one[0] * two[1]) <= max(*one, *two)


def fits(x: float, y: float, frame: Size) -> bool:
    """Whether a point lies in a frame; regions drawn up to the border may reach over it by a hair."""
    slack = max(2.0, 0.01 * max(frame))
    return x <= frame[1] + slack and y <= frame[0] + slack

"""Claimed sizes against pictures: EXIF turns, scaled copies, other pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from rgpt.errors import InputError
from rgpt.formats.size_claims import (
    ALREADY,
    MOVED,
    SCALED,
    UNTOLD,
    Decision,
    PictureHeader,
    Placement,
    Turns,
    claimed_size,
    place,
    read_header,
    upright_size,
)
from rgpt.regions import RLE, Box, Polygon, open_image

TURNED = PictureHeader((100, 200), 6)
"""Stored 200 wide and 100 high, upright 100 wide and 200 high."""


def saved(path: Path, array: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_geometry_turns_as_the_pixels_do(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((20, 30), dtype=np.uint8)
    stored[3:8, 4:14] = 255
    path = saved(tmp_path / "a.png", stored, orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path))) > 0
    header = read_header(path)
    assert header == PictureHeader((20, 30), orientation) and header.upright == upright.shape
    placement = Placement(header.upright, header.stored, orientation)
    assert np.array_equal(placement.mask(stored > 0), upright)
    ring = Polygon([(4, 3), (14, 3), (14, 8), (4, 8)])
    for region in (Box(4, 3, 14, 8), ring, RLE.from_mask(stored > 0)):
        assert np.array_equal(placement.region(region).to_mask(*upright.shape), upright)
    for ending in ("jpg", "tif", "webp"):
        other = saved(tmp_path / f"a.{ending}", stored, orientation)
        assert upright_size(other) == upright.shape == open_image(other).size[::-1]


def test_a_smaller_copy_was_annotated() -> None:
    placement = place(PictureHeader((160, 200)), (80, 100))
    assert placement.note == SCALED and placement.box(10, 20, 40, 60) == (20, 40, 80, 120)
    small = np.zeros((80, 100), dtype=bool)
    small[20:60, 10:40] = True
    moved = placement.region(RLE.from_mask(small)).to_mask(160, 200)
    assert moved.sum() == 4 * small.sum() and moved[40:120, 20:80].all()
    assert place(PictureHeader((479, 640)), (480, 640)).note == SCALED  # a side rounded otherwise


@pytest.mark.parametrize("claim", [(100, 80), (80, 110), (10, 14), (200, 200)])
def test_another_picture_is_refused(claim: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"claims, {claim[1]} x {claim[0]}, got 100 x 80 pixels"):
        place(PictureHeader((80, 100)), claim)
    if claim == (100, 80):  # exchanged sides are no proof of a turn where EXIF knows of none
        assert place(PictureHeader((80, 100), 6), claim).unchanged


@pytest.mark.parametrize(
    ("reach", "box", "note"),
    [
        ([(60, 180)], (20, 150, 60, 180), ALREADY),  # below the stored frame
        ([(60, 60)], (40, 20, 70, 60), MOVED),  # either could be: the file says stored
        ([(180, 60)], (40, 20, 70, 60), MOVED),
        ([(60, 60), (60, 180)], (20, 30, 60, 60), ALREADY),
    ],
)
def test_turned_pictures_are_decided_once_a_file(reach: list, box: tuple, note: str) -> None:
    turns = Turns()
    for n, point in enumerate(reach):
        turns.see(f"{n}.jpg", TURNED, (100, 200), [point])
    placement = place(TURNED, (100, 200), turns.decide())
    given = (20, 150, 60, 180) if note == ALREADY and len(reach) == 1 else (20, 30, 60, 60)
    assert placement.box(*given) == box and placement.note == note and placement.size == (200, 100)


def test_both_at_once_are_refused() -> None:
    turns = Turns()
    turns.see("a.jpg", TURNED, (100, 200), [(180, 60)])
    turns.see("b.jpg", TURNED, (100, 200), masks=[(200, 100)])
    with pytest.raises(InputError, match=r"those of 'a.jpg' as stored and those of 'b.jpg' upright"):
        turns.decide()


def test_a_turn_that_sizes_do_not_tell_follows_the_others() -> None:
    upside_down, square = PictureHeader((100, 200), 3), PictureHeader((50, 50), 8)
    turns = Turns()
    assert turns.decide() == Decision(False, False)
    assert place(upside_down, (100, 200), turns.decide()).note == UNTOLD
    turns.see("a.jpg", TURNED, (100, 200), [(20, 20)])
    assert place(upside_down, (100, 200), turns.decide()).box(10, 20, 40, 60) == (160, 40, 190, 80)
    assert place(square, (50, 50), turns.decide()).box(0, 10, 5, 20) == (10, 45, 20, 50)
    turns.see("b.jpg", TURNED, (200, 100), [(20, 20)])  # another program's, which knew of the turn
    assert turns.decide() == Decision(True, False)


def test_without_a_claim_the_regions_tell() -> None:
    turns = Turns()
    turns.see("a.jpg", TURNED, None, [(50, 50)])
    assert place(TURNED, None, turns.decide()).unchanged
    turns.see("b.jpg", TURNED, None, [(180, 50)])
    assert place(TURNED, None, turns.decide()).note == MOVED


def test_a_turned_picture_in_a_smaller_copy() -> None:
    assert place(TURNED, (50, 100), Decision(True)).box(10, 15, 30, 30) == (40, 20, 70, 60)
    assert place(TURNED, (100, 50), Decision(True)).box(10, 15, 30, 30) == (20, 30, 60, 60)
    assert place(TURNED, (50, 100), Decision(False)).box(10, 75, 30, 90) == (20, 150, 60, 180)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (80, 100, (80, 100)),
        (80.0, "100", (80, 100)),
        ("80.0", " 100 ", (80, 100)),
        (None, 100, None),
        (0, 100, None),
        (-80, 100, None),
        (80.5, 100, None),
        (True, True, None),
        ("a", 100, None),
        (float("nan"), float("inf"), None),
        ([80], 100, None),
        (10**400, 100, None),
    ],
)
def test_a_size_by_any_spelling(height: object, width: object, size: tuple | None) -> None:
    assert claimed_size(height, width) == size


def test_a_png_with_long_texts_has_a_size(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("prompt", "a" * 3_000_000, zip=True)
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png", pnginfo=texts)
    assert upright_size(tmp_path / "a.png") == (20, 30)

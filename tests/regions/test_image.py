"""Any picture a person may have becomes upright RGB; anything else becomes one sentence."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from rgpt.errors import InputError
from rgpt.regions import open_image

RED = (220, 30, 40)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def two_halves() -> Image.Image:
    """Left red, right blue; 8 x 4."""
    image = Image.new("RGB", (8, 4), RED)
    image.paste((20, 30, 200), (4, 0, 8, 4))
    return image


def header_only_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def near(image: Image.Image, xy: tuple[int, int], color: tuple[int, int, int], tolerance: int = 4) -> bool:
    return bool(np.abs(np.subtract(image.getpixel(xy), color)).max() <= tolerance)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_common_formats(kind):
    image = open_image(encoded(Image.new("RGB", (16, 16), RED), kind))
    assert image.mode == "RGB" and image.size == (16, 16) and near(image, (8, 8), RED, 8)


def test_grey_palette_bilevel_and_cmyk():
    assert open_image(encoded(Image.new("L", (4, 4), 77))).getpixel((0, 0)) == (77, 77, 77)
    assert open_image(encoded(Image.new("1", (4, 4), 1))).getpixel((0, 0)) == (255, 255, 255)
    palette = two_halves().convert("P", palette=Image.Palette.ADAPTIVE)
    assert near(open_image(encoded(palette)), (0, 0), RED)
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for kind in ("JPEG", "TIFF"):
        assert near(open_image(encoded(cmyk, kind)), (8, 8), (255, 0, 0), 12), kind


@pytest.mark.parametrize("value, expected", [(0, 0), (257 * 128, 128), (65535, 255), (300, 1)])
def test_sixteen_bit_grey_keeps_its_range(value, expected):
    image = Image.fromarray(np.full((4, 4), value, np.uint16))
    for kind in ("PNG", "TIFF"):
        assert open_image(encoded(image, kind)).getpixel((0, 0)) == (expected,) * 3


def test_float_and_32_bit_pictures():
    half = Image.fromarray(np.full((4, 4), 0.5, np.float32))
    assert open_image(half).getpixel((0, 0)) == (128,) * 3
    broken = Image.fromarray(np.full((4, 4), np.nan, np.float32))
    assert open_image(broken).getpixel((0, 0)) == (0,) * 3
    wide = Image.fromarray(np.array([[0, 2**20]], np.int32))
    assert [open_image(wide).getpixel((x, 0))[0] for x in (0, 1)] == [0, 255]


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (4, 4), (*RED, 0))
    assert open_image(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(encoded(Image.new("LA", (4, 4), (0, 128)))).getpixel((0, 0)) == (127, 127, 127)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([*RED, 0, 0, 0])
    assert open_image(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(encoded(Image.new("RGB", (4, 4), RED), transparency=RED)).getpixel((0, 0)) == (255,) * 3


@pytest.mark.parametrize("orientation", range(2, 9))
def test_every_exif_orientation_is_undone_once(orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]
    stored = two_halves()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)
    upright = open_image(data)
    assert np.array_equal(np.asarray(upright), np.asarray(stored.transpose(undo)))
    assert np.array_equal(np.asarray(open_image(upright)), np.asarray(upright))
    assert np.array_equal(np.asarray(open_image(Image.open(io.BytesIO(data)))), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_no_reason_to_refuse():
    data = encoded(two_halves(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert open_image(data).size == (8, 4)


def test_paths_bytes_and_pil_images_agree_and_the_source_is_left_alone(tmp_path):
    path = tmp_path / "a picture.png"
    path.write_bytes(encoded(two_halves()))
    source = two_halves()
    for given in (path, str(path), path.read_bytes(), source):
        result = open_image(given)
        assert np.array_equal(np.asarray(result), np.asarray(source))
    result.putpixel((0, 0), (0, 0, 0))
    assert source.getpixel((0, 0)) == RED


def with_chunk(data: bytes, kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    """A PNG with one more chunk behind its header and another before its end."""
    check = zlib.crc32(kind + content) if crc is None else crc
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
    return data[:33] + chunk + data[33:-12] + chunk + data[-12:]


@pytest.mark.parametrize(
    ("kind", "content", "crc"),
    [
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 2_000_000), None),
        (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000), None),
        (b"tEXt", b"Comment\0" + b"x" * 40_000_000, None),  # twice: more than all texts may have
        (b"iCCP", b"profile\0\0" + zlib.compress(b"x" * 2_000_000), None),
        (b"tEXt", b"Comment\0x", 7),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 9), 7),
    ],
)
def test_what_a_png_says_beside_its_pixels_does_not_lose_them(kind, content, crc):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = open_image(with_chunk(encoded(two_halves(), exif=exif), kind, content, crc))
    assert upright.size == (4, 8) and near(upright, (0, 0), RED) and not near(upright, (0, 7), RED)


def test_damaged_pixels_are_damaged_beside_any_text():
    data = with_chunk(encoded(noise(64)), b"iCCP", b"p\0\0" + zlib.compress(b"x" * 2_000_000))
    with pytest.raises(InputError, match="breaks off"):
        open_image(data[: len(data) // 2])


def test_a_tiff_is_turned_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("raw", "tiff_lzw"):
        data = encoded(two_halves(), "TIFF", exif=exif, compression=kind)
        for source in (data, Image.open(io.BytesIO(data))):
            upright = open_image(source)
            assert upright.size == (4, 8) and near(upright, (0, 0), RED)


def noise(size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "an empty file"),
        (b"just some words", "data in no such format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "data in no such format"),
        (encoded(noise(64))[:2000], "breaks off"),
        (encoded(noise(64), "JPEG")[:1500], "breaks off"),
        (encoded(noise(64), "WEBP")[:1500], "expected a"),
        (header_only_png(30_000, 30_000), "at most 100000000 pixels, got 900000000"),
        (header_only_png(12_000, 9_000), "at most 100000000 pixels, got 12000 x 9000"),
        (header_only_png(100, 100), "breaks off"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_whole_picture_is_refused(data, words, tmp_path):
    path = tmp_path / "it.png"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        for source in (data, path):
            with pytest.raises(InputError, match=words) as caught:
                open_image(source)
            assert "\n" not in str(caught.value)
        assert "it.png" in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "source, words",
    [
        ("/nowhere/cat.png", "picture '/nowhere/cat.png': expected an existing file"),
        (".", "got Is a directory"),
        ("a\0b", "readable"),
        ("x" * 5000, "readable"),
        (None, "got NoneType"),
        (Image.new("RGB", (0, 5)), "whole numbers of at least 1, got 5 by 0"),
    ],
)
def test_what_cannot_be_read_is_refused(source, words):
    with pytest.raises(InputError, match=words) as caught:
        open_image(source)
    assert len(str(caught.value)) < 400


def test_the_limit_can_be_set():
    with pytest.raises(InputError, match="at most 31 pixels, got 8 x 4 = 32"):
        open_image(two_halves(), max_pixels=31)
    assert open_image(two_halves(), max_pixels=32).size == (8, 4)

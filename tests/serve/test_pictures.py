"""Pictures of a request: read, refused, and alpha as a region."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rgpt.serve.errors import ApiError
from rgpt.serve.pictures import SentPicture, open_sent, read_data_url
from rgpt.serve.settings import Settings
from tests.serve.fakes import data_url, encoded


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says it is `width` x `height` and would inflate without end."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def opened(data: bytes, alpha: bool = False, **settings: int) -> tuple[Image.Image, object]:
    return open_sent(SentPicture.of(data, alpha, "p"), Settings(**settings))


def test_a_data_url_gives_its_bytes() -> None:
    assert read_data_url(data_url(b"abc"), "p", Settings()) == b"abc"


@pytest.mark.parametrize(
    "url",
    [
        "DATA:image/jpeg;charset=x;BASE64,YWI/Pg==",
        "data:;base64,YWI/Pg==",
        "data:image/*;base64,YWI/Pg==",
        "data:application/octet-stream;base64,YWI/Pg==",  # a Blob without a type, in a browser
        'data:image/png;charset="utf-8";name=a b.png;base64,YWI/Pg==',
        "data:image/png; base64 ,YWI/Pg==",
        " \ndata:image/png;base64,YWI/Pg==\n",
        "data:image/png;base64,YWI/\r\nPg==\r\n",  # wrapped as in MIME
        "data:image/png;base64,YWI/%0APg%3D%3D",
        "data:image/png;base64,YWI%2FPg",  # without padding, percent-encoded
        "data:image/png;base64, Y W I / P g = =",
        "data:image/png;base64,YWI/Pg==#top",
        "data:image/png,ab?%3e",  # not base64 at all
    ],
)
def test_every_legal_form_of_a_data_url(url: str) -> None:
    assert read_data_url(url, "p", Settings()) == b"ab?>"


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64",
        "data:base64,YWJj",
        "data:image/png;base64,YW-_",
        "data:image/png;base64,=YWJ",
        "data:image/png," + "A" * 400,
        "data:text/html;base64,YWJj",
        "data:image/svg+xml;base64,YWJj",
        "data:image/png;base64,a",
        "data:image/png;base64,ä",
        "data:image/png;base64," + "A" * 400,
        "data:",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_data_url(url, "p", Settings(max_image_bytes=200))
    assert (caught.value.code, caught.value.param) == ("invalid_image", "p")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(Image.effect_noise((60, 60), 90).convert("RGB"), "JPEG")[:-500],
        encoded(Image.effect_noise((60, 60), 90))[:-2000],
        png_of_size(30_000, 30_000),
        png_of_size(65_000, 65_000),
        encoded(Image.new("RGB", (200, 200))),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    ],
    ids=["empty", "svg", "truncated jpeg", "truncated png", "bomb", "bigger bomb", "too many pixels", "eps"],
)
@pytest.mark.parametrize("alpha", [False, True])
def test_pictures_that_are_refused(data: bytes, alpha: bool) -> None:
    with pytest.raises(ApiError) as caught:
        opened(data, alpha, max_image_pixels=10_000)
    assert (caught.value.code, caught.value.status) == ("invalid_image", 400)


def test_alpha_is_a_region_only_without_regions() -> None:
    pixels = np.full((30, 40, 4), 200, np.uint8)
    pixels[..., 3] = 0
    pixels[5:9, 3:30, 3] = 255
    data = encoded(Image.fromarray(pixels, "RGBA"))
    image, alpha = opened(data, alpha=True)
    assert np.array_equal(alpha.array, pixels[..., 3] > 0)  # type: ignore[attr-defined]
    assert np.asarray(image)[0, 0].tolist() == [200, 200, 200]  # the colours stay outside the region too
    image, alpha = opened(data, alpha=False)
    assert alpha is None and np.asarray(image)[0, 0].tolist() == [255, 255, 255]


def test_alpha_turns_with_the_picture() -> None:
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[:10, :, 3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    import io

    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG", exif=exif)
    image, alpha = opened(buffer.getvalue(), alpha=True)
    assert image.size == (30, 40)
    assert alpha.array[:, 20:].all() and not alpha.array[:, :20].any()  # type: ignore[attr-defined]


def test_alpha_that_marks_nothing_is_refused() -> None:
    with pytest.raises(ApiError, match="marks nothing"):
        opened(encoded(Image.new("RGBA", (5, 5))), alpha=True)


def test_the_same_bytes_have_one_key_for_each_caller() -> None:
    keys = {SentPicture.of(b"x", alpha, "p", who).key for alpha in (False, True) for who in ("", "a", "b")}
    assert len(keys) == 6
    assert SentPicture.of(b"x", False, "p").key == SentPicture.of(b"x", False, "q").key

"""Requests that cost their sender nothing and a careless server much; small files, made here.

Each is the body of a chat completion. `tests/hostile` and `python -m scripts.bench hostile` send them.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import numpy as np
from PIL import Image

from rgpt.regions import RLE

PIXELS = 5000, 5000  # as many as the server takes


def body(picture: bytes, regions: list[Any] | None = None, text: str = "<region1>?", **fields: Any) -> bytes:
    """A question about the first region of a picture."""
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    request = {"model": "rgpt", "messages": [{"role": "user", "content": parts}], "max_tokens": 4, **fields}
    request["regions"] = regions if regions is not None else [{"box": [0, 0, 1, 1]}]
    return json.dumps(request).encode()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 1, colour: int = 0, more: bytes = b"") -> bytes:
    """A PNG of zeros; `more` are chunks behind its header."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    packer = zlib.compressobj(9)
    row, packed = bytes(1 + (width * bits + 7) // 8), []
    for _ in range(height):
        packed.append(packer.compress(row))
    data = b"".join(packed) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def jpeg_of_scans(count: int, **options: Any) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = saved(Image.new("L", PIXELS, 77), "JPEG", progressive=True, **options)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def gif_of_comments(size: int, block: int = 255) -> bytes:
    data = saved(Image.new("P", (8, 8)), "GIF")
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    blocks = bytes([block]) + b"x" * block
    return data[:at] + b"!\xfe" + blocks * (size // len(blocks)) + b"\0" + data[at:]


def zigzag(corners: int, width: float, height: float) -> list[list[float]]:
    """Across the whole picture and back with every corner, crossing itself."""
    return [[width * (n % 2), height * n / corners] for n in range(corners)]


def small_chunks(kind: bytes, count: int) -> bytes:
    return chunk(kind, b"") * count


def tiff_of_tags(count: int, size: int) -> bytes:
    """Every tag points at the same bytes."""
    entries = b"".join(struct.pack("<HHII", 1000 + n, 1, size, 8) for n in range(count))
    head = struct.pack("<2sHI", b"II", 42, 8 + size)
    return head + bytes(size) + struct.pack("<H", count) + entries + bytes(4)


def large(**options: Any) -> bytes:
    return png(*PIXELS, **options)


def _noise_rle() -> dict[str, Any]:
    mask = np.random.default_rng(0).random((500, 1600)) > 0.5
    return RLE.from_mask(mask).to_json()


def _frames(kind: str, count: int) -> bytes:
    first, *rest = (Image.new("RGB", (64, 64), (n % 256, n // 256, 0)) for n in range(count))
    return saved(first, kind, save_all=True, append_images=rest, duration=10)


THIN = 25_000_000
ATTACKS: dict[str, Callable[[], bytes]] = {
    "16 corners on 25,000,000 x 1": lambda: body(png(THIN, 1), [{"polygon": zigzag(16, THIN, 1)}]),
    "16 corners on 1 x 12,000,000": lambda: body(png(1, 12_000_000), [{"polygon": zigzag(16, 1, 12e6)}]),
    "4,000 corners across": lambda: body(large(), [{"polygon": zigzag(4000, *PIXELS)}]),
    "64 polygons across": lambda: body(large(), [{"polygon": zigzag(300, *PIXELS)}] * 64),
    "a polygon of 6,600 rings": lambda: body(
        large(), [{"polygon": [[[n % 5000, 0], [n % 5000 + 1, 0], [n % 5000, 60]] for n in range(6600)]}]
    ),
    "64 boxes on 25 megapixels": lambda: body(
        large(),
        [{"box": [n, n, 5000, 5000]} for n in range(64)],
        " ".join(f"<region{n}>" for n in range(1, 65)),
    ),
    "64 points on 25 megapixels": lambda: body(large(), [{"point": [n * 70, 9]} for n in range(64)]),
    "a box of huge numbers": lambda: body(large(), [{"box": [-1e308, -1e308, 1e308, 1e308]}]),
    "a polygon of huge numbers": lambda: body(large(), [{"polygon": zigzag(2000, 1e308, 1e308)}]),
    "a polygon outside": lambda: body(large(), [{"polygon": [[-9e9, 1], [-1, 9e9], [-9e9, 9e9]] * 2000}]),
    "a mask of a million runs": lambda: body(png(1600, 500), [_noise_rle()]),
    "32 masks of many runs": lambda: body(png(1600, 500), [_noise_rle()] * 32, "<region1> <region2>?"),
    "a mask of huge runs": lambda: body(png(8, 8), [{"mask": {"size": [8, 8], "counts": [0, 2**62, 2**62]}}]),
    "a JPEG of a thousand scans": lambda: body(jpeg_of_scans(1000)),
    "a JPEG of a thousand scans with restarts": lambda: body(jpeg_of_scans(1000, restart_marker_rows=1)),
    "a JPEG of 49 scans": lambda: body(jpeg_of_scans(40)),
    "a JPEG of comments": lambda: body(b"\xff\xd8" + b"\xff\xfe\0\2" * 2_000_000 + jpeg_of_scans(1)[2:]),
    "a GIF of comments": lambda: body(gif_of_comments(8_000_000)),
    "a GIF of tiny comments": lambda: body(gif_of_comments(8_000_000, 1)),
    "a GIF of 2,000 frames": lambda: body(_frames("GIF", 2000)),
    "a WebP of 500 frames": lambda: body(_frames("WEBP", 500)),
    "an APNG of 500 frames": lambda: body(_frames("PNG", 500)),
    "a PNG of empty chunks": lambda: body(png(8, 8, more=small_chunks(b"abCd", 1_000_000))),
    "a PNG of empty pixel chunks": lambda: body(png(8, 8, more=small_chunks(b"IDAT", 1_000_000))),
    "a PNG with a text of a gigabyte": lambda: body(
        png(8, 8, more=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**30))))
    ),
    "a PNG with a profile of a gigabyte": lambda: body(
        png(8, 8, more=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**30))))
    ),
    "25 megapixels of 16 bits and alpha": lambda: body(large(depth=16, colour=6)),
    "25 megapixels of 16-bit grey": lambda: body(large(depth=16)),
    "25 megapixels as WebP": lambda: body(saved(Image.new("RGB", PIXELS), "WEBP", method=0)),
    "25 megapixels as TIFF": lambda: body(
        saved(Image.new("RGB", PIXELS), "TIFF", compression="tiff_adobe_deflate")
    ),
    "25 megapixels as plain text": lambda: body(b"P3 5000 5000 255\n" + b"1 " * 9_000_000),
    "a TIFF of 60,000 large tags": lambda: body(tiff_of_tags(60_000, 10_000_000)),
    "a PNG of 900 megapixels": lambda: body(png(30_000, 30_000)),
    "an icon": lambda: body(saved(Image.new("RGB", (256, 256)), "ICO")),
    "JSON in JSON": lambda: b'{"model":"rgpt","messages":' + b'[{"content":' * 200_000,
    "deep lists": lambda: body(png(8, 8), [{"polygon": json.loads("[" * 900 + "]" * 900)}]),
    "a number of a million digits": lambda: b'{"model":"rgpt","seed":' + b"9" * 1_000_000 + b"}",
    "fields nobody reads": lambda: body(png(8, 8), user="u" * 20_000_000, metadata={"a": "b" * 9_000_000}),
    "30 MiB around a small picture": lambda: body(
        png(8, 8, more=chunk(b"tEXt", b"a\0" + b"x" * (15 * 2**20))), user="u" * (8 * 2**20)
    ),
    "a scribble of a million points": lambda: body(
        png(8, 8), [{"scribble": {"points": list(islice(cycle([[0, 0], [8, 8]]), 100_000)), "width": 8}}]
    ),
}

"""Regions as a person types them and as JSON carries them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Point, Polygon, Scribble, mask_from_image, parse_region, region_from_json

EYE = np.eye(6, dtype=bool)


@pytest.mark.parametrize(
    "text, region",
    [
        ("box:60,150,260,330", Box(60, 150, 260, 330)),
        (" BOX: 1.5, 2 ,3,4", Box(1.5, 2, 3, 4)),
        ("polygon:0,0,9,0,9,9", Polygon([(0, 0), (9, 0), (9, 9)])),
        ("point:3,4", Point(3, 4)),
        ("point:3,4,5", Point(3, 4, 5)),
    ],
)
def test_typed_regions(text, region):
    assert parse_region(text) == region


@pytest.mark.parametrize(
    "save",
    [
        lambda path: Image.fromarray(EYE).save(path),
        lambda path: Image.fromarray(EYE.astype(np.uint8) * 255).save(path),
        lambda path: Image.fromarray(EYE.astype(np.uint8)).save(path),
        lambda path: Image.fromarray(EYE.astype(np.uint16) * 3).save(path),
        lambda path: Image.fromarray(EYE.astype(np.uint8) * 255).convert("RGB").save(path),
        lambda path: Image.fromarray(np.dstack([EYE * 0] * 3 + [EYE * 255]).astype(np.uint8)).save(path),
        lambda path: Image.fromarray(np.dstack([EYE * 255] * 3 + [EYE * 0 + 255]).astype(np.uint8)).save(
            path
        ),
        lambda path: labelled().save(path),
    ],
    ids=["bilevel", "0-255", "0-1", "16 bit", "RGB", "alpha", "opaque RGBA", "palette"],
)
def test_mask_files(save, tmp_path):
    path = tmp_path / "m.png"
    save(path)
    assert np.array_equal(parse_region(f"mask:{path}").array, EYE)


def labelled() -> Image.Image:
    image = Image.fromarray(EYE.astype(np.uint8) * 2).convert("P")
    image.putpalette([0, 0, 0, 9, 9, 9, 1, 1, 1])
    image.putdata((EYE.astype(np.uint8) * 2).ravel().tolist())
    return image


def test_noise_around_black_is_not_marked():
    noisy = np.where(EYE, 250, 6).astype(np.uint8)
    assert np.array_equal(mask_from_image(Image.fromarray(noisy)).array, EYE)


@pytest.mark.parametrize("wrapped", [True, False])
def test_rle_files(wrapped, tmp_path):
    path = tmp_path / "m.json"
    content = RLE.from_mask(EYE).to_json()
    path.write_text(json.dumps(content if wrapped else content["mask"]))
    assert np.array_equal(parse_region(f"rle:{path}").to_mask(6, 6), EYE)


@pytest.mark.parametrize(
    "text, words",
    [
        ("60,150,260,330", "region '60,150,260,330'"),
        ("circle:1,2,3", "box:x1,y1,x2,y2"),
        ("box", "box:x1,y1,x2,y2"),
        ("box:1,2,3", "box: expected 4 numbers, got 3"),
        ("box:1,2,3,x", "numbers with commas between them, got 'x'"),
        ("box:1,2,3,", "got ''"),
        ("box:nan,2,3,4", "finite number"),
        ("box:5,2,3,4", "x1 < x2"),
        ("polygon:1,2,3,4", "at least 3 points, got 2"),
        ("polygon:1,2,3,4,5", "an even count of numbers, got 5"),
        ("point:1", "2 or 3 numbers"),
        ("mask:/nowhere/m.png", "an existing file"),
        ("rle:/nowhere/m.json", "an existing file"),
        ("mask:", "directory"),
    ],
)
def test_mistyped_regions(text, words):
    with pytest.raises(InputError, match=words):
        parse_region(text)


@pytest.mark.parametrize("content", ["", "not json", "[1]", '{"size": [2, 2]}', "[" * 100_000])
def test_broken_rle_files(content, tmp_path):
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"RLE file .*m\.json"):
        parse_region(f"rle:{path}")


def test_an_empty_mask_file_is_refused(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match="an empty mask"):
        parse_region(f"mask:{tmp_path / 'm.png'}")


@pytest.mark.parametrize(
    "value, region",
    [
        ({"box": [1, 2, 3, 4]}, Box(1, 2, 3, 4)),
        ({"polygon": [[0, 0], [9, 0], [9, 9]]}, Polygon([(0, 0), (9, 0), (9, 9)])),
        ({"point": [3, 4]}, Point(3, 4)),
        ({"scribble": {"points": [[1, 1], [5, 5]], "width": 3}}, Scribble([(1, 1), (5, 5)], 3)),
        ({"mask": {"size": [2, 3], "counts": [1, 5]}}, RLE((2, 3), [1, 5])),
    ],
)
def test_json_regions(value, region):
    assert region_from_json(value) == region
    assert region.to_json() == value


@pytest.mark.parametrize(
    "value, words",
    [
        ({}, "exactly one of box, polygon"),
        ([1, 2, 3, 4], "got list"),
        (None, "got NoneType"),
        ({"bbox": [1, 2, 3, 4]}, "bbox"),
        ({"box": [1, 2, 3, 4], "point": [1, 2]}, "exactly one"),
        ({"box": [1, 2, 3, 4], "label": "cat"}, "label"),
        ({"box": [1, 2, 3]}, "4 numbers, got 3"),
        ({"box": {"x1": 1}}, "4 numbers, got dict"),
        ({"box": "1234"}, "got str"),
        ({"box": [1, 2, None, 4]}, "got None"),
        ({"point": [1]}, "2 or 3 numbers"),
        ({"polygon": [[1, 2], [3, 4]]}, "at least 3 points"),
        ({"polygon": {"x": 1}}, "polygon"),
        ({"polygon": 5}, "a list of"),
        ({"scribble": [[1, 2]]}, "exactly points and width, got list"),
        ({"scribble": {"points": [[1, 2]]}}, "exactly points and width"),
        ({"scribble": {"points": [[1, 2]], "width": 2, "color": 1}}, "color"),
        ({"mask": {"size": [2, 3], "counts": [1, 5], "x": 1}}, "exactly size and counts"),
        ({"mask": {"size": [100000, 100000], "counts": "0"}}, "at most 100000000 pixels"),
        ({"mask": {"size": None, "counts": "0"}}, "size as"),
    ],
)
def test_json_that_is_no_region(value, words):
    with pytest.raises(InputError, match=words):
        region_from_json(value)


@pytest.mark.parametrize(
    "points", [[{"x": 1}, {}, {}], [{"x": 1, "y": 2}] * 3, [[1, 1], {"x": 1, "y": 2}, [3, 3]]]
)
def test_points_written_as_objects_are_refused(points):
    with pytest.raises(InputError, match="point"):
        region_from_json({"polygon": points})

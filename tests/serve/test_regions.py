"""Regions of a request: what each becomes, and where the error says it is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgpt.regions import RLE, Box, Point, Polygon, Region
from rgpt.serve.errors import ApiError
from rgpt.serve.protocol import RegionParam, parse_request
from rgpt.serve.regions import build_regions, check_region_params
from rgpt.serve.settings import Settings

HEIGHT, WIDTH = 30, 40
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[5:9, 3:30] = True
COUNTS = RLE.from_mask(MASK).counts


def build(*regions: dict[str, Any], settings: Settings | None = None) -> dict[int, Region]:
    params = [RegionParam.model_validate(region) for region in regions]
    numbers = check_region_params(params, settings or Settings(), picture=True)
    return build_regions(params, numbers, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"box": [1, 2, 30, 20.5]}, Box(1, 2, 30, 20.5)),
        ({"box": [0.1, 0.5, 0.5, 1], "normalized": True}, Box(4, 15, 20, 30)),
        ({"point": [0.5, 0.2], "normalized": True}, Point(20, 6)),
        ({"polygon": [[1, 1], [9, 1], [5, 9]]}, Polygon([(1, 1), (9, 1), (5, 9)])),
        ({"polygon": [[0, 0], [1, 0], [1, 1]], "normalized": True}, Polygon([(0, 0), (40, 0), (40, 30)])),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": COUNTS}}, RLE((HEIGHT, WIDTH), COUNTS)),
    ],
)
def test_kinds(given: dict[str, Any], expected: Region) -> None:
    assert build(given) == {1: expected}


def test_numbers_come_from_ids_or_from_the_position() -> None:
    box = [1, 1, 5, 5]
    assert list(build({"id": "region7", "box": box}, {"box": box}, {"id": "region1", "box": box})) == [
        7,
        2,
        1,
    ]


@pytest.mark.parametrize(
    ("given", "code", "param"),
    [
        ({"box": [40, 0, 50, 10]}, "region_out_of_bounds", "regions[0].box"),
        ({"point": [-1, 3]}, "region_out_of_bounds", "regions[0].point"),
        ({"point": [1.5, 0.5], "normalized": True}, "region_out_of_bounds", "regions[0].point"),
        ({"polygon": [[50, 1], [59, 1], [55, 9]]}, "region_out_of_bounds", "regions[0].polygon"),
        ({"box": [5, 5, 5, 9]}, "invalid_region", "regions[0].box"),
        ({"box": [1e308, 0, 1.5e308, 9], "normalized": True}, "invalid_region", "regions[0].box"),
        ({"polygon": [[1, 1], [2, 2]]}, "invalid_region", "regions[0].polygon"),
        ({"polygon": []}, "invalid_region", "regions[0].polygon"),
        ({"polygon": [[1, 1], [2, "3"], [4, 4]]}, "invalid_region", "regions[0].polygon"),
        ({"polygon": [{"x": 1}, {}, {}]}, "invalid_region", "regions[0].polygon"),
        ({"polygon": [[[[1]]]]}, "invalid_region", "regions[0].polygon"),
        ({"polygon": [[1, 10**400], [2, 3], [4, 4]]}, "invalid_region", "regions[0].polygon"),
        ({"mask": {"size": [WIDTH, HEIGHT], "counts": COUNTS}}, "mask_size_mismatch", "regions[0].mask"),
        ({"mask": {"size": [100000, 100000], "counts": "0"}}, "mask_size_mismatch", "regions[0].mask"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": "x!"}}, "invalid_rle", "regions[0].mask"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": ""}}, "invalid_rle", "regions[0].mask"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": [5, 5]}}, "invalid_rle", "regions[0].mask"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": [5, 10**40]}}, "invalid_rle", "regions[0].mask"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": [None, "x"]}}, "invalid_rle", "regions[0].mask"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": 5}}, "invalid_rle", "regions[0].mask.counts"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": [[1], [2]]}}, "invalid_rle", "regions[0].mask"),
        ({"box": [1, 1, 5, 5], "image": 1}, "unknown_image", "regions[0].image"),
    ],
)
def test_refused(given: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        build(given)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize(
    ("regions", "code"),
    [
        ([{"box": [1, 1, 5, 5]}] * 3, "too_many_regions"),
        ([{"box": [1, 1, 5, 5]}, {"id": "region1", "box": [1, 1, 5, 5]}], "duplicate_region"),
        ([{"polygon": [[1, 1]] * 11}], "invalid_region"),
        ([{"polygon": [[[1, 1]] * 21]}], "invalid_region"),
        ([{"mask": {"size": [HEIGHT, WIDTH], "counts": "0" * 101}}], "invalid_rle"),
    ],
)
def test_caps(regions: list[dict[str, Any]], code: str) -> None:
    with pytest.raises(ApiError) as caught:
        build(*regions, settings=Settings(max_regions=2, max_points=10, max_rle_length=100))
    assert caught.value.code == code


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["size", "counts"]), inner),
    max_leaves=12,
)


@given(st.sampled_from(["box", "mask", "polygon", "point"]), JUNK, st.booleans())
def test_whatever_a_region_holds_is_a_region_or_a_4xx(kind: str, value: Any, normalized: bool) -> None:
    import json

    request = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    request["regions"] = [{kind: value, "normalized": normalized}]
    try:
        params = parse_request(json.dumps(request).encode()).regions or []
        numbers = check_region_params(params, Settings(), picture=True)
        regions = build_regions(params, numbers, HEIGHT, WIDTH)
    except ApiError as error:
        assert error.status == 400 and error.message
    else:
        assert regions[1].to_mask(HEIGHT, WIDTH).any()

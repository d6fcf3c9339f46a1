"""Generated requests: from the OpenAPI schema, and good requests with one value made bad. Never a 5xx."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rgpt.regions import RLE, Box
from tests.serve.conftest import Process
from tests.serve.fakes import PICTURE, data_url, messages

CHAT, MANY = "/v1/chat/completions", "/v1/regions"
COUNTS = RLE.from_mask(Box(3, 4, 20, 20).to_mask(30, 40)).counts
GOOD = {
    "model": "rgpt",
    "messages": [
        *messages("What is <region1>?"),
        {"role": "assistant", "content": "A shape."},
        {"role": "user", "content": "And <region2>, <region3>, <region4>?"},
    ],
    "regions": [
        {"id": "region1", "image": 0, "box": [1, 2, 20, 20]},
        {"id": "region2", "mask": {"size": [30, 40], "counts": COUNTS}},
        {"id": "region3", "polygon": [[5, 5], [16, 6], [9, 15]]},
        {"id": "region4", "point": [0.8, 0.16], "normalized": True},
    ],
    "max_tokens": 4,
    "temperature": 0.5,
    "stop": ["."],
    "stream": False,
}
NUMBERS = st.sampled_from(
    [0, -1, 1, 0.5, 39.999, 40, 1e9, -1e9, 1e308, -0.0, 2**31, 2**63, 10**30, float("nan")]
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["box", "<region1>"]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(["box", "mask", "size", "counts", "type", "text"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside of a JSON value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


REGION_PLACES = places(GOOD["regions"], ("regions",))
ALL_PLACES = places(GOOD)


@st.composite
def spoiled(draw: Any) -> dict[str, Any]:
    """The good request with one to three values replaced, mostly in its regions."""
    request = json.loads(json.dumps(GOOD))
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(
            st.sampled_from(draw(st.sampled_from([REGION_PLACES, REGION_PLACES, ALL_PLACES])))
        )
        holder = request
        try:
            for key in parents:
                holder = holder[key]
            holder[last]
        except (KeyError, IndexError, TypeError):
            continue  # replaced before
        if isinstance(holder, str):
            continue
        if isinstance(holder, dict) and draw(st.booleans()) and draw(st.booleans()):
            holder[str(draw(st.sampled_from(["bbox", "polygon", "box", "extra"])))] = draw(JUNK)
        else:
            holder[last] = draw(JUNK)
    return request


def check(status: int, answer: bytes) -> None:
    """200 or an error in the OpenAI shape that is the client's."""
    assert status < 500, answer
    if status != 200:
        error = json.loads(answer)["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]


def fuzz_regions(url: str, count: int) -> dict[int, int]:
    """Send spoiled requests; how often each status came."""
    statuses: dict[int, int] = {}
    with httpx.Client(timeout=60) as client:

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(spoiled())
        def send(request: dict[str, Any]) -> None:
            content = json.dumps(request).encode("utf-8", "surrogatepass")
            response = client.post(url + CHAT, content=content, headers={"Content-Type": "application/json"})
            check(response.status_code, response.content)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1

        send()
    return statuses


def fuzz_schema(url: str, count: int) -> int:
    """Send what schemathesis makes of the OpenAPI schema, to every operation; how many requests that were."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    sent = [0]
    for operation in operations:
        share = count if operation.path in (CHAT, MANY) else max(5, count // 20)

        @settings(
            max_examples=share,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            response = case.call(timeout=60)
            assert response.status_code < 500, response.content
            sent[0] += 1

        send()
    assert {operation.path for operation in operations} >= {CHAT, MANY, "/v1/models", "/health", "/metrics"}
    return sent[0]


def test_the_good_request_is_good(tiny_server: Process) -> None:
    assert httpx.post(tiny_server.url + CHAT, json=GOOD, timeout=60).status_code == 200


def test_spoiled_regions(tiny_server: Process) -> None:
    statuses = fuzz_regions(tiny_server.url, 100)
    assert statuses.get(400, 0) > 20  # the requests do spoil something


def test_what_the_schema_allows(tiny_server: Process) -> None:
    assert fuzz_schema(tiny_server.url, 50) >= 50


@pytest.mark.slow
def test_two_thousand_requests(tiny_server: Process) -> None:
    statuses = fuzz_regions(tiny_server.url, 1400)
    sent = sum(statuses.values()) + fuzz_schema(tiny_server.url, 700)
    print(f"{sent} requests, of the spoiled ones by status: {statuses}")
    assert sent >= 2000


def test_an_image_of_the_schema_is_an_image(tiny_server: Process) -> None:
    """Every documented field is taken: the schema and the parser are the same model."""
    schema = httpx.get(f"{tiny_server.url}/openapi.json").json()
    fields = schema["components"]["schemas"]["ChatRequest"]["properties"]
    assert set(GOOD) <= set(fields)
    region = schema["components"]["schemas"]["RegionParam"]["properties"]
    assert set(region) == {"id", "image", "box", "mask", "rle", "polygon", "point", "points", "normalized"}
    assert data_url(PICTURE).startswith("data:image/png")

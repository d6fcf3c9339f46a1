"""What clients send besides the question: every field of OpenAI's API at rest, odd URLs, pages."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.chat import completion_create_params as published

from rgpt.commands.serve import build_parser
from rgpt.errors import InputError
from rgpt.serve.protocol import ChatRequest
from tests.serve.fakes import BOX, PICTURE, FakeLog, body, data_url
from tests.serve.test_behaviour import CHAT, code, content, post

Start = Callable[..., str]

NEUTRAL: dict[str, list[Any]] = {
    "n": [1],
    "logprobs": [False],
    "top_logprobs": [0],
    "frequency_penalty": [0, 0.0, -0.0],
    "presence_penalty": [0],
    "logit_bias": [{}],
    "response_format": [{"type": "text"}],
    "modalities": [["text"]],
    "verbosity": ["medium"],
    "reasoning_effort": ["none"],
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "parallel_tool_calls": [True, False],
    "user": ["somebody"],
    "safety_identifier": ["a hash"],
    "metadata": [{}, {"run": "7"}],
    "store": [True, False],
    "service_tier": ["auto", "default"],
    "prompt_cache_key": ["k"],
    "prompt_cache_retention": ["24h"],
    "prompt_cache_options": [{}, {"mode": "implicit"}],
    "stream_options": [{}, {"include_usage": False}, {"include_usage": None, "include_obfuscation": None}],
    "stop": [[], "", ["never said"]],
    "seed": [-(2**63), -1, 0, 2**63 - 1],
    "top_p": [1, 1.0],
    "temperature": [0, 0.0],
    "stream": [False],
    "max_tokens": [512],
    "max_completion_tokens": [512],
    "audio": [],
    "prediction": [],
    "web_search_options": [],
    "moderation": [],
}
"""By field, what asks for nothing besides null; of those that ask for something, what the test's answer is
not changed by."""

ASKS_FOR_MORE = {
    "frequency_penalty": 0.5,
    "presence_penalty": -1,
    "logit_bias": {"50256": -100},
    "modalities": ["text", "audio"],
    "verbosity": "low",
    "reasoning_effort": "high",
    "tools": [{"type": "function", "function": {"name": "look"}}],
    "tool_choice": "required",
    "functions": [{"name": "look"}],
    "function_call": {"name": "look"},
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "moderation": {"model": "omni-moderation-latest"},
}


def test_every_field_of_the_published_api_is_known_here() -> None:
    """The official client's types are OpenAI's own list; a field that is new to them fails here first."""
    kinds = (published.CompletionCreateParamsNonStreaming, published.CompletionCreateParamsStreaming)
    listed = {name for kind in kinds for name in typing.get_type_hints(kind)}
    assert listed <= set(ChatRequest.model_fields)
    assert listed - {"model", "messages"} == set(NEUTRAL)


@pytest.fixture
def url(fake_server: Start) -> str:
    return fake_server(FakeLog())


def test_what_asks_for_nothing_changes_nothing(url: str) -> None:
    answer = content(post(url))
    for name, values in NEUTRAL.items():
        for value in (*values, None):
            response = httpx.post(url + CHAT, json={**body(), name: value})
            assert response.status_code == 200 and content(response) == answer, (name, value, response.text)


@pytest.mark.parametrize(("name", "value"), ASKS_FOR_MORE.items())
def test_what_asks_for_more_is_refused_by_name(url: str, name: str, value: Any) -> None:
    response = post(url, **{name: value})
    assert code(response) == (400, "invalid_value", name)
    message = response.json()["error"]["message"]
    assert message.startswith(f"{name}: expected null") and "\n" not in message


def test_fields_of_messages(url: str) -> None:
    """A client that sends back the message objects it was given sends all of their fields."""
    rest = {"name": None, "refusal": None, "audio": None, "function_call": None, "tool_calls": None}
    picture = {"type": "image_url", "image_url": {"url": data_url(PICTURE), "detail": None}}
    question = {"type": "text", "text": "a <region1>?"}

    def asked(**answered: Any) -> httpx.Response:
        answer = {"role": "assistant", "content": "x", "annotations": [], **rest, **answered}
        first = {"role": "user", "name": "eve", "content": [picture, question]}
        history = [first, answer, {"role": "user", "content": "b <region1>?"}]
        return httpx.post(url + CHAT, json={**body(), "messages": history})

    for fields in (
        {},
        {"tool_calls": []},
        {"content": None, "refusal": "I would rather not."},
        {"content": [{"type": "refusal", "refusal": "No."}]},
    ):
        assert content(asked(**fields)) == "You asked: b <region1>?"
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    assert code(asked(content=None, tool_calls=[call])) == (400, "invalid_value", "messages[1].tool_calls")
    assert code(asked(audio={"id": "a"})) == (400, "invalid_value", "messages[1].audio")


def test_the_official_client_and_langchains_body(url: str) -> None:
    client = OpenAI(base_url=f"{url}/v1/", api_key="any", max_retries=0)
    first = client.chat.completions.create(model="rgpt", messages=body("hi")["messages"], seed=-1)
    history = [
        *body("hi")["messages"],
        first.choices[0].message.model_dump(),
        {"role": "user", "content": "more"},
    ]
    more = client.chat.completions.create(model="rgpt", messages=history, tool_choice="auto")
    assert more.choices[0].message.content == "You asked: more"
    lang = {"model": "rgpt", "stream": False, "n": 1, "temperature": 0.7, "max_completion_tokens": 64}
    lang["messages"] = [{"content": "Be brief.", "role": "system"}, {"content": "hi", "role": "user"}]
    assert content(httpx.post(url + CHAT, json=lang)) == "You asked: Be brief.\nhi"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake", "/health", "/metrics", "/openapi.json"])
def test_head_and_a_slash_at_the_end(url: str, path: str) -> None:
    plain = httpx.get(url + path)
    assert plain.status_code == 200
    for method in ("GET", "HEAD"):
        for slash in ("", "/"):
            response = httpx.request(method, url + path + slash)
            assert response.status_code == 200, (method, slash)
            assert response.headers["content-type"] == plain.headers["content-type"]
            assert bool(response.content) == (method == "GET")
    assert httpx.head(url + "/v1/models/none").status_code == 404
    assert httpx.head(url + "/nowhere/").status_code == 404


def test_a_slash_after_the_posts_path(url: str) -> None:
    assert content(httpx.post(url + CHAT + "/", json=body())) == "You asked: What is <region1>?"
    assert code(httpx.get(url + CHAT + "/"))[:2] == (405, "method_not_allowed")


PREFLIGHT = {
    "Origin": "https://pages.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    "Access-Control-Request-Private-Network": "true",
}


def test_pages_of_other_origins_may_ask_where_they_were_allowed(fake_server: Start) -> None:
    closed = fake_server(FakeLog())
    assert httpx.options(closed + CHAT, headers=PREFLIGHT).status_code == 405
    assert "access-control-allow-origin" not in httpx.get(closed + "/health", headers=PREFLIGHT).headers
    url = fake_server(FakeLog(), api_keys=("k",), origins=("https://pages.example",))
    preflight = httpx.options(url + CHAT, headers=PREFLIGHT)
    assert preflight.status_code == 200
    allowed = preflight.headers
    assert allowed["access-control-allow-origin"] == "https://pages.example"
    assert "POST" in allowed["access-control-allow-methods"]
    assert allowed["access-control-allow-private-network"] == "true"
    assert {"authorization", "x-stainless-lang"} <= {
        *allowed["access-control-allow-headers"].replace(" ", "").split(",")
    }
    for key, status in (("k", 200), ("wrong", 401)):  # a page must be able to read the refusal too
        headers = {"Origin": "https://pages.example", "Authorization": f"Bearer {key}"}
        response = httpx.post(url + CHAT, json=body(), headers=headers)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == "https://pages.example"
    refused = httpx.options(url + CHAT, headers={**PREFLIGHT, "Origin": "https://other.example"})
    assert refused.status_code == 400 and "access-control-allow-origin" not in refused.headers


def test_the_option_for_origins() -> None:
    given = ["--allow-origin", "https://A.example/", "--allow-origin", "http://localhost:3000"]
    assert build_parser().parse_args(given).allow_origin == ["https://a.example", "http://localhost:3000"]
    assert build_parser().parse_args(["--allow-origin", "*"]).allow_origin == ["*"]
    for wrong in ("pages.example", "https://a.example/path", ""):
        with pytest.raises(InputError, match="--allow-origin"):
            build_parser().parse_args(["--allow-origin", wrong])


# ------------------------------------------------------------------------------------------- generated bodies

FIELDS = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from([None, *values]) for name, values in NEUTRAL.items()}
)
URLS = st.sampled_from(
    [
        data_url(PICTURE),
        data_url(PICTURE).rstrip("="),
        data_url(PICTURE).replace("+", "%2B").replace("=", "%3D"),
        data_url(PICTURE, "image/*"),
        data_url(PICTURE)[:60] + "\r\n" + data_url(PICTURE)[60:],
    ]
)
DAMAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "url", "text", "role"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def holders(value: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [pair for key, inner in items for pair in ((value, key), *holders(inner))]


@st.composite
def legal(draw: Any) -> dict[str, Any]:
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": draw(URLS)}}]}
    message["content"].append({"type": "text", "text": "What is <region1>?"})
    message |= draw(st.fixed_dictionaries({}, optional={"name": st.sampled_from([None, "eve"])}))
    return {"model": "rgpt", "messages": [message], "regions": [BOX], **draw(FIELDS)}


def test_generated_bodies(url: str) -> None:
    """The same answer whatever is at rest; one damage gives the same answer or one sentence, never a 500."""
    many = {"deadline": None, "database": None, "derandomize": True}
    send = httpx.Client(timeout=20)
    post = lambda request: send.post(  # noqa: E731
        url + CHAT,
        content=json.dumps(request).encode("utf-8", "surrogatepass"),
        headers={"Content-Type": "application/json"},
    )
    seen: dict[int, int] = {}

    @settings(max_examples=100, suppress_health_check=list(HealthCheck), **many)  # type: ignore[arg-type]
    @given(legal())
    def same(request: dict[str, Any]) -> None:
        assert content(post(request)) == "You asked: What is <region1>?"

    @settings(max_examples=200, suppress_health_check=list(HealthCheck), **many)  # type: ignore[arg-type]
    @given(legal(), st.data())
    def damaged(request: dict[str, Any], data: Any) -> None:
        request = json.loads(json.dumps(request))  # the values drawn are shared by all examples
        holder, key = data.draw(st.sampled_from(holders(request)))
        holder[key] = data.draw(DAMAGE)
        response = post(request)
        seen[response.status_code] = seen.get(response.status_code, 0) + 1
        if response.status_code != 200:
            error = response.json()["error"]
            assert 400 <= response.status_code < 500 and set(error) == {"message", "type", "param", "code"}
            assert error["message"].strip() and "\n" not in error["message"]

    with send:
        same()
        damaged()
    assert seen[400] > 60, seen

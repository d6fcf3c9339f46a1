"""The server around scripted sessions: queue, limits, streams, what is kept, who may ask."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.serve.fakes import BOX, PICTURE, FakeLog, body, data_url, endless

Start = Callable[..., str]
CHAT = "/v1/chat/completions"


def post(url: str, timeout: float = 20, **fields: Any) -> httpx.Response:
    return httpx.post(url + CHAT, json=body(**fields), timeout=timeout)


def content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def code(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return response.status_code, error["code"], error["param"]


@contextlib.contextmanager
def streaming(url: str, **fields: Any) -> Iterator[Iterator[Any]]:
    """The chunks of a streamed answer as they come; `[DONE]` as None."""
    with httpx.stream("POST", url + CHAT, json=body(stream=True, **fields), timeout=20) as response:
        assert response.status_code == 200, response.read()
        lines = (line.removeprefix("data: ") for line in response.iter_lines() if line)
        yield (None if line == "[DONE]" else json.loads(line) for line in lines)


def eventually(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Wait for a state; fail when it does not come."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


def test_usage_is_the_answers_own_even_if_its_session_is_in_other_hands(
    fake_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another request may take a session the moment it is given back, before this one has been answered."""
    monkeypatch.setattr("rgpt.serve.sessions.Sessions.give", lambda self, key, session: session.turns.clear())
    response = post(fake_server(FakeLog()), text="a <region1>?")
    assert content(response) == "You asked: a <region1>?"
    assert response.json()["usage"]["completion_tokens"] == 3


def test_a_plain_answer(fake_server: Start) -> None:
    log = FakeLog()
    response = post(fake_server(log), text="a <region1>?", temperature=0.5, top_p=0.9, seed=7)
    assert content(response) == "You asked: a <region1>?"
    answer = response.json()
    assert answer["object"] == "chat.completion" and answer["model"] == "fake"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 3
    _, _, regions, options = log.asked[0]
    assert list(regions) == [1] and options == {"temperature": 0.5, "top_p": 0.9, "seed": 7}


def test_the_chunks_of_a_stream(fake_server: Start) -> None:
    with streaming(fake_server(FakeLog()), stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert chunks.pop() is None
    usage = chunks.pop()
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 3
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1
    first, *pieces, last = [chunk["choices"][0] for chunk in chunks]
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert [piece["delta"]["content"] for piece in pieces] == ["You", " asked:", " What is <region1>?"]
    assert last["delta"] == {} and last["finish_reason"] == "stop"
    assert all(piece["finish_reason"] is None for piece in pieces)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_that_is_cut_off(fake_server: Start, field: str) -> None:
    response = post(fake_server(FakeLog(endless)), **{field: 3})
    assert content(response) == "word word word"
    assert response.json()["choices"][0]["finish_reason"] == "length"


def test_a_stop_string_ends_an_endless_answer(fake_server: Start) -> None:
    log = FakeLog(lambda session, question: (f"{i} " for i in range(10**9)))
    response = post(fake_server(log), stop=[" 5", "7"], max_tokens=10**6)
    assert content(response) == "0 1 2 3 4"
    assert response.json()["choices"][0]["finish_reason"] == "stop"
    assert log.closed.is_set()


def test_a_client_that_leaves_ends_the_computation(fake_server: Start) -> None:
    log = FakeLog(endless, pause=0.005)
    url = fake_server(log, max_running=1)
    with streaming(url, max_tokens=10**6) as stream:
        for _ in range(3):
            next(stream)
        assert not log.closed.is_set()
    assert log.closed.wait(10)
    log.closed.clear()
    with pytest.raises(httpx.ReadTimeout):
        post(url, timeout=0.3, max_tokens=10**6)  # not streamed: nothing was sent yet
    assert log.closed.wait(10)
    log.words = FakeLog().words
    assert content(post(url)).startswith("You asked")  # the only slot is free again


def test_a_client_that_leaves_the_line_is_never_computed(fake_server: Start) -> None:
    log = FakeLog(endless, pause=0.005)
    url = fake_server(log, max_running=1)
    with streaming(url, max_tokens=10**6) as stream:
        next(stream)
        with pytest.raises(httpx.ReadTimeout):
            post(url, timeout=0.3, text="never asked <region1>")
        eventually(lambda: fake_server.service.slots.waiting == 0)  # type: ignore[attr-defined]
    eventually(lambda: fake_server.service.slots.running == 0)  # type: ignore[attr-defined]
    assert [question for question, *_ in log.asked] == ["What is <region1>?"]


def test_a_full_line_is_429_with_retry_after(fake_server: Start) -> None:
    log = FakeLog(endless, pause=0.005)
    url = fake_server(log, max_running=1, max_waiting=1)
    with ThreadPoolExecutor(1) as pool:
        with streaming(url, max_tokens=10**6) as stream:
            next(stream)
            waiting = pool.submit(post, url, max_tokens=2)
            eventually(lambda: fake_server.service.slots.waiting == 1)  # type: ignore[attr-defined]
            refused = post(url)
            assert code(refused) == (429, "queue_full", None)
            assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert content(waiting.result(timeout=10)) == "word word"


def test_answers_take_turns(fake_server: Start) -> None:
    """A short answer does not wait for the end of a long one."""
    url = fake_server(FakeLog(endless, pause=0.005), max_running=2)
    with streaming(url, max_tokens=10**6) as stream:
        next(stream)
        assert content(post(url, max_tokens=5)) == "word word word word word"
        next(stream)


def test_the_time_limit(fake_server: Start) -> None:
    log = FakeLog(endless, pause=0.01)
    url = fake_server(log, time_limit=0.4, max_running=1)
    assert code(post(url, max_tokens=10**6)) == (408, "time_limit_exceeded", None)
    assert log.closed.wait(10)
    with streaming(url, max_tokens=10**6) as stream:
        assert code(post(url)) == (408, "time_limit_exceeded", None)  # its time was up while it waited
        chunks = list(stream)
    assert chunks[-1]["error"]["code"] == "time_limit_exceeded"
    assert None not in chunks  # an answer that broke off is not [DONE]


def test_a_failure_of_the_model_is_told_and_survived(fake_server: Start) -> None:
    def failing(session: Any, question: str) -> Iterator[str]:
        yield "a "
        raise ZeroDivisionError("secret")

    log = FakeLog(failing)
    url = fake_server(log)
    response = post(url)
    assert code(response) == (500, "internal_error", None) and "secret" not in response.text
    with streaming(url) as stream:
        assert list(stream)[-1]["error"]["code"] == "internal_error"
    log.words = FakeLog().words
    assert content(post(url))


def test_a_second_turn_encodes_nothing_and_continues_the_same_session(fake_server: Start) -> None:
    log = FakeLog()
    url = fake_server(log)
    first = content(post(url))
    history = [
        *body()["messages"],
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And <region2>?"},
    ]
    regions = [BOX, {"id": "region2", "point": [5, 5]}]
    response = httpx.post(url + CHAT, json={"model": "rgpt", "messages": history, "regions": regions})
    assert content(response) == "You asked: And <region2>?"
    assert log.encoded == 1
    assert log.asked[-1][1] == ["What is <region1>?"]
    assert list(log.asked[-1][2]) == [2]  # only what this question mentions


def test_turns_may_have_regions_of_their_own(fake_server: Start) -> None:
    """A region redrawn under its number: the earlier turn keeps what it was asked with."""
    log = FakeLog()
    url = fake_server(log)
    first = body(text="<region1>?")["messages"][0]
    drawn, redrawn = BOX, {"id": "region1", "point": [5, 5]}
    answer = content(httpx.post(url + CHAT, json=body(text="<region1>?")))
    messages = [
        first | {"regions": [drawn]},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "<region1>!"},
    ]
    for own in (drawn, redrawn):
        messages[0]["regions"] = [own]
        request = {"model": "rgpt", "messages": messages, "regions": [redrawn]}
        assert content(httpx.post(url + CHAT, json=request)) == "You asked: <region1>!"
        session = fake_server.service.sessions._resting[-1][1]  # type: ignore[attr-defined]
        kinds = [next(iter(turn.regions[1].to_json())) for turn in session.turns]
        assert kinds == [next(kind for kind in own if kind != "id"), "point"]
    for wrong, expected in (
        ([{"box": [50, 0, 60, 9]}], ("region_out_of_bounds", "messages[0].regions[0].box")),
        ([drawn, drawn], ("duplicate_region", "messages[0].regions[1].id")),
        ([{"bbox": [5, 0, 6, 9]}], ("unknown_parameter", "messages[0].regions[0].bbox")),
        ([{"id": f"region{i}", "point": [5, 5]} for i in range(2, 66)], ("too_many_regions", None)),
    ):
        messages[0]["regions"] = wrong
        refused = httpx.post(url + CHAT, json={"model": "rgpt", "messages": messages, "regions": [redrawn]})
        assert code(refused)[:2] == (400, expected[0]) and expected[1] in (code(refused)[2], None)


def test_two_conversations_about_one_picture_do_not_mix(fake_server: Start) -> None:
    log = FakeLog(endless, pause=0.002)
    url = fake_server(log)
    with (
        streaming(url, text="a <region1>", max_tokens=10**6) as one,
        streaming(url, text="b", max_tokens=10**6) as two,
    ):
        next(one), next(two)
    assert sorted(question for question, *_ in log.asked) == ["a <region1>", "b"]
    assert all(history == [] for _, history, *_ in log.asked)


def test_pictures_are_dropped_when_there_are_too_many(fake_server: Start) -> None:
    log = FakeLog()
    url = fake_server(log, kept_pictures=2)
    urls = [data_url(PICTURE.resize((40, 30 + i))) for i in range(3)]
    for picture in [*urls, urls[2], urls[0]]:
        content(post(url, picture=picture))
    assert log.encoded == 4


def test_without_a_picture_text_is_answered(fake_server: Start) -> None:
    log = FakeLog()
    request = {"model": "rgpt", "messages": [{"role": "user", "content": "hello"}]}
    url = fake_server(log)
    assert content(httpx.post(url + CHAT, json=request)) == "You asked: hello"
    assert log.encoded == 0
    request["regions"] = [BOX]
    assert code(httpx.post(url + CHAT, json=request)) == (400, "missing_image", "regions")


def test_keys(fake_server: Start) -> None:
    log = FakeLog()
    url = fake_server(log, api_keys=("one", "two"))
    assert code(post(url)) == (401, "invalid_api_key", None)
    for header in ("Bearer three", "Basic one", "Bearer", "one", "Bearer ö"):
        headers = {"Authorization": header.encode()}
        assert httpx.get(url + "/v1/models", headers=headers).status_code == 401
    for key in ("one", "two"):
        response = httpx.post(url + CHAT, json=body(), headers={"Authorization": f"Bearer {key}"})
        assert content(response)
    assert log.encoded == 2  # what is kept for one key is not used for another
    assert httpx.get(url + "/health").status_code == 200
    assert httpx.get(url + "/metrics").status_code == 200


def test_models_health_and_unknown_paths(fake_server: Start) -> None:
    url = fake_server(FakeLog())
    listed = httpx.get(url + "/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["fake", "rgpt"]
    assert httpx.get(url + "/v1/models/fake").json()["id"] == "fake"
    assert code(httpx.get(url + "/v1/models/gpt-4"))[:2] == (404, "model_not_found")
    assert code(post(url, model="gpt-4")) == (404, "model_not_found", "model")
    assert code(httpx.get(url + "/nowhere"))[:2] == (404, "unknown_url")
    assert code(httpx.get(url + CHAT))[:2] == (405, "method_not_allowed")
    assert httpx.get(url + "/health").json()["status"] == "ok"


def test_metrics_count(fake_server: Start) -> None:
    url = fake_server(FakeLog())
    post(url)
    post(url)
    post(url, text="<region9>")
    text = httpx.get(url + "/metrics").text
    for line in (
        'rgpt_requests_total{outcome="stop"} 2.0',
        'rgpt_requests_total{outcome="unknown_region"} 1.0',
        'rgpt_tokens_total{kind="answer"} 6.0',
        'rgpt_pictures_total{cache="hit"} 1.0',
        "rgpt_requests_running 0.0",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"text": "<region9>"}, ("unknown_region", "messages[0].content")),
        ({"regions": [{"box": [50, 0, 60, 9]}]}, ("region_out_of_bounds", "regions[0].box")),
        ({"regions": [{"bbox": [5, 0, 6, 9]}]}, ("unknown_parameter", "regions[0].bbox")),
        ({"picture": "file:///etc/passwd"}, ("invalid_image", "messages[0].content[0].image_url.url")),
        (
            {"picture": "http://127.0.0.1/x.png"},
            ("image_url_not_allowed", "messages[0].content[0].image_url.url"),
        ),
        (
            {"picture": "HTTPS://example.org/x"},
            ("image_url_not_allowed", "messages[0].content[0].image_url.url"),
        ),
        ({"temperature": -1}, ("invalid_value", "temperature")),
        ({"tools": [{}]}, ("invalid_value", "tools")),
        ({"n": 9}, ("invalid_value", "n")),
        ({"stream": "yes"}, ("invalid_type", "stream")),
        ({"region": []}, ("unknown_parameter", "region")),
        ({"regions": None}, ("unknown_region", "messages[0].content")),
    ],
    ids=str,
)
def test_errors_name_the_field(fake_server: Start, fields: dict[str, Any], expected: tuple[str, str]) -> None:
    assert code(post(fake_server(FakeLog()), **fields)) == (400, *expected)


def test_a_body_must_say_that_it_is_json(fake_server: Start) -> None:
    """A page in a browser may send text/plain to this machine without being asked for permission."""
    response = httpx.post(
        fake_server(FakeLog()) + CHAT, content=json.dumps(body()), headers={"Content-Type": "text/plain"}
    )
    assert code(response) == (415, "unsupported_media_type", None)


def test_all_bodies_together_have_a_cap(fake_server: Start) -> None:
    url = fake_server(FakeLog(), max_bodies_bytes=1000)
    response = post(url, text="x" * 2000)
    assert code(response)[:2] == (429, "too_many_bytes")
    assert content(post(url, text="x"))  # what was read is not counted for ever


def test_an_rgba_picture_without_regions_marks_region1(fake_server: Start) -> None:
    log = FakeLog()
    picture = PICTURE.convert("RGBA")
    picture.putalpha(0)
    picture.paste((0, 0, 255, 255), (0, 0, 10, 10))
    url = fake_server(log)
    for _ in range(2):  # the second time from what is kept
        assert content(post(url, picture=data_url(picture), regions=None))
        assert log.asked[-1][2][1].array.sum() == 100
    assert log.encoded == 1


def test_the_page_is_named_not_imported() -> None:
    from rgpt.commands.serve import find_page
    from rgpt.errors import InputError

    assert find_page("json:dumps").mount is json.dumps
    for spec in ("nowhere.at.all:mount", "json:nothing", "json", ":"):
        with pytest.raises(InputError, match="--ui"):
            find_page(spec)


def test_a_page_brings_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    from rgpt.commands.serve import read_arguments
    from rgpt.errors import InputError

    module: Any = ModuleType("a_page")
    module.build = lambda *given, **tools: (given, tools)
    module.add_options = lambda parser: parser.add_argument("--colour")
    module.open_tools = lambda options: {"colour": options.colour}
    monkeypatch.setitem(sys.modules, "a_page", module)
    options, page = read_arguments(["--port", "0", "--ui", "a_page:build", "--colour", "red"])
    assert page is not None and options.port == 0 and options.ui == "a_page:build"
    assert page.mount(1, **page.open_tools(options)) == ((1,), {"colour": "red"})
    with pytest.raises(InputError, match="--colour red; options of the page need --ui"):
        read_arguments(["--colour", "red"])
    with pytest.raises(InputError, match="--shape"):
        read_arguments(["--ui=a_page:build", "--shape", "round"])
    # A page that is a function only has none.
    _, plain = read_arguments(["--ui", "json:dumps"])
    assert plain is not None and plain.open_tools(options) == {}

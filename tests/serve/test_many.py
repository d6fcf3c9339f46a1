"""`POST /v1/regions`: answers as alone, items that fail by themselves, one encoding, one reading."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from rgpt.chat import ChatSession
from rgpt.regions import RLE, Box, Point, Polygon, Region, Scribble
from tests.serve.fakes import BOX, PICTURE, FakeLog, body, data_url, parts
from tests.serve.test_behaviour import CHAT, code, eventually
from tests.serve.test_pictures import png_of_size

Start = Callable[..., str]
MANY = "/v1/regions"
URL = data_url(PICTURE)
RLE_JSON = {"size": [30, 40], "counts": RLE.from_mask(Box(3, 4, 20, 20).to_mask(30, 40)).counts}
GIVEN: list[tuple[dict[str, Any], Region]] = [
    ({"box": [1, 2, 20, 20]}, Box(1, 2, 20, 20)),
    ({"box": [0.5, 0, 1, 0.5], "normalized": True}, Box(20, 0, 40, 15)),
    ({"mask": RLE_JSON}, RLE(**RLE_JSON)),
    ({"rle": RLE_JSON}, RLE(**RLE_JSON)),
    ({"polygon": [[5, 5], [16, 6], [9, 15]]}, Polygon([(5, 5), (16, 6), (9, 15)])),
    ({"point": [30, 20]}, Point(30, 20)),
    ({"points": [[4, 4], [30, 20]]}, Scribble([[(4, 4)], [(30, 20)]], 4)),
]
REGIONS = [given for given, _ in GIVEN]


def request(**fields: Any) -> dict[str, Any]:
    asked = {"model": "rgpt", "image": URL, "regions": REGIONS, "question": "what is <region>?", **fields}
    return asked if asked["mode"] != "generate" else {"max_tokens": 5, **asked}


def ask(url: str, mode: str = "generate", **fields: Any) -> dict[str, Any]:
    response = httpx.post(url + MANY, json=request(mode=mode, **fields), timeout=60)
    assert response.status_code == 200, response.text
    return dict(response.json())


def alone(region: Region) -> ChatSession:
    session = ChatSession(*parts())
    session.set_image(PICTURE)
    session.add_region(region)
    return session


@pytest.fixture
def url(fake_server: Start) -> str:
    return fake_server(FakeLog())


def test_each_answer_is_that_of_the_region_alone(url: str) -> None:
    answer = ask(url, question=["what is <region>?", "a <region1>!"])
    assert answer["object"] == "list" and answer["model"] == "fake"
    data = answer["data"]
    assert [item["index"] for item in data] == list(range(2 * len(GIVEN)))
    for k, (_, region) in enumerate(GIVEN):
        session = alone(region)
        for j, question in enumerate(("what is <region1>?", "a <region1>!")):
            expected = {"answer": session.ask(question, max_new_tokens=5), "finish_reason": "length"}
            assert data[2 * k + j] == {"index": 2 * k + j, "region": k, "question": j, **expected}
            session.reset()
    assert len({item["answer"] for item in data}) > 2, "answers that are all alike would hide a mix-up"


def test_ranked_and_chosen_as_in_a_session(url: str) -> None:
    names = ["cat", "car", "a bus"]
    ranked = ask(url, "rank", choices=names)["data"]
    chosen = ask(url, "choose", question="the red cat")["data"]
    scores = []
    for k, (_, region) in enumerate(GIVEN):
        expected = alone(region).rank("what is <region1>?", names)
        means = {row["answer"]: row["logprob"] / row["tokens"] for row in ranked[k]["ranking"]}
        assert means == pytest.approx(expected, abs=1e-4)
        assert ranked[k]["answer"] == next(iter(means)) == max(means, key=means.__getitem__)
        _, score = alone(region).choose("the red cat")
        scores.append(score[1])
    assert [item["score"] for item in chosen] == pytest.approx(scores, abs=1e-4)
    assert [item["chosen"] for item in chosen] == [score == max(scores) for score in scores]
    assert [item["answer"] for item in chosen] == ["Yes." if score > 0 else "No." for score in scores]


def test_choices_close_the_set_of_answers(url: str) -> None:
    answers = {item["answer"].replace(" ", "") for item in ask(url, choices=["cat", "dog"])["data"]}
    assert answers <= {"cat", "dog"}


BAD: list[tuple[Any, str, str]] = [
    ({"box": [50, 0, 60, 9]}, "region_out_of_bounds", "regions[1].box"),
    ({"bbox": [1, 1, 5, 5]}, "unknown_parameter", "regions[1].bbox"),
    ({"box": [1, 1, 5, 5], "point": [1, 1]}, "invalid_region", "regions[1]"),
    ({"box": "x"}, "invalid_region", "regions[1].box"),
    ({"rle": {"size": [1, 1], "counts": "0"}}, "mask_size_mismatch", "regions[1].rle"),
    ({"mask": {"size": [30, 40], "counts": "no rle"}}, "invalid_rle", "regions[1].mask"),
    ({"mask": {"size": [30, 40], "counts": 5}}, "invalid_rle", "regions[1].mask.counts"),
    ({"polygon": [[1, 1]]}, "invalid_region", "regions[1].polygon"),
    ({"points": []}, "invalid_region", "regions[1].points"),
    (None, "invalid_region", "regions[1]"),
]


def test_a_region_that_is_wrong_spoils_no_other(url: str) -> None:
    fine = ask(url, regions=REGIONS[:2])["data"]
    for bad, expected, param in BAD:
        data = ask(url, regions=[REGIONS[0], bad, REGIONS[1]])["data"]
        error = data[1].pop("error")
        assert (error["code"], error["param"]) == (expected, param) and error["message"], bad
        assert data[1] == {"index": 1, "region": 1, "question": 0}
        assert [data[0]["answer"], data[2]["answer"]] == [item["answer"] for item in fine], bad
    assert [
        item["error"]["code"] for item in ask(url, "choose", question="cat", regions=[BAD[0][0]])["data"]
    ] == [BAD[0][1]]


def test_a_question_too_long_for_the_context_spoils_no_other(
    fake_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = parts()[1]
    monkeypatch.setattr(processor, "max_length", 200)
    data = ask(
        fake_server(FakeLog()), regions=REGIONS[:2], question=["long " * 99 + "<region>", "a <region>"]
    )["data"]
    codes = [item.get("error", {}).get("code") for item in data]
    assert codes == ["context_length_exceeded", None] * 2


def test_encoded_once_and_read_once(fake_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 regions: one run of the tower, one pass over the prefix; of every other row only its own words."""
    model, processor = parts()
    passes: list[int] = []
    forward = model.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        passes.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counting)
    log = FakeLog()
    url = fake_server(log)
    boxes = [{"box": [x, y, x + 4, y + 3]} for x in range(0, 32, 4) for y in range(0, 24, 3)]
    answer = ask(url, regions=boxes, max_tokens=3)
    assert len(answer["data"]) == 64 and log.encoded == 1
    assert sum(length >= processor.image_tokens and length < 100 for length in passes[:1]) == 1
    assert len(passes) == 1 + 2 * 3, "the prefix, then two groups of 32: suffixes and two more tokens"
    usage = answer["usage"]
    read = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    assert read == passes[0] + passes[1] + passes[4], "no token of a prompt was read twice"
    assert usage["completion_tokens"] == 64 * 3
    del passes[:]
    ask(url, regions=boxes[:2], max_tokens=1)
    assert len(passes) == 1 and log.encoded == 1, "the next request finds picture and prefix"


def test_streamed_as_they_finish(fake_server: Start) -> None:
    log = FakeLog()
    url = fake_server(log)
    whole = ask(url, choices=["a", "a bus of cats"], max_tokens=20)
    with httpx.stream(
        "POST",
        url + MANY,
        json=request(stream=True, choices=["a", "a bus of cats"], max_tokens=20, mode="generate"),
        timeout=60,
    ) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    *events, last = map(json.loads, lines)
    items = [item for event in events for item in event["data"]]
    assert sorted(items, key=lambda item: item["index"]) == whole["data"]
    assert last["data"] == [] and last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    lengths = [len(item["answer"]) for item in items]
    assert lengths == sorted(lengths), "short answers come first"
    assert len(events) == len(set(lengths))


def test_regions_are_laid_outside_of_the_models_thread_and_not_kept(
    fake_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, laid = parts()[1], []
    weigh = processor.weigh
    monkeypatch.setattr(processor, "weigh", lambda *given: laid.append(given) or weigh(*given))
    url = fake_server(FakeLog())
    assert all("answer" in item for item in ask(url, question=["a <region>", "what is <region>?"])["data"])
    assert laid == []
    ((_, session),) = fake_server.service.sessions._resting  # type: ignore[attr-defined]
    assert session.laid == {}


def test_regions_are_bounded_together(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgpt.regions.values.MAX_WORK", 60)
    assert "answer" in ask(url, regions=[{"polygon": [[5, 5], [16, 6], [9, 15]]}])["data"][0]
    response = httpx.post(
        url + MANY,
        json=request(mode="generate", regions=[{"polygon": [[5, 5], [16, 6], [9, n]]} for n in range(9, 20)]),
        timeout=60,
    )
    assert code(response) == (400, "invalid_region", "regions")


def test_a_large_body_counts_until_its_answers_are_sent(fake_server: Start) -> None:
    url = fake_server(FakeLog(), max_bodies_bytes=3 * 2**20)
    large = request(mode="generate", image=URL + "%20" * 2**20, max_tokens=10**6, stream=True)
    with httpx.stream("POST", url + MANY, json=large, timeout=60) as first:
        assert first.status_code == 200
        again = httpx.post(url + MANY, json=large, timeout=60)
        assert code(again)[:2] == (429, "too_many_bytes")
    eventually(lambda: httpx.post(url + MANY, json=large | {"max_tokens": 1}).is_success, seconds=20)


def test_a_client_that_leaves_ends_the_computation(fake_server: Start) -> None:
    url = fake_server(FakeLog(), max_running=1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url + MANY, json=request(mode="generate", max_tokens=10**6), timeout=0.5)
    service = fake_server.service  # type: ignore[attr-defined]
    eventually(lambda: service.slots.running == 0, seconds=20)
    assert ask(url)["data"]


def test_others_are_answered_in_between(fake_server: Start) -> None:
    """A chat is answered while many regions are still growing."""
    url = fake_server(FakeLog())
    long = request(stream=True, mode="generate", max_tokens=10**6)
    with httpx.stream("POST", url + MANY, json=long, timeout=60):
        response = httpx.post(url + CHAT, json=body(), timeout=60)
        assert response.status_code == 200
        assert fake_server.service.slots.running == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"question": "what?"}, ("unknown_region", "question")),
        ({"question": ["a <region>", "<region2>?"]}, ("unknown_region", "question[1]")),
        ({"question": ["a <region>", ""]}, ("invalid_value", "question[1]")),
        ({"question": []}, ("invalid_value", "question")),
        ({"regions": []}, ("invalid_value", "regions")),
        ({"regions": [BOX] * 257}, ("too_many_regions", "regions")),
        ({"mode": "rank"}, ("missing_required_parameter", "choices")),
        ({"mode": "choose", "temperature": 1}, ("invalid_value", "temperature")),
        ({"mode": "detect"}, ("invalid_value", "mode")),
        ({"image": "file:///etc/passwd"}, ("invalid_image", "image")),
        ({"image": "https://example.org/x"}, ("image_url_not_allowed", "image")),
        ({"names": ["a"]}, ("unknown_parameter", "names")),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_request_itself(
    url: str, fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    response = httpx.post(url + MANY, json=request(**{"mode": "generate", **fields}), timeout=60)
    assert code(response) == (400, *expected)


HOSTILE: dict[str, tuple[Any, str]] = {
    "a huge mask": ({"rle": {"size": [100_000, 100_000], "counts": "o" * 50}}, "mask_size_mismatch"),
    "a mask of a million runs": ({"mask": {"size": [30, 40], "counts": "0" * 5_000_000}}, "invalid_rle"),
    "many corners": ({"polygon": [[1, 1]] * 150_000}, "invalid_region"),
    "many clicks": ({"points": [[1, 1]] * 5_000}, "invalid_region"),
    "a string": ("box", "invalid_region"),
    "a number too large": ({"box": [0, 0, 10**400, 5]}, "invalid_region"),
    "nested": ({"polygon": [[[[[[1]]]]]]}, "invalid_region"),
    "a great number": ({"id": "region9999999999", "point": [1, 1]}, "invalid_region"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_region_costs_its_item(url: str, name: str) -> None:
    region, expected = HOSTILE[name]
    data = ask(url, regions=[REGIONS[0], region])["data"]
    assert "answer" in data[0] and data[1]["error"]["code"] == expected
    assert len(data[1]["error"]["message"]) < 600


def test_hostile_bodies(url: str) -> None:
    json_type = {"Content-Type": "application/json"}
    for content in (b"", b"[]", b"[" * 10**6, b'{"regions":' + b"[" * 10**6, b"\xff\xfe\x00"):
        response = httpx.post(url + MANY, content=content, headers=json_type, timeout=60)
        assert code(response)[:2] == (400, "invalid_json") or content == b"[]"
    bomb = data_url(png_of_size(40_000, 40_000))
    refused = httpx.post(url + MANY, json=request(mode="generate", image=bomb), timeout=60)
    assert code(refused) == (400, "invalid_image", "image")


def test_null_is_as_good_as_left_out(url: str) -> None:
    rest = dict.fromkeys(("mode", "choices", "stream", "max_tokens", "temperature", "top_p", "seed"))
    asked = {"model": "rgpt", "image": URL, "regions": REGIONS[:1], "question": "a <region>", **rest}
    assert httpx.post(url + MANY, json={**asked, "max_tokens": 2}, timeout=60).is_success


def test_the_official_client_posts_it(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
    answer: Any = client.post("/regions", body=request(mode="generate"), cast_to=object)
    assert [item["answer"] for item in answer["data"]] == [item["answer"] for item in ask(url)["data"]]
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/regions", body=request(mode="rank"), cast_to=object)
    assert caught.value.code == "missing_required_parameter"


def test_keys_are_kept_apart(fake_server: Start) -> None:
    log = FakeLog()
    url = fake_server(log, api_keys=("one", "two"))
    asked = request(mode="choose", question="cat")
    assert httpx.post(url + MANY, json=asked).status_code == 401
    for key in ("one", "two"):
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.post(url + MANY, json=asked, headers=headers, timeout=60).is_success
    assert log.encoded == 2


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(parts()[0].lm_head, "forward", lambda hidden: 1 / 0)
    yield


@pytest.mark.usefixtures("failing")
def test_a_failure_of_the_model_is_told(url: str) -> None:
    response = httpx.post(url + MANY, json=request(mode="generate"), timeout=60)
    assert code(response) == (500, "internal_error", None)

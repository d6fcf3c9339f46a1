"""The official `openai` client against `rgpt serve` with `tiny`; ChatSession knows the right answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from rgpt.chat import ChatSession
from rgpt.data.scenes import DrawnScene, draw_scene
from rgpt.regions import RLE, Mask
from tests.serve.conftest import Process
from tests.serve.fakes import FakeLog, data_url, encoded, endless
from tests.serve.test_behaviour import eventually


@pytest.fixture(scope="module")
def scene() -> DrawnScene:
    return draw_scene(3_000_000_000)


@pytest.fixture(scope="module")
def url(scene: DrawnScene) -> str:
    return data_url(scene.image)


@pytest.fixture(scope="module")
def base() -> ChatSession:
    return ChatSession.from_pretrained("tiny")


@pytest.fixture
def session(base: ChatSession, scene: DrawnScene) -> ChatSession:
    """The same picture and regions as in the requests."""
    session = ChatSession(base.model, base.processor)
    session.set_image(scene.image)
    for drawn in scene.objects[:2]:
        session.add_region(Mask(drawn.mask))
    return session


@pytest.fixture
def client(tiny_server: Process) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{tiny_server.url}/v1", api_key="any", max_retries=0)


def regions(scene: DrawnScene) -> dict[str, Any]:
    masks = [RLE.from_mask(drawn.mask).to_json() for drawn in scene.objects[:2]]
    return {"regions": [{"id": f"region{i}", **mask} for i, mask in enumerate(masks, start=1)]}


def ask(text: str, url: str) -> list[Any]:
    return [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}],
        }
    ]


def test_a_region_redrawn_under_its_number_between_two_turns(
    client: openai.OpenAI, session: ChatSession, scene: DrawnScene, url: str
) -> None:
    """The earlier turn brings its own region: the answer is that of a session that saw both."""
    first, second = ({"id": "region1", **RLE.from_mask(o.mask).to_json()} for o in scene.objects[:2])
    question = "Describe <region1>."
    answers = [session.ask(question)]
    session.add_region(Mask(scene.objects[1].mask), number=1)
    answers.append(session.ask(question))
    assert answers[0] != answers[1]
    messages = [{**ask(question, url)[0], "regions": [first]}, {"role": "assistant", "content": answers[0]}]
    messages += ask(question, url)
    response = client.chat.completions.create(
        model="rgpt", messages=messages, extra_body={"regions": [second]}
    )
    assert response.choices[0].message.content == answers[1]


def test_plain(client: openai.OpenAI, session: ChatSession, scene: DrawnScene, url: str) -> None:
    answer = client.chat.completions.create(
        model="rgpt", messages=ask("Describe <region1>.", url), extra_body=regions(scene)
    )
    assert answer.choices[0].message.content == session.ask("Describe <region1>.")
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and session.turns[0].usage is not None
    assert answer.usage.prompt_tokens == session.turns[0].usage.prompt_tokens
    assert answer.usage.completion_tokens == session.turns[0].usage.answer_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream_with_usage(client: openai.OpenAI, session: ChatSession, scene: DrawnScene, url: str) -> None:
    question = "Where is <region1> relative to <region2>?"
    stream = client.chat.completions.create(
        model="tiny",
        messages=ask(question, url),
        extra_body=regions(scene),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == session.ask(question)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0
    assert all(c.usage is None for c in chunks[:-1])


def test_the_later_turn_of_a_conversation(
    client: openai.OpenAI, session: ChatSession, scene: DrawnScene, url: str
) -> None:
    messages = ask("Describe <region1>.", url)
    for question in ("Which is larger, <region1> or <region2>?", "What is <region2>?"):
        before = client.chat.completions.create(model="rgpt", messages=messages, extra_body=regions(scene))
        said = before.choices[0].message.content
        assert said == session.ask(messages[-1]["content"] if len(messages) > 1 else "Describe <region1>.")
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": question}]
    last = client.chat.completions.create(model="rgpt", messages=messages, extra_body=regions(scene))
    assert last.choices[0].message.content == session.ask("What is <region2>?")
    assert before.usage is not None and last.usage is not None
    assert last.usage.prompt_tokens_details is not None
    # The picture and both earlier turns were there already.
    assert (last.usage.prompt_tokens_details.cached_tokens or 0) >= before.usage.prompt_tokens


def test_sampling_follows_its_seed(
    client: openai.OpenAI, session: ChatSession, scene: DrawnScene, url: str
) -> None:
    question = "Describe <region1> in detail."
    for seed in (1, 2):
        answer = client.chat.completions.create(
            model="rgpt",
            messages=ask(question, url),
            extra_body=regions(scene),
            temperature=1.5,
            top_p=0.95,
            seed=seed,
        )
        session.reset()
        expected = session.ask(question, temperature=1.5, top_p=0.95, seed=seed)
        assert answer.choices[0].message.content == expected


def test_stop_and_max_tokens(
    client: openai.OpenAI, session: ChatSession, scene: DrawnScene, url: str
) -> None:
    whole = session.ask("Describe <region1> in detail.")
    word = whole.split()[2]

    def cut(**options: Any) -> Any:
        return client.chat.completions.create(
            model="rgpt",
            messages=ask("Describe <region1> in detail.", url),
            extra_body=regions(scene),
            **options,
        ).choices[0]

    stopped, short = cut(stop=word), cut(max_tokens=2)
    assert stopped.message.content == whole[: whole.index(word)].strip() and stopped.finish_reason == "stop"
    assert whole.startswith(short.message.content) and short.finish_reason == "length"


def test_a_stream_that_is_closed_early_computes_nothing_more(fake_server: Callable[..., str]) -> None:
    log = FakeLog(endless, pause=0.002)
    address = fake_server(log)
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="any")
    stream = client.chat.completions.create(
        model="rgpt", messages=[{"role": "user", "content": "go on"}], stream=True, max_tokens=10**6
    )
    next(iter(stream))
    stream.close()
    assert log.closed.wait(10)
    eventually(lambda: httpx.get(f"{address}/health").json()["running"] == 0)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "rgpt"]
    assert client.models.retrieve("tiny").owned_by == "rgpt"


MASK = {"size": [1, 1], "counts": "0"}
PICTURE_AT = "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    ("text", "sent", "code", "param"),
    [
        ("What is <region9>?", {}, "unknown_region", "messages[0].content"),
        ("a", {"regions": [{"box": [5000, 0, 6000, 10]}]}, "region_out_of_bounds", "regions[0].box"),
        ("a", {"regions": [{"box": [1, 1, 5, 5]}, {"mask": MASK}]}, "mask_size_mismatch", "regions[1].mask"),
        ("a", {"rle": "not rle"}, "invalid_rle", "regions[0].mask"),
        ("a", {"rle": "0"}, "invalid_rle", "regions[0].mask"),
        ("a", {"picture": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, "invalid_image", PICTURE_AT),
        (
            "a",
            {"picture": encoded(Image.effect_noise((99, 99), 90), "JPEG")[:-999]},
            "invalid_image",
            PICTURE_AT,
        ),
        ("word " * 2000, {}, "context_length_exceeded", "messages"),
        ("a", {"regions": [{"bbox": [1, 1, 5, 5]}]}, "unknown_parameter", "regions[0].bbox"),
        ("a", {"regions": [{"box": [1, 1, 5, 5], "point": [1, 1]}]}, "invalid_region", "regions[0]"),
        ("", {}, "invalid_value", "messages[0].content"),
    ],
    ids=[
        "unknown",
        "outside",
        "size",
        "rle",
        "short rle",
        "svg",
        "jpeg",
        "context",
        "bbox",
        "two kinds",
        "empty",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(
    client: openai.OpenAI,
    scene: DrawnScene,
    url: str,
    text: str,
    sent: dict[str, Any],
    code: str,
    param: str,
    stream: bool,
) -> None:
    body = {"regions": sent.get("regions", [])}
    if "rle" in sent:
        size = [scene.image.height, scene.image.width]
        body = {"regions": [{"mask": {"size": size, "counts": sent["rle"]}}]}
    picture = data_url(sent["picture"]) if "picture" in sent else url
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="rgpt", messages=ask(text, picture), extra_body=body, stream=stream
        )
    error = caught.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    assert error.body["message"]  # type: ignore[index]


def test_errors_have_the_classes_of_the_client(
    client: openai.OpenAI, fake_server: Callable[..., str]
) -> None:
    hello: list[Any] = [{"role": "user", "content": "hello"}]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=hello)
    url = fake_server(FakeLog(endless, pause=0.01), api_keys=("right",), max_running=1, max_waiting=0)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()
    right = openai.OpenAI(base_url=f"{url}/v1", api_key="right", max_retries=0)
    stream = right.chat.completions.create(model="rgpt", messages=hello, stream=True, max_tokens=10**6)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError) as caught:
        right.chat.completions.create(model="rgpt", messages=hello)
    assert caught.value.code == "queue_full" and caught.value.response.headers["retry-after"]
    stream.close()

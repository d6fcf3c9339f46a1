"""`n`, `logprobs` and `response_format` under the official client, against what a session says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from rgpt.chat import ChatSession, Turn
from rgpt.regions import Box
from tests.serve.conftest import Process
from tests.serve.fakes import BOX, PICTURE, FakeLog, body, data_url, messages, parts
from tests.serve.test_behaviour import code, content, post

Start = Callable[..., str]
QUESTION = "What is <region1>?"
EXTRA = {"regions": [BOX]}


@pytest.fixture
def client(fake_server: Start) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{fake_server(FakeLog())}/v1", api_key="any", max_retries=0)


def create(client: openai.OpenAI, **fields: Any) -> Any:
    asked: dict[str, Any] = {
        "model": "rgpt",
        "messages": messages(QUESTION),
        "extra_body": EXTRA,
        "max_tokens": 6,
    }
    return client.chat.completions.create(**{**asked, **fields})


def asked(seed: int | None = None) -> Turn:
    """What a session says: at temperature 1.5 with a seed, else the likeliest."""
    chat = ChatSession(*parts())
    chat.set_image(PICTURE)
    chat.add_region(Box(1, 2, 20, 20))
    chat.ask(QUESTION, max_new_tokens=6, temperature=0 if seed is None else 1.5, seed=seed)
    return chat.turns[0]


def test_several_choices_are_drawn_with_seeds_of_their_own(client: openai.OpenAI) -> None:
    answer = create(client, n=3, temperature=1.5, seed=4)
    alone = [asked(seed) for seed in (4, 5, 6)]
    assert [choice.message.content for choice in answer.choices] == [turn.answer for turn in alone]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({turn.answer for turn in alone}) > 1
    assert answer.usage.completion_tokens == sum(turn.usage.answer_tokens for turn in alone if turn.usage)
    assert answer.usage.prompt_tokens == create(client).usage.prompt_tokens, "the prompt is read once"


def test_several_choices_as_a_stream(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"n": 2, "temperature": 1.5, "seed": 2**63 - 1, "logprobs": True}
    whole = create(client, **options)
    texts, ends, tokens = ["", ""], ["", ""], [0, 0]
    for chunk in create(client, stream=True, **options):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ""
            tokens[choice.index] += len(choice.logprobs.content) if choice.logprobs else 0
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert tokens == [len(choice.logprobs.content) for choice in whole.choices]


def test_log_probabilities(client: openai.OpenAI) -> None:
    told = create(client, logprobs=True, top_logprobs=2)
    assert create(client).choices[0].logprobs is None
    assert told.choices[0].message.content == asked().answer
    tokens = told.choices[0].logprobs.content
    assert "".join(token.token for token in tokens).strip() == told.choices[0].message.content
    assert sum(token.logprob for token in tokens) < 0
    for token in tokens:
        assert token.bytes == list(token.token.encode()) and len(token.top_logprobs) == 2
        assert token.top_logprobs[0].token == token.token, "greedy: the likeliest was taken"
    assert create(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


def test_a_stop_string_ends_one_choice_and_not_the_others(client: openai.OpenAI) -> None:
    pairs = ((seed, asked(seed).answer, asked(seed + 1).answer) for seed in range(99))
    seed, first, second = next((s, a, b) for s, a, b in pairs if len(b) > 6 and {*a[2:]} - {*b, *a[:2]})
    stop = next(letter for letter in first[2:] if letter not in second + first[:2])
    options: dict[str, Any] = {"n": 2, "temperature": 1.5, "seed": seed}
    cut = create(client, stop=stop, **options)
    assert [choice.message.content for choice in cut.choices] == [first[: first.index(stop)].rstrip(), second]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage.prompt_tokens > 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 2.5}, "n"),
        ({"n": True}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_object", "json_schema": {"name": "x"}}}, "response_format"),
        # The tests' model spells a character a token, which llguidance does not know how to read.
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
    ids=str,
)
def test_what_cannot_be(fake_server: Start, fields: dict[str, Any], param: str) -> None:
    response = post(fake_server(FakeLog()), **fields)
    assert code(response)[0] == 400 and code(response)[2] == param


def test_several_pictures_are_refused_with_the_reason(fake_server: Start) -> None:
    asked = body("a <region1>")["messages"]
    asked += [{"role": "assistant", "content": "x"}]
    asked += messages("b", data_url(PICTURE.rotate(90, expand=True)))
    response = post(fake_server(FakeLog()), messages=asked)
    assert code(response)[1] == "too_many_images"
    assert "this model reads one picture" in response.json()["error"]["message"]


SCHEMA = {
    "type": "object",
    "properties": {"shape": {"enum": ["circle", "square"]}, "sure": {"type": "boolean"}},
    "required": ["shape", "sure"],
    "additionalProperties": False,
}


def test_answers_under_a_schema(tiny_server: Process) -> None:
    pytest.importorskip("llguidance", reason="the extra structured is not installed")
    client = openai.OpenAI(base_url=f"{tiny_server.url}/v1", api_key="any", max_retries=0)
    wanted = {"type": "json_schema", "json_schema": {"name": "shape", "schema": SCHEMA, "strict": True}}
    answer = create(client, response_format=wanted, max_tokens=40, n=2, temperature=1.0, seed=1)
    for choice in answer.choices:
        value = json.loads(choice.message.content)
        assert set(value) == {"shape", "sure"} and choice.finish_reason == "stop"
    for wrong in ({"type": "strin"}, {"not": {}}):
        with pytest.raises(openai.BadRequestError) as caught:
            create(client, response_format={**wanted, "json_schema": {"name": "x", "schema": wrong}})
        assert caught.value.param == "response_format"
    assert content(post(tiny_server.url, max_tokens=3))

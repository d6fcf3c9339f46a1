"""Messages in, turns out."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rgpt.serve.conversation import Asked, check_mentions, read_conversation
from rgpt.serve.errors import ApiError
from rgpt.serve.protocol import Message


def read(*messages: dict[str, Any], max_text: int = 1000) -> Asked:
    return read_conversation([Message(**message) for message in messages], max_text)


def user(*parts: str) -> dict[str, Any]:
    """A user message; a part that begins with `data:` is a picture."""
    blocks = [
        {"type": "image_url", "image_url": {"url": part}}
        if part.startswith("data:")
        else {"type": "text", "text": part}
        for part in parts
    ]
    return {"role": "user", "content": blocks}


def said(role: str, text: str | None) -> dict[str, Any]:
    return {"role": role, "content": text}


@pytest.mark.parametrize(
    ("messages", "turns", "question"),
    [
        ([said("user", "a")], (), "a"),
        ([said("user", "a"), said("assistant", "b"), said("user", "c")], (("a", "b"),), "c"),
        ([said("system", "Be brief."), said("user", "a")], (), "Be brief.\na"),
        ([said("developer", "s"), said("user", "a"), said("user", "b")], (), "s\na\nb"),
        ([user("data:x"), user("a")], (), "a"),
        ([user("data:x", "a"), said("assistant", None), user("data:x", "b")], (("a", ""),), "b"),
        ([user("a"), said("assistant", "b"), said("assistant", "c"), user("d")], (("a", "b\nc"),), "d"),
        ([user("a", "b")], (), "a\nb"),
    ],
)
def test_turns(messages: list[dict[str, Any]], turns: tuple[Any, ...], question: str) -> None:
    asked = read(*messages)
    assert (asked.turns, asked.question) == (turns, question)


@pytest.mark.parametrize(
    ("messages", "code", "param"),
    [
        ([said("assistant", "a")], "invalid_value", "messages[0].content"),
        ([said("user", "a"), said("assistant", "b")], "invalid_value", "messages[1].role"),
        ([said("system", "a")], "invalid_value", "messages[0].role"),
        ([said("user", " ")], "invalid_value", "messages[0].content"),
        ([user("data:x")], "invalid_value", "messages[0].content"),
        ([user("data:x", "a", "data:y")], "too_many_images", "messages[0].content[2].image_url.url"),
        ([said("user", "x" * 1001)], "string_above_max_length", "messages[0].content"),
        (
            [{**user("data:x", "hm"), "role": "system"}, said("user", "a")],
            "invalid_value",
            "messages[0].content[0].image_url.url",
        ),
    ],
)
def test_refused(messages: list[dict[str, Any]], code: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(*messages)
    assert (caught.value.code, caught.value.param, caught.value.status) == (code, param, 400)


def test_regions_of_a_message_belong_to_its_turn() -> None:
    box, point = {"id": "region1", "box": [1, 2, 3, 4]}, {"id": "region2", "point": [1, 2]}
    asked = read(
        said("system", "Look."),
        {**said("user", "a <region1>"), "regions": [box]},
        said("assistant", "b"),
        said("user", "c <region1>"),
        {**said("user", "<region2>"), "regions": [point]},
    )
    assert [(turn, field, [p.id for p in params]) for turn, field, params in asked.given] == [
        (0, "messages[1].regions", ["region1"]),
        (1, "messages[4].regions", ["region2"]),
    ]
    check_mentions(asked, [1], {1: [2]})
    with pytest.raises(ApiError, match="mentions <region1> but the regions given are: <region2>") as caught:
        check_mentions(asked, [], {0: [1], 1: [2]})
    assert caught.value.param == "messages[3].content"


def test_only_users_give_regions() -> None:
    with pytest.raises(ValidationError, match="only users give them"):
        Message(role="assistant", content="a", regions=[{"point": [1, 2]}])


def test_a_mention_of_an_unknown_region_is_told_with_its_place() -> None:
    asked = read(said("user", "a <region1>"), said("assistant", "<region7>"), said("user", "b <region2>"))
    check_mentions(asked, [1, 2])
    with pytest.raises(ApiError, match="<region2>") as caught:
        check_mentions(asked, [1])
    assert (caught.value.code, caught.value.param) == ("unknown_region", "messages[2].content")

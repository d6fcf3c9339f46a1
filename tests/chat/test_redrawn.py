"""Numbers belong to turns: a region redrawn under its number, and a region built anew that looks the same.

The real session on a tiny random model, against one encoding of the whole conversation by the processor, in
which every mention is a region block that carries its own region.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rgpt.chat import ChatSession, Turn
from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Mask, Point, Polygon, Region, Scribble, region_weights
from tests.model.tiny_models import make_model, make_picture, make_processor

WIDTH, HEIGHT = 40, 30
PICTURE = make_picture(0, WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    model = make_model()
    return model, make_processor(model.config)


@pytest.fixture
def session(parts: tuple[Any, Any]) -> ChatSession:
    chat = ChatSession(*parts)
    chat.set_image(PICTURE)
    return chat


@st.composite
def boxes(draw: st.DrawFn) -> Region:
    x, y = draw(st.integers(0, WIDTH - 2)), draw(st.integers(0, HEIGHT - 2))
    return Box(x, y, draw(st.integers(x + 1, WIDTH)), draw(st.integers(y + 1, HEIGHT)))


points = st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1))
# A ring on the picture's edge alone has nothing inside and is refused.
corners = st.tuples(st.integers(1, WIDTH - 1), st.integers(1, HEIGHT - 1))
any_region = st.one_of(
    boxes(),
    st.lists(corners, min_size=3, max_size=5).map(Polygon),
    st.lists(points, min_size=1, max_size=4).map(lambda line: Scribble(line, 3)),
    points.map(lambda at: Point(*at)),
    boxes().map(lambda box: Mask(box.to_mask(HEIGHT, WIDTH))),
)


def rebuilt(region: Region) -> Region:
    """The same pixels as another value, as after an import of something the page cannot draw."""
    return RLE.from_mask(region.to_mask(HEIGHT, WIDTH))


def one_shot(processor: Any, turns: Sequence[tuple[str, str, Mapping[int, Region]]], question: str, now: Any):
    """The conversation's ids and weights `[m, G, G]`, by region blocks."""
    messages: list[dict[str, Any]] = []
    for asked, answer, regions in [*turns, (question, None, now)]:
        blocks: list[dict[str, Any]] = [] if messages else [{"type": "image", "image": PICTURE}]
        for piece in re.split(r"(<region\d+>)", asked):
            if number := re.fullmatch(r"<region(\d+)>", piece):
                n = int(number[1])
                blocks.append({"type": "region", "number": n, "region": regions[n]})
            else:
                blocks.append({"type": "text", "text": piece})
        messages.append({"role": "user", "content": blocks})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    batch = processor.encode_chat(messages, add_generation_prompt=True)
    return batch, batch["region_masks"].flatten(0, 1)[batch["region_index"]]


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(st.tuples(any_region, any_region), min_size=2, max_size=4))
def test_every_mention_carries_the_region_of_its_own_turn(
    parts: tuple[Any, Any], turns: list[tuple[Region, Region]]
) -> None:
    """Both numbers are drawn anew in every turn."""
    session, question = ChatSession(*parts), "<region2> or <region1>?"
    session.set_image(PICTURE)
    processor = session.processor
    *past, (first, second) = [(question, "a", {1: first, 2: second}) for first, second in turns[:-1]] + [
        turns[-1]
    ]
    session.turns = [Turn(*turn) for turn in past]
    session.regions = {1: first, 2: second}
    (prompt,) = session._encode([question])
    batch, weights = one_shot(processor, past, question, session.regions)
    assert prompt.ids == batch["input_ids"][0].tolist()
    assert torch.equal(prompt.weights[prompt.mentions], weights)
    expected = [
        region_weights(region, HEIGHT, WIDTH, processor.refined_grid) for a, b in turns for region in (b, a)
    ]
    assert np.array_equal(weights.numpy(), np.stack(expected))


def test_a_redrawn_region_is_answered_as_in_one_pass_by_the_library(
    session: ChatSession, parts: tuple[Any, Any]
) -> None:
    model, processor = parts
    session.add_region(Box(0, 0, 12, 9))
    session.ask("is <region1>?", max_new_tokens=6)
    session.add_region(Box(25, 14, 40, 30), number=1)
    answer = session.ask("is <region1>?", max_new_tokens=6)
    past = [(turn.question, turn.answer, turn.regions) for turn in session.turns[:1]]
    batch, _ = one_shot(processor, past, "is <region1>?", session.regions)
    start = batch["input_ids"].shape[1]
    ids = model.generate(**batch, max_new_tokens=6, do_sample=False)[0, start:]
    assert answer == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert [turn.regions[1] for turn in session.turns] == [Box(0, 0, 12, 9), Box(25, 14, 40, 30)]
    assert session.turns[1].usage is not None and session.turns[1].usage.cached_tokens > 0


@pytest.mark.parametrize(
    "region",
    [
        Box(3, 4, 21, 17),
        Polygon([(2, 2), (30, 4), (9, 25)]),
        Scribble([(5, 5), (25, 12), (30, 28)], 4),
        Point(20, 10),
        Mask(Box(3, 4, 21, 17).to_mask(HEIGHT, WIDTH)),
    ],
    ids=lambda region: type(region).__name__,
)
def test_a_region_built_anew_is_the_same_region(session: ChatSession, region: Region) -> None:
    """As the app does for every question, and after an import: the keys of all earlier turns serve again."""
    session.regions = {1: region}
    session.ask("a <region1>?", max_new_tokens=4)
    first = session.turns[0].usage
    answers = []
    for same in (region, rebuilt(region)):
        session.turns = [type(turn)(turn.question, turn.answer, {1: same}) for turn in session.turns[:1]]
        session.regions = {1: same}
        answers.append(session.ask("b <region1>?", max_new_tokens=4))
        usage = session.turns[1].usage
        assert first is not None and usage is not None
        assert first.prompt_tokens <= usage.cached_tokens < usage.prompt_tokens
    assert answers[0] == answers[1]
    assert session._keys.reused == usage.prompt_tokens - 1  # the second time all was there already


def test_what_was_read_before_the_redrawn_region_serves_again(session: ChatSession) -> None:
    session.add_region(Box(0, 0, 12, 9))
    session.ask("a <region1>?", max_new_tokens=4)
    whole = session.turns[0].usage
    assert whole is not None
    session.undo()
    session.add_region(Box(9, 9, 30, 30), number=1)
    session.ask("a <region1>?", max_new_tokens=4)
    usage = session.turns[0].usage
    assert usage is not None and 0 < usage.cached_tokens < whole.prompt_tokens - 1


def test_many_at_once_after_a_redraw_are_what_each_gets_alone(session: ChatSession) -> None:
    session.add_region(Box(0, 0, 12, 9))
    session.ask("a <region1>?", max_new_tokens=4)
    session.add_region(Box(20, 10, 40, 30), number=1)
    session.add_region(Point(5, 20))
    together = session.ask_many("is <region>?", max_new_tokens=5)
    for number, answer in together.items():
        assert session.ask(f"is <region{number}>?", max_new_tokens=5) == answer
        session.undo()
    best, scores = session.choose("cat")
    assert scores[best] == max(scores.values())


def test_a_turn_without_its_region_is_told(session: ChatSession) -> None:
    session.add_region(Box(0, 0, 12, 9))
    session.ask("a <region1>?", max_new_tokens=2)
    session.turns[0] = type(session.turns[0])("a <region7>?", "b")
    with pytest.raises(InputError, match="<region7> but has no such region"):
        session.ask("b <region1>?")

"""ChatSession on a tiny random model: what it refuses, what it remembers, and that remembering changes
nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.model import tokenizing
from rgpt.regions import Box, Mask
from tests.model.tiny_models import make_model, make_processor


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    model = make_model()
    return model, make_processor(model.config)


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def session(parts: tuple[Any, Any], picture: Image.Image) -> ChatSession:
    chat = ChatSession(*parts)
    chat.set_image(picture)
    chat.add_region(Box(0, 0, 20, 15))
    chat.add_region(Box(20, 15, 40, 30))
    return chat


@pytest.fixture
def counted(parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every forward pass, in order."""
    model, _ = parts
    passes: list[int] = []
    forward: Callable[..., Any] = model.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        passes.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counting)
    return passes


def test_stream_pieces_join_to_the_answer(session: ChatSession) -> None:
    pieces = list(session.stream("a <region1>?", max_new_tokens=8))
    assert "".join(pieces).strip() == session.turns[-1].answer
    assert session.turns[-1].question == "a <region1>?"


def test_equals_the_library_greedy_generate(
    session: ChatSession, picture: Image.Image, parts: tuple[Any, Any]
) -> None:
    model, processor = parts
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": picture}, {"type": "text", "text": "is <region2>?"}],
        }
    ]
    batch = processor.encode_chat(messages, regions=session.regions, add_generation_prompt=True)
    ids = model.generate(**batch, max_new_tokens=12, do_sample=False)[0, batch["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert session.ask("is <region2>?", max_new_tokens=12) == expected.strip()


def test_a_later_turn_equals_the_same_conversation_computed_anew(
    session: ChatSession, parts: tuple[Any, Any]
) -> None:
    for question in ("a <region1>?", "and <region2>, <region1>?", "why?"):
        session.ask(question, max_new_tokens=6)
    fresh = ChatSession(*parts)
    fresh.set_image(session.image)
    fresh.regions = dict(session.regions)
    fresh.turns = session.turns[:2]
    assert fresh.ask("why?", max_new_tokens=6) == session.turns[2].answer


def test_a_later_turn_computes_its_own_tokens_only(session: ChatSession, counted: list[int]) -> None:
    session.ask("a long first question about <region1> ...?", max_new_tokens=4)
    first = counted[0]
    del counted[:]
    session.ask("b?", max_new_tokens=1)
    assert counted[0] < first / 2


def test_undo_then_another_question_is_as_if_never_asked(
    session: ChatSession, parts: tuple[Any, Any]
) -> None:
    session.ask("a <region1>?", max_new_tokens=5)
    session.ask("b <region2>?", max_new_tokens=5)
    session.undo()
    fresh = ChatSession(*parts)
    fresh.set_image(session.image)
    fresh.regions, fresh.turns = dict(session.regions), list(session.turns)
    assert session.ask("c <region2>?", max_new_tokens=5) == fresh.ask("c <region2>?", max_new_tokens=5)


def test_the_same_words_about_another_region_are_computed_again(
    session: ChatSession, parts: tuple[Any, Any]
) -> None:
    """The ids of both prompts are equal; only the region's pixels tell them apart."""
    session.ask("a <region1>?", max_new_tokens=5)
    session.reset()
    session.regions[1] = Box(5, 5, 35, 28)
    changed = session.ask("a <region1>?", max_new_tokens=5)
    fresh = ChatSession(*parts)
    fresh.set_image(session.image)
    fresh.add_region(Box(5, 5, 35, 28))
    assert changed == fresh.ask("a <region1>?", max_new_tokens=5)


def test_closing_the_stream_stops_the_computation_and_keeps_what_was_said(
    session: ChatSession, counted: list[int]
) -> None:
    stream = session.stream("a <region1>?", max_new_tokens=60)
    first = next(stream)
    done = len(counted)
    stream.close()
    assert len(counted) == done
    assert session.turns[-1].answer == first.strip()


def test_a_picture_is_encoded_once(
    session: ChatSession, parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = parts

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the tower ran again")

    monkeypatch.setattr(model.model, "vision_features", never)
    for _ in range(3):
        session.ask("a <region1>?", max_new_tokens=2)


def test_choices_are_the_only_answers(session: ChatSession) -> None:
    choices = ["cat", "car", "dog"]
    for temperature in (0.0, 3.0):
        for seed in range(5):
            answer = session.ask("<region1>?", choices=choices, temperature=temperature, seed=seed)
            assert answer.replace(" ", "") in choices  # this tokenizer decodes one character a token


def test_sampling_follows_its_seed(session: ChatSession) -> None:
    def draw(seed: int) -> str:
        session.reset()
        return session.ask("a?", temperature=2.0, top_p=0.9, seed=seed, max_new_tokens=12)

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(6)}) > 1


def test_scores_are_log_probabilities_of_the_plain_forward(
    session: ChatSession, parts: tuple[Any, Any]
) -> None:
    model, processor = parts
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": session.image}, {"type": "text", "text": "a <region1>?"}],
        }
    ]
    batch = processor.encode_chat(messages, regions=session.regions, add_generation_prompt=True)
    tail = [*processor.tokenizer("xy", add_special_tokens=False)["input_ids"], 2]
    ids = torch.cat([batch["input_ids"], torch.tensor([tail])], 1)
    pixels = processor.pixel_values([session.image])
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            pixel_values=pixels,
            region_masks=batch["region_masks"],
            region_index=batch["region_index"],
        ).logits
    start = batch["input_ids"].shape[1]
    expected = sum(float(logits[0, start - 1 + i].log_softmax(-1)[t]) for i, t in enumerate(tail))
    scores = session.score(["a <region1>?", "a much longer one <region2> <region1>?"], ["xy", "z"])
    assert scores[0] == pytest.approx(expected, abs=1e-4)
    assert session.turns == []


def test_choose_returns_the_best_score(session: ChatSession) -> None:
    number, scores = session.choose("the red circle")
    assert set(scores) == {1, 2} and scores[number] == max(scores.values())


def test_a_number_that_a_turn_had_is_given_again_only_when_asked_for(session: ChatSession) -> None:
    session.ask("a <region2>?", max_new_tokens=2)
    del session.regions[2]
    assert session.add_region(Box(1, 1, 5, 5)) == 3
    assert session.add_region(Box(2, 2, 6, 6), number=2) == 2
    assert session.regions == {1: Box(0, 0, 20, 15), 2: Box(2, 2, 6, 6), 3: Box(1, 1, 5, 5)}


def test_a_failure_in_the_model_leaves_no_turn_and_no_half_cache(
    session: ChatSession, parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = session.ask("a <region1>?", max_new_tokens=5)
    session.reset()
    with monkeypatch.context() as patch:
        patch.setattr(parts[0], "forward", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.ask("a <region1>?", max_new_tokens=5)
    assert session.turns == []
    assert session.ask("a <region1>?", max_new_tokens=5) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": float("nan")},
        {"temperature": -1.0},
        {"temperature": float("inf")},
        {"top_p": -0.1},
        {"seed": 2**70},
        {"max_new_tokens": 0},
        {"choices": []},
    ],
    ids=str,
)
def test_options_that_cannot_be_used(session: ChatSession, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        session.ask("a?", **options)
    assert session.turns == []


def test_a_temperature_of_almost_nothing_is_greedy(session: ChatSession) -> None:
    greedy = session.ask("a <region1>?", max_new_tokens=5)
    session.reset()
    assert session.ask("a <region1>?", max_new_tokens=5, temperature=1e-45) == greedy


def test_a_new_picture_forgets_regions_and_turns(session: ChatSession, picture: Image.Image) -> None:
    session.ask("a?", max_new_tokens=2)
    session.set_image(picture)
    assert session.regions == {} and session.turns == []


def test_a_picture_that_cannot_be_opened_changes_nothing(session: ChatSession) -> None:
    before = session.image
    with pytest.raises(InputError):
        session.set_image(b"not a picture")
    assert session.image is before and len(session.regions) == 2


def test_without_a_picture_text_alone_is_answered(parts: tuple[Any, Any]) -> None:
    assert isinstance(ChatSession(*parts).ask("hello?", max_new_tokens=3), str)


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("What is <region3>?", "<region3> but 2 given"),
        ("<region0>?", "<region0>"),
        ("half a character \ud83d", "not valid text"),
        ("x" * 2000, "tokens but the context holds"),
    ],
)
def test_questions_that_cannot_be_asked(session: ChatSession, question: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        session.check(question)
    with pytest.raises(InputError, match=says):
        session.ask(question)
    assert session.turns == []


def test_regions_that_cannot_be_added(session: ChatSession, parts: tuple[Any, Any]) -> None:
    with pytest.raises(InputError):
        session.add_region(Box(100, 100, 120, 120))
    with pytest.raises(InputError, match="30"):
        session.add_region(Mask(np.ones((7, 7), bool)))
    with pytest.raises(InputError, match="picture"):
        ChatSession(*parts).add_region(Box(0, 0, 1, 1))
    with pytest.raises(InputError, match="numbered from 1"):
        session.add_region(Box(0, 0, 5, 5), number=0)
    with pytest.raises(InputError, match="undo"):
        session.undo()


def test_another_session_on_the_same_picture_encodes_nothing(
    session: ChatSession, parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = session.ask("a <region1>?", max_new_tokens=5)
    monkeypatch.setattr(parts[0].model, "encode", lambda *a, **k: pytest.fail("encoded again"))
    other = session.another()
    assert other.turns == [] and other.regions == {}
    other.add_region(Box(0, 0, 20, 15))
    assert other.ask("a <region1>?", max_new_tokens=5) == expected


def test_usage_counts_tokens_and_tells_how_the_answer_ended(session: ChatSession) -> None:
    session.ask("a <region1>?", max_new_tokens=3)
    usage = session.turns[-1].usage
    assert usage is not None and usage.cached_tokens == 0
    assert (usage.answer_tokens, usage.ended) in [(3, "length"), (2, "stop"), (1, "stop"), (0, "stop")]
    stream = session.stream("b <region2>?", max_new_tokens=5)
    next(stream)
    stream.close()
    later = session.turns[-1].usage
    assert later is not None and later.ended == "closed"
    assert usage.prompt_tokens <= later.cached_tokens < later.prompt_tokens


def test_a_known_region_and_an_encoded_picture_cost_a_question_nothing(
    session: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: regions laid on the grid, and copies of the picture's pixels."""
    region, done = Mask(Box(3, 3, 20, 20).to_mask(30, 40)), list[str]()
    counted = ((tokenizing, "region_weights"), (Image.Image, "copy"), (Image.Image, "convert"))
    for holder, name in (*counted, (Image.Image, "tobytes")):
        real = getattr(holder, name)
        monkeypatch.setattr(
            holder, name, lambda *given, name=name, real=real: done.append(name) or real(*given)
        )
    session.add_region(region)
    session.check("a <region3>?")
    session.ask("a <region3>?", max_new_tokens=2)
    session.ask("b <region3>, <region3>?", max_new_tokens=2)
    assert done == ["region_weights"]
    other = session.another()
    other.add_region(Mask(region.array))  # equal, though another value
    other.ask_many("what is <region1>?", max_new_tokens=2)
    assert done == ["region_weights"]
    session.add_region(Mask(~region.array))
    session.ask("<region4>?", max_new_tokens=2)
    assert done == ["region_weights"] * 2


def test_answers_that_find_no_room_are_refused(session: ChatSession) -> None:
    session = session.another()
    session.processor = copy.copy(session.processor)
    session.processor.max_length = len(session._encode(["is?"])[0]) + 3
    assert len(session.likelihoods(["is?"], [["abc", "b"]])[0]) == 2  # of four tokens three are read
    with pytest.raises(InputError, match="no room"):
        session.likelihoods(["is?"], [["abcd"]])

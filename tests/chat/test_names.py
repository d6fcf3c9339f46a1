"""Names with shares: what is asked, what the shares are, and how they are told."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from rgpt.chat import ChatSession
from rgpt.chat.remarks import tell_shares
from rgpt.commands.answering import stream_answer
from rgpt.data.scenes import DrawnScene, draw_scene
from rgpt.errors import InputError
from rgpt.prompts import guided
from tests.model.tiny_models import make_model, make_picture, make_processor


@pytest.fixture(scope="module")
def tiny() -> ChatSession:
    return ChatSession.from_pretrained("tiny")


@pytest.fixture
def scene(tiny: ChatSession) -> DrawnScene:
    """Drawn objects, the first two of them region 1 and 2 of the session."""
    drawn = draw_scene(42)
    tiny.set_image(drawn.image)
    for shown in drawn.objects[:2]:
        tiny.add_region(shown.box)
    return drawn


def test_shares_are_a_softmax_over_whole_answers(tiny: ChatSession, scene: DrawnScene) -> None:
    (shares,) = tiny.name_shares(["What is <region1>?"])
    names = tiny.about.names
    logs = tiny.score([guided("What is <region1>?", "shape")] * len(names), names)
    expected = dict(zip(names, torch.tensor(logs).softmax(0).tolist(), strict=True))
    assert shares == pytest.approx(expected, abs=1e-4) and sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert next(iter(shares)) == scene.objects[0].shape


def test_only_questions_for_names_get_shares_in_the_conversation_so_far(
    tiny: ChatSession, scene: DrawnScene
) -> None:
    questions = ["Describe <region1>.", "And <region2>?", "Name <region2>."]
    assert [bool(shares) for shares in tiny.name_shares(questions)] == [False, False, True]
    tiny.ask("What is <region1>?")
    turns = list(tiny.turns)
    first = [next(iter(shares), None) for shares in tiny.name_shares(questions)]
    assert first == [None, scene.objects[1].shape, scene.objects[1].shape]
    assert tiny.turns == turns


def test_a_region_may_be_given_for_each_question(tiny: ChatSession, scene: DrawnScene) -> None:
    boxes = [shown.box for shown in scene.objects]
    rows = tiny.name_shares(["What is <region1>?"] * len(boxes), [{1: box} for box in boxes])
    for shares, box in zip(rows, boxes, strict=True):
        tiny.regions = {1: box}
        assert shares == pytest.approx(tiny.name_shares(["What is <region1>?"])[0], abs=1e-4)


def test_who_was_trained_on_no_list_has_no_shares() -> None:
    model = make_model()
    session = ChatSession(model, make_processor(model.config))
    session.set_image(make_picture())
    assert session.name_shares(["What is <region1>?"]) == [{}] and session.about.pictures == ""


def test_an_unknown_region_is_refused(tiny: ChatSession, scene: DrawnScene) -> None:
    with pytest.raises(InputError, match="region9"):
        tiny.name_shares(["What is <region9>?"])


@pytest.mark.parametrize(
    ("answer", "shares", "told"),
    [
        ("A dog.", {"dog": 0.87, "cat": 0.05, "horse": 0.02, "cow": 0.01}, "dog 87%, cat 5%, horse 2%"),
        ("A dog.", {"dog": 0.41, "cat": 0.22, "horse": 0.09}, "Not sure: dog 41%, cat 22%, horse 9%"),
        ("A cat.", {"dog": 0.55, "cat": 0.4}, "Not sure: dog 55%, cat 40%"),
        ("A carrot.", {"car": 0.6, "carrot": 0.4}, "Not sure: car 60%, carrot 40%"),
        ("Two buses.", {"bus": 0.9, "car": 0.1}, "bus 90%, car 10%"),
        ("I don't know what this is.", {"kite": 0.7, "bird": 0.3}, "Not sure: kite 70%, bird 30%"),
        ("A TV.", {"tv": 0.9999, "laptop": 0.0001}, "tv >99%, laptop <1%"),
        ("A dog.", {}, ""),
    ],
)
def test_the_uncertain_reads_as_uncertain(answer: str, shares: dict[str, float], told: str) -> None:
    assert tell_shares(answer, shares) == told


def test_a_model_that_knows_nothing_is_not_sure(tiny: ChatSession, scene: DrawnScene) -> None:
    """The same code on other weights: a head of zeros finds all tokens equally likely."""
    head = tiny.model.get_output_embeddings().weight
    kept = head.detach().clone()
    try:
        with torch.no_grad():
            head.zero_()
        (shares,) = tiny.name_shares(["What is <region1>?"])
        assert tell_shares(tiny.ask("What is <region1>?"), shares).startswith("Not sure: ")
    finally:
        with torch.no_grad():
            head.copy_(kept)


def test_without_room_for_the_guide_sentence_there_is_an_answer_and_no_shares(
    tiny: ChatSession, scene: DrawnScene
) -> None:
    question = "What is <region1>?"
    session = tiny.another()
    session.regions, session.processor = dict(tiny.regions), copy.copy(tiny.processor)
    session.processor.max_length = len(session._encode([question])[0]) + 3
    assert session.name_shares([question, "Describe <region1>."]) == [{}, {}]
    assert scene.objects[0].shape in tiny.ask(question) and session.ask(question)


def test_ctrl_c_in_the_shares_leaves_the_answer(
    tiny: ChatSession, scene: DrawnScene, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is interrupted is the second pass over more than a token: the answer's come one by one."""
    question, passes = "What is <region1>?", list[int]()

    def interrupt(_: Any, __: Any, given: dict[str, Any]) -> None:
        passes.append(given["input_ids"].shape[-1])
        if sum(length > 1 for length in passes) == 2:
            raise KeyboardInterrupt

    tiny.reset()
    hook = tiny.model.register_forward_pre_hook(interrupt, with_kwargs=True)
    try:
        assert stream_answer(tiny, question, {})
    finally:
        hook.remove()
    assert capsys.readouterr().out.strip() == tiny.turns[-1].answer and len(tiny.turns) == 1
    fresh = tiny.another()
    fresh.regions, fresh.turns = dict(tiny.regions), list(tiny.turns)
    assert tiny.ask("And <region2>?") == fresh.ask("And <region2>?")

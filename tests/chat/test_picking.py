"""No run of tokens twice in an answer: against the library's own processor, alone and many at once."""

from __future__ import annotations

import torch
from transformers import NoRepeatNGramLogitsProcessor

from rgpt.chat import ChatSession
from rgpt.chat.branches import pick_each
from rgpt.chat.picking import ClosedSet, Picker
from tests.model.tiny_models import make_model, make_picture, make_processor


def test_the_same_tokens_are_banned_as_by_the_library() -> None:
    torch.manual_seed(0)
    picker, theirs = Picker(0.0, 1.0, None, [], no_repeat=3), NoRepeatNGramLogitsProcessor(3)
    said: list[int] = []
    for _ in range(60):
        logits = torch.randn(3) * 5
        scores = theirs(torch.tensor([said], dtype=torch.long), logits[None])[0]
        if not torch.isfinite(scores).any():
            break
        said.append(picker(logits))
        assert said[-1] == int(scores.argmax())
    assert len(said) > 10


def test_many_at_once_are_each_as_alone() -> None:
    torch.manual_seed(0)
    alone, together = ([Picker(0.0, 1.0, None, [], no_repeat=2) for _ in range(3)] for _ in "ab")
    for _ in range(6):
        logits = torch.randn(3, 9)
        assert pick_each(together, logits) == [pick(row) for pick, row in zip(alone, logits, strict=True)]


def test_a_closed_set_may_repeat() -> None:
    picker = Picker(0.0, 1.0, None, [], no_repeat=1, rule=ClosedSet({1: {1: {1: {}}}}))
    assert [picker(torch.tensor([1.0, 2.0])) for _ in "abc"] == [1, 1, 1]


def test_a_session_does_what_the_models_own_configuration_says() -> None:
    model = make_model()
    answers = []
    for size in (None, 1):
        model.generation_config.no_repeat_ngram_size = size
        session = ChatSession(model, make_processor(model.config))
        session.set_image(make_picture(0, 40, 30))
        answers.append(
            [session.ask("is?", max_new_tokens=12), *session.ask_each(["is?", "red?"], max_new_tokens=12)]
        )
    letters = [text.replace(" ", "") for text in answers[1]]  # a token each
    assert answers[0] != answers[1]
    assert all(len(set(each)) == len(each) > 1 for each in letters)

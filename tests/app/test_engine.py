"""The app's engine over a real `ChatSession`, with random weights: what matters is what is computed."""

from __future__ import annotations

import pytest

from app.engine import MODEL_NOTES, TINY_NOTES, Answering, ModelEngine
from app.session import Conversation, Picture
from rgpt.errors import InputError
from rgpt.regions import Box, Scribble
from tests.model.tiny_models import make_model, make_picture, make_processor

REGIONS = {2: Box(2, 3, 20, 20), 5: Scribble([(5, 5), (20, 8)], 4)}


@pytest.fixture(scope="module")
def engine() -> ModelEngine:
    model = make_model()
    return ModelEngine(model, make_processor(model.config), "small")


def test_a_picture_is_encoded_once_however_much_is_asked(engine, monkeypatch):
    encoded = []
    encode = engine.model.model.encode
    monkeypatch.setattr(engine.model.model, "encode", lambda *args: encoded.append(1) or encode(*args))
    answering, talk = Answering(engine), Conversation(Picture(make_picture()))
    for question in ("What is <region2>?", "And <region5>?"):
        talk = talk.asked(question, REGIONS)
        answering.check(talk)
        talk = talk.answered("".join(answering.stream(talk)), "done")
    assert encoded == [1] and len(talk.turns) == 2


def test_a_kept_session_answers_as_a_fresh_one(engine):
    talk = Conversation(Picture(make_picture())).asked("What is <region2>?", REGIONS)
    kept = Answering(engine)
    talk = talk.answered("".join(kept.stream(talk)), "done").asked("<region5> or <region2>?", REGIONS)
    assert list(kept.stream(talk)) == list(Answering(engine).stream(talk))
    # Another first turn in the same session, as after a retry: nothing of the old one may linger.
    other = talk.before(0).asked("Describe <region5>.", REGIONS)
    assert list(kept.stream(other)) == list(Answering(engine).stream(other))


def test_a_turn_keeps_the_region_it_had(engine):
    """The same number, drawn anew: history sees the old region, the question the new one."""
    talk = (
        Conversation(Picture(make_picture())).asked("What is <region2>?", REGIONS).answered("a box", "done")
    )
    session = Answering(engine)._session(talk.asked("And <region5>?", {5: Box(1, 1, 4, 4)}))
    assert session.turns[0].regions == {2: REGIONS[2]} and session.regions == {5: Box(1, 1, 4, 4)}


def test_a_stopped_stream_computes_no_further(engine, monkeypatch):
    talk, steps = Conversation(Picture(make_picture())).asked("What is <region2>?", REGIONS), []
    forward = engine.model.forward
    monkeypatch.setattr(engine.model, "forward", lambda *a, **k: steps.append(1) or forward(*a, **k))
    stream = Answering(engine).stream(talk)
    next(stream)
    done = len(steps)
    stream.close()
    assert list(stream) == [] and len(steps) == done


def test_a_table_holds_what_each_region_gets_alone(engine):
    picture = Picture(make_picture())
    answering = Answering(engine)
    answering.TOGETHER = 2
    regions = {2: REGIONS[2], 5: REGIONS[5], 9: Box(1, 1, 30, 9)}
    batches = list(answering.ask_each(picture, "What is <region>?", regions))
    assert [sorted(batch) for batch in batches] == [[2, 5], [9]]
    for number, region in regions.items():
        alone = engine.open(picture.image)
        alone.regions = {1: region}
        expected = alone.ask("What is <region1>?").replace("<region1>", f"<region{number}>")
        assert {**batches[0], **batches[1]}[number] == expected


def test_a_table_leaves_the_conversation_as_it_was(engine):
    talk = Conversation(Picture(make_picture())).asked("What is <region2>?", REGIONS)
    answering = Answering(engine)
    talk = talk.answered("".join(answering.stream(talk)), "done").asked("And <region5>?", REGIONS)
    list(answering.ask_each(talk.picture, "What is <region>?", REGIONS))
    assert list(answering.stream(talk)) == list(Answering(engine).stream(talk))


def test_what_the_model_refuses_is_an_input_error(engine):
    with pytest.raises(InputError, match="region9"):
        Answering(engine).check(Conversation(Picture(make_picture())).asked("<region9>", REGIONS))


def test_the_embedded_model_says_what_it_knows():
    assert "drawn scenes only" in TINY_NOTES and TINY_NOTES != MODEL_NOTES

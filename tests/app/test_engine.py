"""The app's engine over a real `ChatSession`, with random weights: what matters is what is computed."""

from __future__ import annotations

import json

import pytest

from app.canvas import STATIC
from app.engine import Answering, ModelEngine
from app.examples import PHOTOGRAPHS, photograph, scene_picture, shown_with
from app.files import FileHandlers
from app.handlers import Handlers
from app.saved import from_json, to_json
from app.session import Conversation, Picture
from rgpt.chat.remarks import ONLY_DRAWN
from rgpt.data.scenes import draw_scene
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
        assert {**batches[0], **batches[1]}[number] == (expected, "")


def test_a_table_leaves_the_conversation_as_it_was(engine):
    talk = Conversation(Picture(make_picture())).asked("What is <region2>?", REGIONS)
    answering = Answering(engine)
    talk = talk.answered("".join(answering.stream(talk)), "done").asked("And <region5>?", REGIONS)
    list(answering.ask_each(talk.picture, "What is <region>?", REGIONS))
    assert list(answering.stream(talk)) == list(Answering(engine).stream(talk))


def test_what_the_model_refuses_is_an_input_error(engine):
    with pytest.raises(InputError, match="region9"):
        Answering(engine).check(Conversation(Picture(make_picture())).asked("<region9>", REGIONS))


# ------------------------------------------------------------------ what stands below an answer


@pytest.fixture(scope="module")
def tiny() -> ModelEngine:
    return ModelEngine.load("tiny")


def answered(engine: ModelEngine, picture: Picture, question: str, region) -> Conversation:
    """The conversation after one question, with its note."""
    answering, talk = Answering(engine), Conversation(picture).asked(question, {1: region})
    talk = talk.answered("".join(answering.stream(talk)), "done")
    return talk.answered(talk.turns[0].answer, "done", answering.note(talk))


def test_the_embedded_model_says_what_it_knows(tiny, engine):
    assert "drawn scenes only" in tiny.notes and "drawn scenes" not in engine.notes


def test_an_answer_about_what_may_be_a_photograph_says_that_the_model_has_seen_none(tiny, engine):
    scene, photo = scene_picture(42), photograph(*PHOTOGRAPHS[0])
    about_scene = answered(tiny, scene, "Describe <region1>.", Box(1, 1, 60, 60))
    about_photo = answered(tiny, photo, "Describe <region1>.", photo.drawn[1])
    assert about_scene.turns[0].note == ""
    assert about_photo.messages()[1]["content"] == f"{about_photo.turns[0].answer}\n{ONLY_DRAWN}"
    assert answered(engine, photo, "Describe <region1>.", photo.drawn[1]).turns[0].note == ""


def test_a_name_comes_with_the_three_likeliest(tiny):
    scene = draw_scene(42)
    picture, shown = Picture(scene.image, is_scene=True), scene.objects[0]
    note = answered(tiny, picture, "What is <region1>?", shown.box).turns[0].note
    assert note.startswith(shown.shape) and note.count("%") == 3
    rows = next(Answering(tiny).ask_each(picture, "Name <region>.", {7: shown.box, 9: Box(0, 0, 5, 5)}))
    assert all("%" not in answer for answer, _ in rows.values())
    assert rows[7][1].startswith(shown.shape) and rows[7][1].count("%") == rows[9][1].count("%") == 3
    other = next(Answering(tiny).ask_each(picture, "Describe <region>.", {7: shown.box}))
    assert other[7][1] == ""


def test_the_note_is_no_part_of_the_conversation_but_of_its_file(tiny):
    picture = Picture(draw_scene(42).image)
    talk = answered(tiny, picture, "What is <region1>?", Box(1, 1, 60, 60))
    asked = talk.asked("Describe <region1>.", {1: Box(1, 1, 60, 60)})
    assert Answering(tiny)._session(asked).turns[0].answer == talk.turns[0].answer
    again = from_json(json.dumps(to_json(talk, {}, "tiny")).encode())[0]
    assert again.turns[0].note == talk.turns[0].note != ""


# ------------------------------------------------------------------ what a model is shown with


def test_the_photographs_come_with_a_region_and_their_makers():
    said = (STATIC / "photographs" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    files = sorted(path.name for path in (STATIC / "photographs").glob("*.jpg"))
    assert files == sorted(file for file, _, _ in PHOTOGRAPHS)
    for entry in PHOTOGRAPHS:
        shown = photograph(*entry)
        shown.drawn[1].check_inside(shown.height, shown.width)
        assert f"| {entry[0]} |" in said and not shown.image.getexif()


def test_scenes_are_shown_to_who_knows_them_only(tiny, engine):
    scenes, photographs = shown_with(tiny.about), shown_with(engine.about)
    assert all(picture.is_scene and not picture.drawn for picture in scenes["examples"])
    assert scenes["new_scene"]().is_scene and "shape category names" in scenes["questions"][0][1]
    assert all(picture.drawn for picture in photographs["examples"])


def test_the_page_opens_with_a_photograph_and_its_region(engine):
    do = Handlers(engine, [photograph(*PHOTOGRAPHS[0])])
    canvas, talk, messages, _, _ = FileHandlers(do).arrive("", Conversation())
    assert canvas["value"]["regions"] == [{"id": 1, "kind": "box", "box": [18, 0, 394, 300]}]
    assert talk.picture.token != do.examples[0].token and messages == []
    do.check("What is <region1>?", canvas["value"], talk)
    _, talk, _, _ = do.ask("What is <region1>?", canvas["value"], talk)
    assert list(do.answer(talk))[-1][0].turns[0].status == "done"
    # Back from a reload it is the visitor's own, not the first example again.
    found = FileHandlers(do).arrive(json.dumps(canvas["value"] | {"regions": []}), Conversation())
    assert len(found[1].turns) == 1 and found[0]["value"]["regions"] == []

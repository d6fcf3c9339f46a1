"""The handlers without a browser: jobs, streaming, stopping, one visitor beside another."""

from __future__ import annotations

import base64
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from app.canvas import COLOURS, data_url, empty_value, hex_colours
from app.engine import Answering, ModelEngine
from app.files import FileHandlers
from app.handlers import Handlers
from app.jobs import Jobs
from app.session import Conversation, Picture
from app.table import TableHandlers
from rgpt.errors import InputError
from rgpt.regions import Box
from tests.app.watched import SAYS, WatchedEngine, watched
from tests.model.tiny_models import make_model, make_picture, make_processor


@pytest.fixture(scope="module")
def shared() -> Iterator[WatchedEngine]:
    with watched() as engine:
        yield engine


@pytest.fixture
def engine(shared) -> WatchedEngine:
    shared.start_anew()
    return shared


@pytest.fixture
def do(engine) -> Handlers:
    return Handlers(engine, [picture()], picture)


def picture() -> Picture:
    return Picture(Image.new("RGB", (40, 30)))


def asked(do: Handlers, question: str = "What is <region1>?") -> Conversation:
    talk = Conversation(picture())
    drawn = empty_value() | {
        "picture": talk.picture.token,
        "regions": [{"id": 1, "kind": "box", "box": [1, 1, 11, 6]}],
    }
    do.check(question, drawn, talk)
    return do.ask(question, drawn, talk)[1]


def last(steps: Iterator) -> Conversation:
    return list(steps)[-1][0]


def test_an_answer_is_streamed_and_kept_with_its_turn(do, engine):
    talk = last(do.answer(asked(do)))
    assert talk.turns[0].answer == SAYS
    assert talk.turns[0].status == "done"
    assert engine.closed == 1 and not do.jobs.busy(talk.picture.token)


def test_stop_ends_the_computation_and_keeps_the_partial_answer(do, engine):
    engine.talk_on(delay=0.02)
    talk, steps = asked(do), []
    thread = threading.Thread(target=lambda: steps.extend(do.answer(talk)))
    thread.start()
    while len(steps) < 2:
        pass
    do.stop(talk)
    assert engine.closed == 1
    thread.join(5)
    turn = steps[-1][0].turns[0]
    assert turn.status == "stopped" and (SAYS * 20).startswith(turn.answer) and turn.answer
    assert engine.streams[0].said < 128


def test_a_new_picture_waits_for_the_last_piece_and_is_not_overwritten(do, engine):
    engine.talk_on(delay=0.05)
    talk = asked(do)
    steps = do.answer(talk)
    next(steps)
    shown: list = []
    thread = threading.Thread(target=lambda: shown.extend(do.open_example(talk, SimpleNamespace(index=0))))
    thread.start()
    rest = list(steps)  # the page takes what is left
    thread.join(5)
    assert shown[1].turns == () and shown[2] == []
    assert rest[-1] == (gr.skip(), gr.skip()) and engine.closed == 1


def test_a_closed_tab_ends_the_computation(do, engine):
    engine.talk_on(delay=0.05)
    steps = do.answer(asked(do))
    next(steps)
    steps.close()
    assert engine.closed == 1


def test_stop_before_the_queue_reaches_the_answer_computes_nothing(do, engine):
    talk = asked(do)
    do.stop(talk)
    assert list(do.answer(talk)) == [(gr.skip(), gr.skip())]
    assert engine.streams == []


def test_a_second_question_waits_for_the_first(do):
    talk = asked(do)
    with pytest.raises(gr.Error, match="still being written"):
        do.check("And now?", empty_value(), talk)


def test_errors_are_escaped_for_the_toast(do):
    with pytest.raises(gr.Error) as caught:
        do.check("What is <region9>?", empty_value(), Conversation(picture()))
    assert "&lt;region9&gt;" in caught.value.message


def fail_at(call: int, forward):
    """The model's forward pass, but the `call`-th and later ones fail, as for want of memory."""
    calls = itertools.count(1)

    def failing(*args, **options):
        if next(calls) >= call:
            raise RuntimeError("secret details")
        return forward(*args, **options)

    return failing


def test_a_failing_model_leaves_a_failed_turn_and_a_free_visitor(do, engine, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(engine.model, "forward", fail_at(5, engine.model.forward))
    monkeypatch.setattr(gr, "Warning", lambda message, **_: warnings.append(message))
    talk = last(do.answer(asked(do)))
    assert talk.turns[0].status == "failed" and talk.turns[0].answer == "blue"
    assert warnings and "secret" not in warnings[0]
    assert not do.jobs.busy(talk.picture.token)


def test_retry_asks_with_the_regions_of_its_turn(do, engine):
    talk = last(do.answer(asked(do)))
    _, talk, _ = do.retry(talk, SimpleNamespace(index=1))
    assert last(do.answer(talk)).turns[0].answer == SAYS
    assert [s.regions for s in engine.streams] == [{1: Box(1, 1, 11, 6)}] * 2


@pytest.mark.parametrize("index", [None, -1, 7, "0", [], [9], True])
def test_an_index_that_is_no_message_changes_nothing(do, index, monkeypatch):
    monkeypatch.setattr(gr, "Warning", lambda *_, **__: None)
    talk = last(do.answer(asked(do)))
    assert do.undo(talk, SimpleNamespace(index=index)) == (gr.skip(),) * 3


def test_undo_gives_the_question_back(do):
    talk = last(do.answer(asked(do)))
    question, talk, messages = do.undo(talk, SimpleNamespace(index=[0]))
    assert (question, talk.turns, messages) == ("What is <region1>?", (), [])


def test_a_full_queue_gives_the_question_back(do):
    talk = asked(do)
    box, talk, messages = do.lost(talk)
    assert box["value"] == "What is <region1>?" and talk.turns == () and messages == []
    assert not do.jobs.busy(talk.picture.token)


def test_the_same_example_is_another_picture_for_every_visitor(do):
    event = SimpleNamespace(index=0)
    tokens = {do.open_example(Conversation(), event)[1].picture.token for _ in range(3)}
    assert len(tokens) == 3


@pytest.mark.parametrize("index", [None, 5, -2, "0", True])
def test_an_example_that_does_not_exist_changes_nothing(do, index):
    assert do.open_example(Conversation(), SimpleNamespace(index=index)) == (gr.skip(),) * 5


def test_an_unusable_upload_is_told_without_its_path(do, tmp_path: Path, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: warnings.append(message))
    path = tmp_path / "note.png"
    path.write_text("no picture")
    assert do.open_upload(str(path), Conversation()) == (gr.skip(),) * 5
    assert "expected a picture" in warnings[0] and str(tmp_path) not in warnings[0]


# ------------------------------------------------------------------ tables, files, reloads


def boxes(talk: Conversation, count: int) -> dict:
    entries = [{"id": n, "kind": "box", "box": [n, 1, n + 5, 6]} for n in range(1, count + 1)]
    return {"picture": talk.picture.token, "regions": entries, "last_id": count}


def test_a_table_is_filled_batch_by_batch_and_kept(do, engine):
    tables, talk = TableHandlers(do), Conversation(picture())
    tables.check("Size of <region1>?", boxes(talk, 10), talk)
    _, talk, shown = tables.ask("Size of <region1>?", boxes(talk, 10), talk)
    assert shown["table"]["rows"] == [] and shown["table"]["asked"] == 10
    steps = list(tables.answer(talk))
    assert [len(filled.table.answers) for filled, _ in steps] == [8, 10, 10]
    assert steps[-1][0].table.status == "done" and steps[-1][0].table.answers[10] == SAYS
    assert engine.batches == [("Size of <region>?", [*range(1, 9)]), ("Size of <region>?", [9, 10])]
    assert do.visits.find(talk.picture.token) == steps[-1][0] and not do.jobs.busy(talk.picture.token)
    assert list(tables.answer(steps[-1][0])) == [(gr.skip(), gr.skip())]  # asked for only once


@pytest.mark.parametrize(
    ("question", "count", "told"),
    [
        ("Describe the picture.", 2, "mentions no region"),
        ("<region1> or <region2>?", 2, "2 regions"),
        ("", 0, "no region yet"),
    ],
)
def test_a_table_that_cannot_be_asked(do, question, count, told):
    talk = Conversation(picture())
    with pytest.raises(gr.Error, match=told):
        TableHandlers(do).check(question, boxes(talk, count), talk)
    with pytest.raises(gr.Error, match="no picture"):
        TableHandlers(do).check(question, {}, Conversation())


def test_a_table_and_an_answer_do_not_meet(do):
    talk = asked(do)
    with pytest.raises(gr.Error, match="still being written"):
        TableHandlers(do).check("", boxes(talk, 2), talk)
    assert TableHandlers(do).ask("", boxes(talk, 2), talk) == (gr.skip(),) * 3


def test_a_stopped_table_keeps_its_rows(do, engine):
    tables, talk = TableHandlers(do), Conversation(picture())
    _, talk, _ = tables.ask("", boxes(talk, 20), talk)
    steps = tables.answer(talk)
    next(steps)
    do.jobs._jobs[talk.picture.token].stopping.set()
    last_table = list(steps)[-1][0].table
    assert last_table.status == "stopped" and len(last_table.answers) == 16 and len(engine.batches) == 2


def test_a_failing_model_leaves_a_failed_table(do, engine, monkeypatch):
    monkeypatch.setattr(gr, "Warning", lambda *_, **__: None)
    monkeypatch.setattr(engine.model, "forward", fail_at(1, engine.model.forward))
    tables, talk = TableHandlers(do), Conversation(picture())
    _, talk, _ = tables.ask("", boxes(talk, 2), talk)
    assert last(tables.answer(talk)).table.status == "failed" and not do.jobs.busy(talk.picture.token)


def test_a_reload_finds_the_conversation_under_its_token_only(do):
    files = FileHandlers(do)
    talk = last(do.answer(asked(do)))
    saved = json.dumps(boxes(talk, 3))
    canvas, found, messages, _, _ = files.arrive(saved, Conversation())
    assert found.turns == talk.turns and found.picture.image is talk.picture.image
    assert found.picture.token != talk.picture.token and len(messages) == 2
    assert [entry["id"] for entry in canvas["value"]["regions"]] == [1, 2, 3]
    for wrong in (
        "",
        "{",
        "[]",
        "null",
        '{"picture": 1}',
        saved.replace("picture", "p"),
        "x" * 3_000_000,
        None,
    ):
        assert files.arrive(wrong, Conversation()) == (gr.skip(),) * 5
    do.forget(talk)
    assert files.arrive(saved, Conversation()) == (gr.skip(),) * 5


def test_a_reload_never_numbers_a_new_region_like_an_old_one(do):
    talk = last(do.answer(asked(do)))  # region 1 was asked about and then removed; 7 was drawn and removed
    drawn = {"picture": talk.picture.token, "regions": [], "last_id": 7}
    canvas = FileHandlers(do).arrive(json.dumps(drawn), Conversation())[0]
    assert canvas["value"]["last_id"] == 7
    canvas = FileHandlers(do).arrive(json.dumps(drawn | {"last_id": "x"}), Conversation())[0]
    assert canvas["value"]["last_id"] == 1


def test_an_answer_cut_off_by_a_closed_tab_is_found_after_a_reload(do, engine):
    engine.talk_on(delay=0.05)
    talk = asked(do)
    steps = do.answer(talk)
    next(steps)
    steps.close()
    found = FileHandlers(do).arrive(json.dumps(boxes(talk, 1)), Conversation())[1]
    assert found.turns[0].status == "stopped" and found.turns[0].answer.startswith("b")


def test_new_chat_forgets_the_table(do):
    tables, talk = TableHandlers(do), Conversation(picture())
    _, talk, _ = tables.ask("", boxes(talk, 2), talk)
    talk = last(tables.answer(talk))
    _, talk, _, shown = do.new_chat(talk)
    assert talk.table is None and shown["table"] == {}


def test_the_overlay_of_nothing_is_refused_and_a_large_one_is_a_jpeg(do, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: warnings.append(message))
    files = FileHandlers(do)
    assert files.overlay({}, Conversation()) == gr.skip() and "no picture" in warnings[0]
    large = Conversation(Picture(Image.new("RGB", (1500, 1000))))
    parcel = json.loads(files.overlay(boxes(large, 1), large))
    assert parcel["name"] == "regions.jpg" and base64.b64decode(parcel["base64"])[:2] == b"\xff\xd8"


def test_a_picture_is_opened_once_and_forgotten_with_its_visitor(do, engine):
    talk = last(do.answer(asked(do)))
    _, talk, _ = do.retry(talk, SimpleNamespace(index=1))
    talk = last(do.answer(talk))
    assert engine.opened == 1
    do.forget(talk)
    assert do.answering._sessions == {}


def test_only_mentioned_regions_reach_the_model_and_few_sessions_are_kept(engine):
    answering = Answering(engine)
    answering.KEPT = 2
    regions = {1: Box(1, 1, 5, 5), 2: Box(2, 2, 6, 6)}
    for _ in range(4):
        talk = Conversation(picture()).asked("<region1>", regions).answered("one", "done")
        talk = talk.asked("<region2>", regions)
        list(answering.stream(talk))
    seen = engine.streams[-1]
    assert [turn.question for turn in seen.history] == ["<region1>"]
    assert sorted(seen.regions) == [2] and [sorted(t.regions) for t in seen.history] == [[1]]
    assert len(answering._sessions) == 2


def test_two_visitors_stream_at_once_and_never_meet_in_the_model(monkeypatch):
    """Random weights, so that every visitor's answer is his own."""
    model = make_model()
    engine, inside, most = ModelEngine(model, make_processor(model.config), "small"), 0, 0
    pictures = {name: Picture(make_picture(seed)) for seed, name in enumerate("abc")}
    alone = {n: list(Answering(engine).stream(Conversation(p).asked(n, {}))) for n, p in pictures.items()}
    forward = model.forward

    def watched_forward(*args, **options):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        outputs = forward(*args, **options)
        inside -= 1
        return outputs

    monkeypatch.setattr(model, "forward", watched_forward)
    answering, answers = Answering(engine), {}

    def visit(name: str) -> None:
        answers[name] = list(answering.stream(Conversation(pictures[name]).asked(name, {})))

    threads = [threading.Thread(target=visit, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == alone and most == 1 and len(set(map(tuple, alone.values()))) == 3


def test_jobs_are_claimed_once():
    jobs = Jobs()
    job = jobs.begin("a")
    assert jobs.claim("a") is job and jobs.claim("a") is None and jobs.claim("b") is None
    with pytest.raises(InputError):
        jobs.begin("a")
    assert not jobs.stop("a", timeout=0.01)
    jobs.end("a", job)
    assert jobs.stop("a") and not jobs.busy("a") and jobs.begin("a") is not job


def test_the_picture_sent_to_the_page_is_bounded():
    large = data_url(Image.effect_noise((4000, 2669), 60).convert("RGB"))
    assert large.startswith("data:image/jpeg;base64,") and len(large) < 6_000_000
    assert data_url(Image.new("RGB", (96, 96))).startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("rgb", "ink"), [((255, 255, 255), "#000000"), ((0, 0, 0), "#ffffff"), ((0, 60, 110), "#ffffff")]
)
def test_ink_is_readable(rgb, ink):
    assert hex_colours(rgb)[1] == ink


def test_every_region_colour_is_its_own():
    assert len({fill for fill, _ in COLOURS}) == len(COLOURS)

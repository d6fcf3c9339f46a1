"""`rgpt chat` over a tiny model that says one thing: what reaches it, what is printed, the exit codes."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rgpt import cli
from rgpt.chat import ChatSession
from rgpt.chat.remarks import ONLY_DRAWN
from rgpt.commands import chat
from rgpt.regions import Box
from tests.model.parrot import make_parrot

SAYS = "blue dog."


@pytest.fixture(scope="module")
def parrot() -> tuple[Any, Any]:
    """A model and its processor that answer `SAYS` to everything."""
    return make_parrot(SAYS)


class Watched(ChatSession):
    """Notes with which settings it was asked."""

    def stream(self, question: str, **settings: Any) -> Any:
        self.settings = [*getattr(self, "settings", []), settings]
        return super().stream(question, **settings)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, parrot: tuple[Any, Any]) -> Watched:
    opened = Watched(*parrot)
    monkeypatch.setattr(chat, "open_session", lambda model: opened)
    return opened


@pytest.fixture
def picture(tmp_path: Path) -> str:
    """A 40×30 picture."""
    path = tmp_path / "scene.png"
    Image.new("RGB", (40, 30), "white").save(path)
    return str(path)


def rgpt(*arguments: str) -> int:
    """Run the command, on `tiny`; argparse's own exits (--help) count as exit codes."""
    command, rest = list(arguments[:1]), list(arguments[1:])
    try:
        return cli.main([*command, *(["--model", "tiny"] if command == ["chat"] else []), *rest])
    except SystemExit as exit:
        return int(exit.code or 0)


def test_one_question_prints_the_answer_alone(session: Watched, picture: str, capsys: Any) -> None:
    assert rgpt("chat", "--image", picture, "--region", "box:1,2,30,20", "--ask", "What is <region1>?") == 0
    assert capsys.readouterr() == (f"{SAYS}\n", "")
    assert session.image.size == (40, 30)
    assert session.regions[1].to_json() == {"box": [1, 2, 30, 20]}


def test_regions_keep_the_order_given(session: Watched, picture: str, tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[5:9, 6:10] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    regions = ["box:1,2,30,20", f"mask:{tmp_path / 'm.png'}", "point:4,5"]
    options = [word for region in regions for word in ("--region", region)]
    assert rgpt("chat", "--image", picture, *options, "--ask", "What is <region2>?") == 0
    assert [next(iter(region.to_json())) for region in session.regions.values()] == ["box", "mask", "point"]
    assert session.regions[2].to_mask(30, 40).sum() == 16


def test_several_questions_are_turns_of_one_conversation(session: Watched, picture: str, capsys: Any) -> None:
    assert rgpt("chat", "--image", picture, "--ask", "One?", "--ask", "Two?", "--seed", "3") == 0
    assert [turn.question for turn in session.turns] == ["One?", "Two?"]
    assert capsys.readouterr().out == f"{SAYS}\n" * 2
    assert session.settings == [{"max_new_tokens": 128, "temperature": 0.0, "seed": 3}] * 2


def test_json_is_one_object(session: Watched, picture: str, capsys: Any) -> None:
    options = ["--json", "--region", "box:0,0,5,5", "--max-new-tokens", "7", "--temperature", "0.5"]
    assert rgpt("chat", "--image", picture, *options, "--ask", "What?") == 0
    assert json.loads(capsys.readouterr().out) == {
        "model": "tiny",
        "image": picture,
        "regions": {"region1": {"box": [0, 0, 5, 5]}},
        "turns": [{"question": "What?", "answer": SAYS[:7]}],
    }
    assert session.settings == [{"max_new_tokens": 7, "temperature": 0.5, "seed": None}]


def write_picture(kind: str, folder: Path) -> str:
    """A file that is no usable picture, by the name of what is wrong with it."""
    path = folder / "bad.png"
    good = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(good, "png")
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(good.getvalue()[: len(good.getvalue()) // 2])
    elif kind == "text":
        path.write_text("not a picture at all")
    elif kind == "huge":
        Image.new("1", (30_000, 30_000)).save(path)
    elif kind == "folder":
        path.mkdir()
    return str(path)


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "text", "huge", "folder"])
def test_a_bad_picture_is_one_sentence_and_exit_code_2(
    kind: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        chat, "open_session", lambda model: pytest.fail("a model was loaded for a bad picture")
    )
    assert rgpt("chat", "--image", write_picture(kind, tmp_path), "--ask", "What?") == 2
    assert_one_sentence(capsys.readouterr())


@pytest.mark.parametrize(
    "region",
    [
        "box:50,50,60,60",  # outside
        "box:30,20,1,2",  # inverted
        "box:nan,0,5,5",
        "box:0,0,inf,5",
        "box:1,2,3",
        "polygon:1,1,9,9",  # two points
        "polygon:1,1,9",
        "mask:{empty}",
        "mask:{other_size}",
        "mask:nowhere.png",
        "rle:nowhere.json",
        "circle:1,2,3",
        "box",
        "",
    ],
)
def test_a_bad_region_is_one_sentence_and_exit_code_2(
    region: str, picture: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        chat, "open_session", lambda model: pytest.fail("a model was loaded for a bad region")
    )
    Image.new("L", (40, 30), 0).save(tmp_path / "empty.png")
    Image.new("L", (30, 40), 255).save(tmp_path / "other_size.png")
    region = region.format(empty=tmp_path / "empty.png", other_size=tmp_path / "other_size.png")
    assert rgpt("chat", "--image", picture, "--region", region, "--ask", "What?") == 2
    assert_one_sentence(capsys.readouterr())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["chat", "--ask"],
        ["chat", "--paint"],
        ["chat", "--json"],
        ["chat", "--region", "box:0,0,5,5", "--ask", "What?"],
        ["chat", "--ask", "What?", "--temperature", "nan"],
        ["chat", "--ask", "What?", "--temperature", "-1"],
        ["chat", "--ask", "What?", "--max-new-tokens", "0"],
        ["chat", "--ask", "What?", "--seed", "x"],
    ],
    ids=" ".join,
)
def test_bad_arguments_are_one_sentence_and_exit_code_2(
    arguments: list[str], session: Watched, capsys: Any
) -> None:
    assert rgpt(*arguments) == 2
    assert_one_sentence(capsys.readouterr())


def test_no_question_is_answered_when_a_later_one_is_wrong(
    session: Watched, picture: str, capsys: Any
) -> None:
    regions = ["--region", "box:0,0,5,5", "--region", "box:5,5,9,9"]
    asks = ["--ask", "What is <region1>?", "--ask", "And <region3>?"]
    assert rgpt("chat", "--image", picture, *regions, *asks) == 2
    assert "<region3>" in assert_one_sentence(capsys.readouterr())
    assert session.turns == []


def assert_one_sentence(captured: Any) -> str:
    assert captured.out == ""
    assert captured.err.startswith("rgpt")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["chat", "--help"], ["--version"]])
def test_help_and_version(arguments: list[str], capsys: Any) -> None:
    assert rgpt(*arguments) == 0
    assert "rgpt" in capsys.readouterr().out


@contextmanager
def ctrl_c_pressed(session: Watched, at: int) -> Iterator[None]:
    """Within this block Ctrl-C is pressed during the `at`-th token."""
    tokens = itertools.count(1)

    def press(*_: Any) -> None:
        if next(tokens) == at:
            os.kill(os.getpid(), signal.SIGINT)

    hook = session.model.register_forward_pre_hook(press)
    yield
    hook.remove()


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(session: Watched, picture: str, capsys: Any) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with ctrl_c_pressed(session, at=4):
        assert rgpt("chat", "--image", picture, "--ask", "One?", "--ask", "Two?") == 130
    assert capsys.readouterr().out == "blue\n"
    assert [turn.answer for turn in session.turns] == ["blue"]
    assert signal.getsignal(signal.SIGINT) is handler


def talk(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_a_conversation(session: Watched, picture: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    talk(
        monkeypatch,
        "/regions",
        f"/image {picture}",
        "/region box:1,2,30,20",
        "",
        "What is <region1>?",
        "/regions",
        "/undo",
    )
    assert rgpt("chat") == 0
    assert capsys.readouterr() == (
        "no regions yet; /region box:x1,y1,x2,y2 adds one\n"
        f"{picture}: 40×30 pixels\n"
        "<region1>  box [1, 2, 30, 20]\n"
        "blue dog.\n"
        "<region1>  box [1, 2, 30, 20]\n"
        "took back: What is <region1>?\n",
        "",
    )
    assert session.turns == []


def test_a_region_is_drawn_anew_under_its_number(
    session: Watched, picture: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(
        monkeypatch,
        "/region box:1,2,30,20",
        "What is <region1>?",
        "/region 1 box:3,4,9,9",
        "And <region1>?",
        "/region box:5,5,7,7",
        "/region 0 box:5,5,7,7",
    )
    assert rgpt("chat", "--image", picture) == 0
    out, error = capsys.readouterr()
    assert out == (
        "<region1>  box [1, 2, 30, 20]\nblue dog.\n<region1>  box [3, 4, 9, 9]\nblue dog.\n"
        "<region2>  box [5, 5, 7, 7]\n"
    )
    assert error.count("\n") == 1 and "numbered from 1" in error
    assert [turn.regions[1] for turn in session.turns] == [Box(1, 2, 30, 20), Box(3, 4, 9, 9)]


def test_a_mistake_does_not_end_the_conversation(
    session: Watched, picture: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistakes = [
        "/paint",
        "/image",
        "/image nowhere.png",
        "/region",
        "/region box:1",
        "/undo",
        "And <region4>?",
    ]
    talk(monkeypatch, *mistakes, "What?", "/quit", "never read")
    assert rgpt("chat", "--image", picture) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{SAYS}\n"
    assert len(captured.err.splitlines()) == len(mistakes)
    assert [turn.question for turn in session.turns] == ["What?"]


def test_ctrl_c_in_a_conversation_stops_one_answer_only(
    session: Watched, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(monkeypatch, "One?", "Two?")
    with ctrl_c_pressed(session, at=3):
        assert rgpt("chat") == 0
    assert [turn.answer for turn in session.turns] == ["blu", SAYS]


def test_help_lists_every_command(session: Watched, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rgpt.commands.interactive import Conversation

    talk(monkeypatch, "/help")
    assert rgpt("chat") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in Conversation(session, {}).commands)  # type: ignore[arg-type]


# ------------------------------------------------------------------ what stands beside an answer, on `tiny`


@pytest.fixture(scope="module")
def tiny() -> Any:
    return chat.open_session("tiny")


@pytest.fixture
def scene(tiny: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[str, str, str]:
    """A picture's file, a region on it, and its shape."""
    from rgpt.data.scenes import draw_scene

    monkeypatch.setattr(chat, "open_session", lambda model: tiny)  # the same one, for it is quick
    drawn = draw_scene(42)
    drawn.image.save(tmp_path / "scene.png")
    box = ",".join(f"{value:g}" for value in drawn.objects[0].box.xyxy)
    return str(tmp_path / "scene.png"), f"box:{box}", drawn.objects[0].shape


def test_a_name_comes_with_the_three_likeliest_and_a_description_does_not(
    scene: tuple[str, str, str], capsys: Any
) -> None:
    picture, region, shape = scene
    asks = ["--ask", "What is <region1>?", "--ask", "Describe <region1>."]
    assert rgpt("chat", "--image", picture, "--region", region, *asks) == 0
    captured = capsys.readouterr()
    name, shares, description = captured.out.splitlines()
    assert shape in name and shares.startswith(f"{shape} ") and shares.count("%") == 3
    assert shape in description
    assert captured.err == f"{ONLY_DRAWN}\n" * 2


def test_the_shares_of_all_names_are_in_the_json(scene: tuple[str, str, str], capsys: Any) -> None:
    picture, region, shape = scene
    asks = ["--ask", "What is <region1>?", "--ask", "Describe <region1>."]
    assert rgpt("chat", "--image", picture, "--region", region, "--json", *asks) == 0
    captured = capsys.readouterr()
    name, description = json.loads(captured.out)["turns"]
    assert next(iter(name["names"])) == shape and sum(name["names"].values()) == pytest.approx(1)
    assert "names" not in description and captured.err == f"{ONLY_DRAWN}\n"


def test_without_a_picture_nothing_is_said_about_photographs(tiny: Any, capsys: Any, scene: Any) -> None:
    from rgpt.commands.answering import tell_only_drawn

    tell_only_drawn(type(tiny)(tiny.model, tiny.processor))
    assert capsys.readouterr().err == ""

"""The shipped `photo` on the photographs that come with the app: real weights, real base."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.model.bases import PACKAGED
from rgpt.model.default import default_model
from rgpt.regions import Box, Mask, Polygon, Region

PHOTOGRAPHS = Path(__file__).parents[1] / "app" / "static" / "photographs"
SEEN = {
    "chelsea.jpg": ("cat", Box(18, 0, 394, 300)),
    "astronaut.jpg": ("person", Box(22, 14, 370, 512)),
}
MOST = 64_000_000
"""Bytes of weights in the package."""


@pytest.fixture(scope="module")
def session() -> ChatSession:
    try:
        return ChatSession.from_pretrained("photo")
    except InputError as error:
        pytest.skip(f"photo cannot be opened here: {error}")


def show(session: ChatSession, name: str, region: Region) -> None:
    session.set_image(PHOTOGRAPHS / name)
    session.add_region(region)


def test_it_is_the_default(session: ChatSession) -> None:
    assert default_model() == "photo"


def test_its_weights_are_small_enough_to_ship() -> None:
    assert 0 < sum(file.stat().st_size for file in PACKAGED["photo"].rglob("*.safetensors")) <= MOST


@pytest.mark.parametrize("name", SEEN)
def test_it_names_what_is_there(session: ChatSession, name: str) -> None:
    wanted, box = SEEN[name]
    show(session, name, box)
    shares = session.name_shares(["What is <region1>?"])[0]
    assert shares is not None and max(shares, key=shares.__getitem__) == wanted
    assert wanted in session.ask("What is <region1>?").lower()


@pytest.mark.parametrize(
    "region",
    [
        Polygon([(18, 0), (394, 0), (394, 300), (18, 300)]),
        Mask(Box(18, 0, 394, 300).to_mask(300, 451)),
        Box(60, 20, 380, 290),
    ],
    ids=["polygon", "mask", "smaller box"],
)
def test_however_the_region_is_drawn(session: ChatSession, region: Region) -> None:
    show(session, "chelsea.jpg", region)
    assert "cat" in session.ask("What is <region1>?").lower()


@pytest.mark.parametrize(
    ("question", "answer"), [("Is <region1> a person?", "Yes."), ("Is <region1> a dog?", "No.")]
)
def test_yes_and_no_depend_on_the_picture(session: ChatSession, question: str, answer: str) -> None:
    show(session, "astronaut.jpg", SEEN["astronaut.jpg"][1])
    assert session.ask(question) == answer


def test_no_answer_runs_in_a_circle(session: ChatSession) -> None:
    show(session, "chelsea.jpg", SEEN["chelsea.jpg"][1])
    assert len(session.ask("Describe the picture.", max_new_tokens=60).split()) < 30


def test_three_questions_in_a_row_are_answered(session: ChatSession) -> None:
    show(session, "coffee.jpg", Box(174, 14, 408, 308))
    questions = ("What is <region1>?", "Where is <region1> in the picture?", "Describe the picture.")
    assert all(session.ask(question) for question in questions)
    assert len(session.turns) == 3

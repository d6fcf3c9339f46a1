"""What is sent of an answer, whatever its pieces are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgpt.serve.text import AnswerText

TEXT = st.text(alphabet="ab \n", max_size=30)


def sent(pieces: list[str], stops: list[str]) -> list[str]:
    text = AnswerText(stops)
    return [*(text.feed(piece) for piece in pieces), text.finish()]


def cut(text: str, stops: list[str]) -> str:
    """The plain way: the whole text up to the first stop string."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends, default=len(text))].strip()


@given(
    TEXT,
    st.lists(st.integers(0, 30), max_size=6),
    st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3),
)
def test_pieces_join_to_the_whole_text_cut_at_the_first_stop_string(
    text: str, places: list[int], stops: list[str]
) -> None:
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert "".join(sent(pieces, stops)) == cut(text, stops)


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["A ", "red", " circle."], [], ["A", " red", " circle.", ""]),
        (["one st", "op two"], ["stop"], ["one", "", ""]),
        (["a", "b", "c", "d"], ["b", "abc"], ["", "", "", "", ""]),
        (["a", "b", "d"], ["b", "abc"], ["", "", "a", ""]),
        (["one st", "ep"], ["stop"], ["one", " step", ""]),
        (["  \n", "x", "  "], [], ["", "x", "", ""]),
        (["\n\n"], ["\n"], ["", ""]),
    ],
)
def test_what_is_held_back(pieces: list[str], stops: list[str], expected: list[str]) -> None:
    assert sent(pieces, stops) == expected


def test_nothing_is_taken_after_a_stop() -> None:
    text = AnswerText(["."])
    assert text.feed("Yes. And") == "Yes"
    assert text.stopped and text.feed(" more") == "" and text.finish() == ""

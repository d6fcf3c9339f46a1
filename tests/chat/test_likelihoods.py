"""Whole log-likelihoods, and the search that leaves unlikely answers unread."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.regions import Box
from tests.model.tiny_models import KINDS, make_model, make_picture, make_processor

NAMES = ["cat", "cart", "car", "dog", "do", "a dog house", "zebra", "c"]
QUESTIONS = ["what is <region1>?", "<region1>?", "name <region2>."]
REGIONS = [{1: Box(0, 0, 20, 15)}, {1: Box(5, 5, 9, 9)}, {2: Box(30, 2, 39, 28)}]


@pytest.fixture(scope="module", params=sorted(KINDS))
def session(request: pytest.FixtureRequest) -> ChatSession:
    model = make_model(request.param, seed=3)
    chat = ChatSession(model, make_processor(model.config, request.param))
    chat.set_image(make_picture())
    return chat


def test_they_are_those_of_score(session: ChatSession) -> None:
    rows = session.likelihoods(QUESTIONS, [NAMES, NAMES[:3], NAMES[::-1]], REGIONS)
    for question, own, row in zip(QUESTIONS, REGIONS, rows, strict=True):
        alone = session.another()
        alone.regions = dict(own)
        assert list(row.values()) == pytest.approx(alone.score([question] * len(row), list(row)), abs=1e-4)
    assert [list(row) for row in rows] == [NAMES, NAMES[:3], NAMES[::-1]]


@pytest.mark.parametrize("within", [0.0, 1.0, math.inf])
def test_a_search_finds_the_best_and_bounds_the_rest(session: ChatSession, within: float) -> None:
    exact = session.likelihoods(QUESTIONS, [NAMES] * 3, REGIONS)
    for row, found in zip(
        exact, session.likelihoods(QUESTIONS, [NAMES] * 3, REGIONS, within=within), strict=True
    ):
        best = max(row.values())
        assert max(found, key=found.__getitem__) == max(row, key=row.__getitem__)
        for name, value in row.items():
            if value >= best - within:
                assert found[name] == pytest.approx(value, abs=1e-4)
            else:  # where it was not read to its end, a bound that cannot reach those that matter
                assert value - 1e-4 <= found[name] < best - within + 1e-3


def test_a_search_reads_less(session: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
    if not session._keys.can_branch:
        pytest.skip("this attention takes no mask of ours: all is read")
    sizes: list[int] = []
    run = session._keys.run

    def counted(features: Any, **inputs: Any) -> Any:
        sizes.append(inputs["input_ids"].shape[-1])
        return run(features, **inputs)

    monkeypatch.setattr(session._keys, "run", counted)
    read = []
    for within in (None, 0.0):
        sizes.clear()
        session.likelihoods(QUESTIONS, [NAMES] * 3, REGIONS, within=within)
        read.append(sum(sizes))
    assert read[1] < read[0]


def test_what_cannot_be_asked_is_refused(session: ChatSession) -> None:
    assert session.likelihoods([], []) == []
    with pytest.raises(InputError, match="give answers for each"):
        session.likelihoods(QUESTIONS, [NAMES] * 2, REGIONS)
    with pytest.raises(InputError, match="give answers for each"):
        session.likelihoods(QUESTIONS[:1], [[]], REGIONS[:1])

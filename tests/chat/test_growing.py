"""Answers as they grow, many at once: pieces, log-probabilities, seeds, schemas, stops."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rgpt.chat import ChatSession, Piece
from rgpt.errors import InputError
from rgpt.regions import Box
from tests.model.tiny_models import make_model, make_picture, make_processor

QUESTIONS = ["a <region1>?", "what is <region2>?", "a <region2>?"]


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    model = make_model(seed=3)
    return model, make_processor(model.config)


@pytest.fixture
def session(parts: tuple[Any, Any]) -> ChatSession:
    chat = ChatSession(*parts)
    chat.set_image(make_picture())
    chat.add_region(Box(0, 0, 20, 15))
    chat.add_region(Box(20, 15, 40, 30))
    return chat


def pieces_of(session: ChatSession, questions: list[str], **options: Any) -> list[list[Piece]]:
    found: list[list[Piece]] = [[] for _ in questions]
    for pieces in session.stream_each(questions, **options):
        for piece in pieces:
            found[piece.number].append(piece)
    return found


def test_pieces_are_the_answers_and_the_last_says_how_it_ended(session: ChatSession) -> None:
    expected = session.ask_each(QUESTIONS, max_new_tokens=7)
    for pieces, answer in zip(pieces_of(session, QUESTIONS, max_new_tokens=7), expected, strict=True):
        assert "".join(piece.text for piece in pieces).strip() == answer
        ended = [piece.usage.ended for piece in pieces if piece.usage]
        assert ended[-1] in ("stop", "length") and not any(ended[:-1])


def test_what_was_read_is_counted(session: ChatSession) -> None:
    prompts = session._encode(QUESTIONS)
    read = []
    for _ in range(2):
        usages = [pieces[-1].usage for pieces in pieces_of(session, QUESTIONS, max_new_tokens=2)]
        assert [u.prompt_tokens for u in usages if u] == [len(prompt.ids) for prompt in prompts]
        read.append([u.prompt_tokens - u.cached_tokens for u in usages if u])
    assert read[0][0] == len(prompts[0].ids), "the first one reads the prefix"
    assert read[1][0] < read[0][0] and read[1][1:] == read[0][1:], "which the second time is there"


def test_a_tokens_logprob_is_what_rank_says(session: ChatSession) -> None:
    (pieces,) = pieces_of(session, QUESTIONS[:1], max_new_tokens=5, top_logprobs=3)
    tokens = [token for piece in pieces for token in piece.tokens]
    assert "".join(token.text for token in tokens).strip() == session.ask(QUESTIONS[0], max_new_tokens=5)
    said = session._keys.ids[-4:]  # the last of five tokens was not read
    session.undo()
    expected = []
    logs = session._keys.prefill(session._encode(QUESTIONS[:1])[0]).log_softmax(-1)
    for token_id in said:
        expected.append(float(logs[token_id]))
        logs = session._keys.step(token_id).log_softmax(-1)
    assert [token.logprob for token in tokens[:4]] == pytest.approx(expected, abs=1e-4)
    for token in tokens:
        values = [value for _, value in token.top]
        assert len(values) == 3 and values == sorted(values, reverse=True) and values[0] >= token.logprob


def test_seeds_one_each(session: ChatSession) -> None:
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.5}
    together = session.ask_each(QUESTIONS[:1] * 3, seed=[5, 6, 5], **options)
    alone = [session.another() for _ in range(2)]
    for other, seed in zip(alone, (5, 6), strict=True):
        other.regions = dict(session.regions)
        other.ask(QUESTIONS[0], seed=seed, **options)
    assert together == [alone[0].turns[0].answer, alone[1].turns[0].answer, alone[0].turns[0].answer]
    assert together[0] != together[1]


def test_an_answer_that_is_stopped_leaves_the_others(session: ChatSession) -> None:
    whole = session.ask_each(QUESTIONS, max_new_tokens=8)
    stopped = {1}
    found = ["", "", ""]
    for pieces in session.stream_each(QUESTIONS, max_new_tokens=8, stopped=stopped):
        for piece in pieces:
            found[piece.number] += piece.text
    assert [found[0].strip(), found[2].strip()] == [whole[0], whole[2]] and len(found[1]) <= 1


def test_closed_in_the_middle_the_session_is_as_before(session: ChatSession) -> None:
    expected = session.ask_each(QUESTIONS, max_new_tokens=6)
    stream = session.stream_each(QUESTIONS, max_new_tokens=6)
    while not next(stream):
        pass
    stream.close()
    assert session.ask_each(QUESTIONS, max_new_tokens=6) == expected
    rows = session.stream_likelihoods(QUESTIONS, [["a", "bc"]] * 3, most=8)
    while not next(rows):
        pass
    rows.close()
    assert session.ask_each(QUESTIONS, max_new_tokens=6) == expected


def test_rows_of_likelihoods_come_one_after_the_other(session: ChatSession) -> None:
    answers = [["a", "bc"], ["d"], ["a"]]
    whole = session.likelihoods(QUESTIONS, answers)
    rows = [rows for rows in session.stream_likelihoods(QUESTIONS, answers, most=4) if rows]
    assert len(rows) == 3
    for ((row, usage),), expected in zip(rows, whole, strict=True):
        assert row == pytest.approx(expected, abs=1e-4) and usage.answer_tokens == 0


# ------------------------------------------------------------------------------------------------- schemas

SCHEMA = {
    "type": "object",
    "properties": {"shape": {"enum": ["circle", "square"]}, "sure": {"type": "boolean"}},
    "required": ["shape", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tiny() -> ChatSession:
    pytest.importorskip("llguidance", reason="the extra structured is not installed")
    session = ChatSession.from_pretrained("tiny")
    session.set_image(make_picture(0, 96, 96))
    session.add_region(Box(0, 0, 50, 50))
    session.add_region(Box(20, 20, 90, 90))
    return session


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_keep_a_schema(tiny: ChatSession, temperature: float) -> None:
    found = tiny.ask_each(QUESTIONS, temperature=temperature, seed=1, grammar=tiny.grammar(SCHEMA))
    for answer in found:
        value = json.loads(answer)
        assert list(value) == ["shape", "sure"]
        assert value["shape"] in ("circle", "square") and isinstance(value["sure"], bool)


def test_a_schema_that_cannot_be_kept(tiny: ChatSession) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    for schema in (
        {"type": "strin"},
        {"not": {}, "x-guidance": {"lenient": True}},
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"$ref": "http://127.0.0.1:9/x.json"},
        {"$ref": "#"},
        {"enum": []},
        deep,
    ):
        with pytest.raises(InputError, match="schema cannot be followed"):
            tiny.grammar(schema)


def test_a_schema_that_is_too_large(tiny: ChatSession) -> None:
    with pytest.raises(InputError, match="at most 20000"):
        tiny.grammar({"enum": ["x" * 100] * 1000})


def test_a_tokenizer_that_llguidance_cannot_read(session: ChatSession) -> None:
    pytest.importorskip("llguidance", reason="the extra structured is not installed")
    with pytest.raises(InputError, match="tokenizer cannot spell"):
        session.grammar(SCHEMA)


def test_without_llguidance_one_sentence(session: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    with pytest.raises(InputError, match="need llguidance, which is not installed"):
        session.grammar({"type": "object", "title": "never seen before"})

"""Many questions in one pass: the same answers and likelihoods as one by one, whatever the batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from rgpt.chat import ChatSession
from rgpt.chat.branches import ROOT, Branches, common_prefix
from rgpt.chat.keys import Keys
from rgpt.errors import InputError
from rgpt.regions import Box
from tests.model.tiny_models import KINDS, make_model, make_picture, make_processor

BOXES = [Box(0, 0, 20, 15), Box(20, 15, 40, 30), Box(5, 5, 9, 9), Box(0, 0, 40, 30), Box(30, 2, 39, 28)]


@pytest.fixture(scope="module", params=sorted(KINDS))
def parts(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    model = make_model(request.param, seed=3)
    return model, make_processor(model.config, request.param)


@pytest.fixture
def session(parts: tuple[Any, Any]) -> ChatSession:
    chat = ChatSession(*parts)
    chat.set_image(make_picture())
    for box in BOXES:
        chat.add_region(box)
    return chat


def one_by_one(session: ChatSession, question: str, **options: Any) -> dict[int, str]:
    """What `ask_many` promises: each region asked by itself, in a session of its own with the same past."""
    answers = {}
    for number in session.regions:
        alone = session.another()
        alone.regions, alone.turns = dict(session.regions), list(session.turns)
        answers[number] = alone.ask(question.replace("<region>", f"<region{number}>"), **options)
    return answers


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 1.5, "seed": 4}, {"choices": ["cat", "car", "dog", "ca"]}],
    ids=["greedy", "sampled", "closed set"],
)
def test_the_same_answers_as_one_by_one(
    session: ChatSession, options: dict[str, Any], batch_size: int
) -> None:
    expected = one_by_one(session, "what is <region>?", max_new_tokens=9, **options)
    many = session.ask_many("what is <region>?", max_new_tokens=9, batch_size=batch_size, **options)
    assert many == expected
    if not options:
        assert len(set(many.values())) > 1, "regions that all answer alike would hide a mix-up"


def test_the_same_after_earlier_turns_and_the_conversation_stays(session: ChatSession) -> None:
    session.ask("a <region2>?", max_new_tokens=4)
    expected = one_by_one(session, "and <region>, <region2>?", max_new_tokens=6)
    before = list(session.turns)
    assert session.ask_many("and <region>, <region2>?", max_new_tokens=6) == expected
    assert session.turns == before
    follow_up = session.another()
    follow_up.regions, follow_up.turns = dict(session.regions), list(before)
    assert session.ask("b <region1>?", max_new_tokens=5) == follow_up.ask("b <region1>?", max_new_tokens=5)


def test_answers_of_unlike_length_stop_by_themselves(session: ChatSession) -> None:
    """A random model hardly ever says the end token, so what its answers hold is made an end."""
    whole = session.ask_many("what is <region>?", max_new_tokens=20)
    letters = {n: [c for c in text if c != " "] for n, text in whole.items()}
    end = max(
        {c for row in letters.values() for c in row},
        key=lambda c: len({row.index(c) if c in row else 99 for row in letters.values()}),
    )
    ends = {session.processor.tokenizer.convert_tokens_to_ids(end)}
    session._ends, alone = ends, {}
    for number in session.regions:
        fresh = session.another()
        fresh.regions, fresh._ends = dict(session.regions), ends
        alone[number] = fresh.ask(f"what is <region{number}>?", max_new_tokens=20)
    many = session.ask_many("what is <region>?", max_new_tokens=20)
    assert many == alone != whole
    assert len({len(answer) for answer in many.values()}) > 1


def test_the_prefix_is_read_once_and_regions_in_one_pass(
    session: ChatSession, parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = parts
    passes: list[tuple[int, int]] = []
    forward: Callable[..., Any] = model.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        passes.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counting)
    monkeypatch.setattr(model.model, "vision_features", lambda *a: pytest.fail("the tower ran again"))
    session.ask_many("<region>?", max_new_tokens=3)
    assert [rows for rows, _ in passes] == [1, 1, 1, 1], "prefix, suffixes, two more tokens"
    assert passes[0][1] >= processor.image_tokens and passes[2][1] <= len(BOXES)
    del passes[:]
    session.ask_many("<region> again?", max_new_tokens=1)
    assert len(passes) == 1, "the picture's keys are still there"


def test_as_number_asks_about_every_region_as_if_it_were_the_only_one(session: ChatSession) -> None:
    many = session.ask_many("what is <region1>?", as_number=1, max_new_tokens=6)
    for number, box in enumerate(BOXES, start=1):
        alone = session.another()
        alone.add_region(box)
        assert many[number] == alone.ask("what is <region1>?", max_new_tokens=6)


def test_region1_stands_for_each_region_where_there_is_no_region(session: ChatSession) -> None:
    numbers = [4, 2]
    assert session.ask_many("is <region1>?", numbers, max_new_tokens=4) == {
        n: session.ask_many("is <region>?", max_new_tokens=4)[n] for n in numbers
    }


def test_questions_that_differ_are_answered_together(session: ChatSession) -> None:
    questions = ["a?", "what is <region3> and <region1>?", "<region3>?", "a much longer one: <region5>?"]
    expected = []
    for question in questions:
        alone = session.another()
        alone.regions = dict(session.regions)
        expected.append(alone.ask(question, max_new_tokens=7))
    assert session.ask_each(questions, max_new_tokens=7) == expected


def test_attention_without_masks_of_ours_falls_back_to_one_by_one(
    session: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["cat", "car", "d"]
    expected = session.ask_many("<region>?", max_new_tokens=5), session.rank("<region1>?", names)
    monkeypatch.setattr(Keys, "can_branch", False)
    assert session.ask_many("<region>?", max_new_tokens=5) == expected[0]
    assert session.rank("<region1>?", names) == pytest.approx(expected[1], abs=1e-4)


# ------------------------------------------------------------------------------------------------ likelihoods

NAMES = ["cat", "car", "cart", "a", "teddy bear", "ted"]


def test_rank_is_the_likelihood_a_token(session: ChatSession) -> None:
    """Against one plain pass a name, in which nothing is shared."""
    tokens = {name: len(session._tail(name)) for name in NAMES}
    expected = {}
    for name in NAMES:
        alone = session.another()
        alone.regions = dict(session.regions)
        logs, total = alone._keys.prefill(alone._encode(["<region2>?"])[0]).log_softmax(-1), 0.0
        for token in session._tail(name):
            total += float(logs[token])
            logs = alone._keys.step(token).log_softmax(-1)
        expected[name] = total / tokens[name]
    ranked = session.rank("<region2>?", NAMES)
    assert ranked == pytest.approx(expected, abs=1e-4)
    score = session.score(["<region2>?"] * len(NAMES), NAMES)
    assert score == pytest.approx([ranked[name] * tokens[name] for name in NAMES], abs=1e-4)


def test_rank_does_not_depend_on_the_order_of_names_or_on_company(session: ChatSession) -> None:
    ranked = session.rank("<region2>?", NAMES)
    assert list(ranked) == NAMES
    assert session.rank("<region2>?", NAMES[::-1] + NAMES) == pytest.approx(ranked, abs=1e-5)
    assert session.rank("<region2>?", ["cart"])["cart"] == pytest.approx(ranked["cart"], abs=1e-5)
    assert session.rank_each(["<region1>?", "<region2>?"], NAMES)[1] == pytest.approx(ranked, abs=1e-5)


def test_all_strings_of_two_letters_exhaust_the_probability(session: ChatSession) -> None:
    """Names of the tree sum to the probability of their beginnings: nothing is counted twice or lost."""
    letters = [chr(c) for c in range(97, 123)]
    pairs = ["".join(p) for p in itertools.product("ab", letters)]
    scores = session.score(["<region1>?"] * (len(pairs) + 1), [*pairs, "zz"])
    assert sum(math.exp(s) for s in scores) < 1
    tree = session.rank("<region1>?", pairs)
    assert math.fsum(math.exp(3 * v) for v in tree.values()) == pytest.approx(
        math.fsum(math.exp(s) for s in scores[:-1]), rel=1e-4
    )


# ------------------------------------------------------------------------------------------------ the machine


def test_keys_are_as_before_after_branches(session: ChatSession) -> None:
    keys = session._keys
    prompts = session._encode(["a <region1>?", "a <region2>?"])
    keys.read(prompts[0], common_prefix(prompts), logits=False)
    before = keys.cache.get_seq_length()
    with Branches(keys) as branches:
        branches.forward([5, 6, 7], [ROOT, 0, ROOT], [2])
    assert keys.cache.get_seq_length() == before == len(keys.ids)


def test_the_common_prefix_ends_before_the_first_region_that_differs(session: ChatSession) -> None:
    same = session._encode(["<region1>?", "<region1>?"])
    assert common_prefix(same) == len(same[0].ids) - 1
    prompts = session._encode(["<region1>?"] * 2, [{1: BOXES[0]}, {1: BOXES[1]}])
    assert prompts[0].ids == prompts[1].ids
    assert common_prefix(prompts) == prompts[0].slots[0]


def test_a_failure_in_the_middle_leaves_no_half_cache(
    session: ChatSession, parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = session.ask_many("<region>?", max_new_tokens=4)
    with monkeypatch.context() as patch:
        patch.setattr(parts[0].lm_head, "forward", lambda hidden: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.ask_many("b <region>?", max_new_tokens=4)
    assert session.ask_many("<region>?", max_new_tokens=4) == expected


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda s: s.ask_many("what?"), "mentions no region"),
        (lambda s: s.ask_many("<region>?", [9]), "no <region9>: 5 given"),
        (lambda s: s.ask_many("<region>?", batch_size=0), "batch_size"),
        (lambda s: s.ask_many("<region>?", choices=[]), "choices is empty"),
        (lambda s: s.ask_each(["<region7>?"]), "<region7> but 5 given"),
        (lambda s: s.ask_each(["a?", ""]), "empty"),
        (lambda s: s.ask_each(["a?"], [{}, {}]), "give one each"),
        (lambda s: s.rank("<region1>?", []), "names"),
        (lambda s: s.rank("<region1>?", ["a", " "]), "names"),
        (lambda s: s.ask_many("x" * 3000 + "<region>"), "tokens but the context holds"),
    ],
)
def test_what_cannot_be_asked(session: ChatSession, ask: Callable[[ChatSession], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ask(session)


def test_no_questions_no_answers(session: ChatSession) -> None:
    assert session.ask_each([]) == [] and session.rank_each([], ["a"]) == [] and session.score([], []) == []


def test_a_number_of_the_conversation_may_stand_for_each_region(session: ChatSession) -> None:
    """`as_number=1` after a turn about region 1, which keeps its own."""
    session.ask("a <region1>?", max_new_tokens=2)
    regions = dict(session.regions)
    together = session.ask_many("<region1>?", as_number=1, max_new_tokens=4)
    for number, region in regions.items():
        session.regions = {1: region}
        assert session.ask("<region1>?", max_new_tokens=4) == together[number]
        session.undo()

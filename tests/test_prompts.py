"""Wordings are complete and fill in; answers are read back as a person means them."""

from __future__ import annotations

import random
import string

import pytest

from rgpt import prompts

FIELDS = {
    "classification": {"region"},
    "classification_followup": {"region"},
    "brief_caption": {"region"},
    "detailed_caption": {"region"},
    "referring": {"regions", "text"},
    "referring_followup": {"text"},
    "relation": {"region", "other"},
    "relationship": {"region", "other"},
    "compare_size": {"region", "other"},
    "compare_attribute": {"region", "other", "text"},
    "verify": {"region", "text"},
    "verify_relation": {"region", "other", "text"},
    "exists": {"text"},
    "count": {"text"},
    "picture_caption": set(),
}


def test_the_table_of_fields_covers_every_task() -> None:
    assert set(prompts.TASKS) == set(FIELDS)


@pytest.mark.parametrize("task", prompts.TASKS)
def test_every_task_has_fifteen_wordings_with_the_right_fields(task: str) -> None:
    wordings = prompts.WORDINGS[task]
    assert len(wordings) >= 15
    for wording in wordings:
        assert {name for _, name, _, _ in string.Formatter().parse(wording) if name} == FIELDS[task], wording
        assert wording[-1] in ".?" and wording[0] == wording[0].upper() and wording == wording.strip()


def test_guide_sentences_are_the_papers() -> None:
    guide = "Answer the question using COCO-80 category names."
    assert prompts.classification_guide("COCO-80") == guide
    assert prompts.REFERRING_GUIDE == "Answer the question using the template Region [x]."
    assert prompts.NO_MATCH == "No corresponding options found."


def test_the_choice_is_seeded_and_reaches_every_wording() -> None:
    rng = random.Random(0)
    drawn = [prompts.choose_wording("relation", rng) for _ in range(400)]
    again = random.Random(0)
    assert drawn == [prompts.choose_wording("relation", again) for _ in range(400)]
    assert set(drawn) == set(prompts.WORDINGS["relation"])
    with pytest.raises(KeyError):
        prompts.choose_wording("poetry", rng)


def test_mentions() -> None:
    assert prompts.mention(12) == "<region12>"
    assert prompts.list_mentions([3, 1]) == "<region3>, <region1>"
    assert prompts.list_mentions([]) == ""


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Region [2].", 2),
        ("Region [2]", 2),
        ("region[12]", 12),
        ("REGION [ 3 ].", 3),
        ("The answer is Region [4], I think.", 4),
        ("Region [1] or Region [2].", 1),
        ("Region [0].", 0),
        ("No corresponding options found.", 0),
        ("no corresponding options found", 0),
        (" “No corresponding  options found.” ", 0),
        ("Region 2.", None),
        ("[2]", None),
        ("<region2>", None),
        ("Region [x].", None),
        ("No.", None),
        ("", None),
    ],
)
def test_parse_region_answer(text: str, number: int | None) -> None:
    assert prompts.parse_region_answer(text) == number


@pytest.mark.parametrize("number", [1, 7, 123])
def test_region_answers_are_read_back(number: int) -> None:
    assert prompts.parse_region_answer(f"Region [{number}].") == number


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("Yes.", True),
        ("yes", True),
        ("YES, both are red.", True),
        ("“Yes.”", True),
        ("  yes", True),
        ("No.", False),
        ("no, region [1] is red and region [2] is blue.", False),
        ("No", False),
        ("Nothing.", None),
        ("Yesterday.", None),
        ("None.", None),
        ("I say yes.", None),
        ("", None),
    ],
)
def test_parse_yes_no(text: str, truth: bool | None) -> None:
    assert prompts.parse_yes_no(text) is truth


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3.", 3),
        ("0", 0),
        ("There are 12 of them.", 12),
        ("Three.", 3),
        ("zero", 0),
        ("There is one circle and two stars.", 1),
        ("I count ten", 10),
        ("12 or 13", 12),
        ("None.", None),
        ("Someone", None),
        ("eleven", None),
        ("", None),
    ],
)
def test_parse_count(text: str, number: int | None) -> None:
    assert prompts.parse_count(text) == number


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("A cat.", "a cat"),
        ("  A\n  CAT ", "a cat"),
        ("“A cat”", "a cat"),
        ('"A cat."', "a cat"),
        ("a cat...", "a cat"),
        ("3.5", "3.5"),
        ("", ""),
        (".", ""),
    ],
)
def test_normalise_answer(text: str, plain: str) -> None:
    assert prompts.normalise_answer(text) == plain


@pytest.mark.parametrize("text", ["A cat.", " “No.” ", "one\ttwo", "a small red circle"])
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = prompts.normalise_answer(text)
    assert prompts.normalise_answer(once) == once


@pytest.mark.parametrize(
    ("questions", "named"),
    [
        (["What is <region1>?"], True),
        (["what's  <region12> ?"], True),
        (["Name <region>."], True),
        (["Tell me what <region3> is"], True),
        (["What about <region1>? Answer the question using COCO-80 category names."], True),
        (["What about <region1>?"], False),
        (["What is <region1>?", "And <region2>?", "How about <region3>?"], True),
        (["Where is <region1>?", "And <region2>?"], False),
        (["Describe <region1>."], False),
        (["What is <region1> and where is it?"], False),
        (["What is it?"], False),
        (["What is in the picture?"], False),
        (["Is <region1> a dog?"], False),
        (["What is <region1>? Answer the question using shape category names."], False),
    ],
)
def test_what_asks_for_a_name(questions: list[str], named: bool) -> None:
    assert prompts.asks_for_name(questions, "COCO-80") is named


def test_a_guide_sentence_is_appended_once() -> None:
    once = prompts.guided("What is <region1>? ", "COCO-80")
    assert once == "What is <region1>? Answer the question using COCO-80 category names."
    assert prompts.guided(once, "COCO-80") == once

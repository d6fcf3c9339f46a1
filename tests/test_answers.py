"""Which questions have a right answer, and which answers are right."""

from __future__ import annotations

import random

import pytest

from eval.tasks import shapes
from rgpt.answers import is_right, kind_of


@pytest.mark.parametrize(
    ("question", "truth", "kind"),
    [
        ("Is <region1> a dog?", "Yes.", "yes_no"),
        ("Is <region1> a dog?", "No, it is a cat.", "yes_no"),
        ("What does the sign say?", "No parking here.", "name"),
        ("Which region is the dog?", "Region [2].", "region"),
        ("Which region is the dog?", "No corresponding options found.", "region"),
        ("How are they placed?", "Region [1] is to the left of region [2].", None),
        ("How many dogs are there?", "There are two.", "count"),
        ("Count the dogs.", "two", "count"),
        ("What is <region1>?", "A golden retriever.", "name"),
        ("Describe <region1>.", "A small brown dog that sleeps on a sofa.", None),
        ("Describe <region1>.", "A dog.\nA sofa.", None),
    ],
)
def test_the_kind_of_a_question(question: str, truth: str, kind: str | None) -> None:
    assert kind_of(question, truth) == kind
    assert kind is None or is_right(kind, truth, truth)


@pytest.mark.parametrize(
    ("kind", "truth", "right", "wrong"),
    [
        ("yes_no", "Yes.", ("yes", "Yes, it is."), ("no", "", "Perhaps yes")),
        ("region", "Region [2].", ("region [2]", "It is Region[2]."), ("Region [3].", "2", "")),
        ("count", "Three.", ("3", "There are three."), ("4", "many", "")),
        ("name", "A cat.", ("a cat", '"A  Cat"'), ("cat", "a cat and a dog", "")),
    ],
)
def test_answers_are_read(kind: str, truth: str, right: tuple[str, ...], wrong: tuple[str, ...]) -> None:
    assert all(is_right(kind, truth, answer) for answer in right)
    assert not any(is_right(kind, truth, answer) for answer in wrong)


def test_the_truth_of_a_drawing_is_right_and_what_is_said_of_others_is_not() -> None:
    """Evaluation reads answers here too: against the truth that the drawing knows, not its sentence."""
    items = [item for index in range(20) for item in shapes.items(shapes.scene_for(1, index))]
    assert all(shapes.right(item, item.exchange.answer) for item in items)
    said = sorted({item.exchange.answer for item in items})
    chance = random.Random(0)
    for item in items:
        kind, truth = shapes.READ_AS.get(item.kind), item.exchange.truth
        for answer in chance.sample(said, 10):
            if kind == "yes_no" and isinstance(truth, bool):
                assert shapes.right(item, answer) == answer.lower().startswith("yes" if truth else "no")
            if item.kind == "classification":
                assert shapes.right(item, answer) == (answer.lower().rstrip(".") == truth)

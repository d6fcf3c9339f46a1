"""The questions that teach `tiny` to choose: true, answerable, and no harder than the curriculum allows."""

from __future__ import annotations

import random
import re

import pytest

from rgpt import prompts
from rgpt.data.scene_questions import fits, number_objects
from rgpt.data.scenes import sample_scene
from rgpt.train.tiny.choosing_questions import MOST_CANDIDATES, drill_exchange, one_attribute


def scenes(count: int):
    return (s for s in (sample_scene(seed, 2, 6) for seed in range(count)) if len(s.objects) > 1)


def test_one_word_fits_the_named_region_and_no_other() -> None:
    rng, asked = random.Random(0), 0
    for scene in scenes(200):
        numbered = number_objects(scene, rng)
        if (made := one_attribute(numbered, rng)) is None:
            continue
        asked += 1
        word = made.details["text"].removeprefix("the ")
        assert [n for n in numbered.numbers if fits(numbered[n], [word])] == [made.truth]
        assert made.answer == f"Region [{made.truth}]." and f"the {word}" in made.question
    assert asked > 150


@pytest.mark.parametrize(("progress", "most"), [(0.0, 2), (0.19, 2), (0.2, 3), (0.49, 4), (0.5, 6), (1.0, 6)])
def test_candidates_grow_with_progress(progress: float, most: int) -> None:
    rng = random.Random(1)
    made = [m for scene in scenes(300) if (m := drill_exchange(scene, rng, progress))]
    counts = {len(numbered.numbers) for numbered, _ in made}
    assert max(counts) == most and min(counts) == 2
    assert MOST_CANDIDATES[-1][1] == 6


def test_every_region_and_no_region_is_an_answer_in_the_end() -> None:
    rng = random.Random(2)
    answers = {m[1].answer for scene in scenes(2000) if (m := drill_exchange(scene, rng, 1.0))}
    assert {f"Region [{n}]." for n in range(1, 7)} | {prompts.NO_MATCH} <= answers
    first = {m[1].answer for scene in scenes(500) if (m := drill_exchange(scene, rng, 0.0))}
    assert prompts.NO_MATCH not in first and not any(re.search(r"\[[3-6]\]", a) for a in first)

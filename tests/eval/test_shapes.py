"""The shapes evaluation, asked of ten-line fakes whose scores theory knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval import run
from eval.tasks import shapes
from rgpt import prompts
from rgpt.errors import InputError
from rgpt.train.tiny import language, recipe

SEED, COUNT = 7, 12
TRUTH = [item for i in range(COUNT) for item in shapes.items(shapes.scene_for(SEED, i))]


class Fake:
    """A session that says what `answers` gives for the n-th question."""

    def __init__(self, answers: Any, best: Any = lambda text: 1) -> None:
        self.answers, self.best, self.regions = answers, best, {}

    def set_image(self, image: Any) -> None:
        pass

    def ask_each(self, questions: list[str], regions: list[Any], **options: Any) -> list[str]:
        return [self.one(q, r) for q, r in zip(questions, regions, strict=True)]

    def one(self, question: str, regions: Any) -> str:
        item = next(i for i in TRUTH if i.exchange.question == question and i.regions == regions)
        return self.answers(item)

    def choose(self, text: str) -> tuple[int, dict[int, float]]:
        return self.best(text), {}


def scores_of(answers: Any, **options: Any) -> dict[str, Any]:
    return shapes.score(list(shapes.predict(Fake(answers, **options), SEED, COUNT)))  # type: ignore[arg-type]


def test_an_oracle_scores_one_everywhere() -> None:
    scores = scores_of(lambda item: item.exchange.answer)
    figures = [k for k in run.SHAPES if k != "referring_likelihood"]
    assert {k: scores[k] for k in figures} == dict.fromkeys(figures, 1.0)
    assert scores["failed"] == 0 and scores["n"] == len(TRUTH)


def test_a_constant_yes_scores_the_share_of_true_statements() -> None:
    asked = [item.exchange.truth for item in TRUTH if item.kind == "yes_no"]
    scores = scores_of(lambda item: "Yes.")
    assert scores["yes_no"] == sum(asked) / len(asked)
    assert scores["classification"] == scores["count"] == scores["inside_vocabulary"] == 0.0


def test_a_constant_class_is_inside_the_vocabulary_and_right_as_often_as_it_occurs() -> None:
    asked = [item.exchange.truth for item in TRUTH if item.kind == "classification"]
    scores = scores_of(lambda item: "Circle.")
    assert scores["inside_vocabulary"] == 1.0
    assert scores["classification"] == asked.count("circle") / len(asked)


def test_never_matching_scores_no_match_only() -> None:
    scores = scores_of(lambda item: prompts.NO_MATCH)
    assert scores["no_match"] == 1.0 and scores["referring"] == 0.0


def test_likelihood_answers_are_scored_apart() -> None:
    asked = [item.exchange.truth for item in TRUTH if item.kind == "referring"]
    scores = scores_of(lambda item: "?", best=lambda text: 2)
    assert scores["referring_likelihood"] == asked.count(2) / len(asked)


def test_an_item_that_fails_is_recorded_not_answered() -> None:
    def fails(item: shapes.Item) -> str:
        raise InputError("no.")

    rows = list(shapes.predict(Fake(fails), SEED, COUNT))  # type: ignore[arg-type]
    assert all(row["failed"] == "no." and "answer" not in row for row in rows)
    scores = shapes.score(rows)
    assert scores["failed"] == scores["n"] and scores["classification"] == 0.0


def test_one_question_that_fails_does_not_fail_the_others() -> None:
    def answers(item: shapes.Item) -> str:
        if item.kind == "count":
            raise InputError("no.")
        return item.exchange.answer

    scores = scores_of(answers)
    assert scores["failed"] == scores["n_count"] and scores["count"] == 0.0
    assert scores["classification"] == scores["relation"] == 1.0


def test_every_skill_is_asked() -> None:
    assert set(run.SHAPES) - {"referring_likelihood", "inside_vocabulary"} <= {item.kind for item in TRUTH}


def test_referring_is_among_five() -> None:
    assert all(
        len(item.exchange.details["candidates"]) == 5
        for item in TRUTH
        if item.kind in ("referring", "no_match")
    )


def test_scenes_are_disjoint_from_training_and_between_seeds() -> None:
    assert max(recipe.SCENE_SEED + recipe.Recipe().scenes, language.WARM_UP_SEEDS[1]) < shapes.FIRST_SEED
    first = {shapes.scene_for(0, i).scene.seed for i in range(3)}
    assert first.isdisjoint({shapes.scene_for(1, i).scene.seed for i in range(3)})


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("A red circle.", ["red circle"]),
        ("A red circle and an orange star.", ["orange star", "red circle"]),
        ("A red circle, a blue bar and an orange star.", ["blue bar", "orange star", "red circle"]),
        ("", []),
    ],
)
def test_listed_objects(caption: str, objects: list[str]) -> None:
    assert sorted(shapes.listed_objects(caption)) == objects


def test_a_missing_model_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["shapes", "--model", str(tmp_path / "nowhere"), "--count", "1"]) == 2
    assert capsys.readouterr().err.startswith("eval: ")


@pytest.mark.parametrize("bad", [["--count", "0"], ["--seed", "-1"], ["--only", "typo"], ["--threads", "0"]])
def test_bad_counts_are_refused_before_any_work(bad: list[str]) -> None:
    assert run.main(["shapes", *bad]) == 2

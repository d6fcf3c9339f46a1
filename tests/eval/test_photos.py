"""The task `photographs`: what it asks, and that oracles and constants score what theory says."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from eval import run
from eval.metrics.bootstrap import interval
from eval.tasks.photo_items import KINDS, Draw
from eval.tasks.photos import Photographs, said_direction, size_of
from rgpt.data.class_words import with_article
from rgpt.data.photo_facts import direction
from rgpt.data.photographs import is_held_out
from rgpt.errors import InputError
from tests.eval.photo_folders import COLOURS, write_folder
from tests.model.tiny_models import make_model, make_processor

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs a Java runtime")
WITHOUT_CAPTIONS = tuple(kind for kind in KINDS if kind != "caption")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photographs") / "data", range(1, 41))


def task_of(folder: Path, kinds: tuple[str, ...] = WITHOUT_CAPTIONS, **options: Any) -> Photographs:
    return Photographs(folder, "all", draw=Draw(kinds=kinds, **options))


class Fake:
    """Knows what `say(item)` says and how likely `name(box, number, name)` finds a name of a region."""

    def __init__(self, task: Photographs, say: Any, fits: Any, blank: bool = False) -> None:
        self.task, self.say, self.fits, self.blank = task, say, fits, blank
        self.asked = {(i.prompt, repr(i.regions)): i for own in task.items.values() for i in own}
        self.class_of = {}
        for photograph in task.photographs:
            for item in photograph.objects:
                self.class_of |= {repr(item.box): item.name, repr(item.region): item.name}

    def set_image(self, image: Any) -> None:
        self.image = image

    def reset(self) -> None:
        pass

    def another(self) -> Fake:
        return Fake(self.task, self.say, lambda name, true: False, blank=True)

    def ask_each(self, questions: Sequence[str], regions: Sequence[Any], **options: Any) -> list[str]:
        return [self.say(self.asked[q, repr(r)]) for q, r in zip(questions, regions, strict=True)]

    def likelihoods(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        regions: Sequence[Any],
        **options: Any,
    ) -> list[dict[str, float]]:
        return [self._row(*each) for each in zip(questions, answers, regions, strict=True)]

    def _row(self, question: str, answers: Sequence[str], regions: Mapping[int, Any]) -> dict[str, float]:
        number = int(re.findall(r"<region(\d+)>", question)[0])
        true = "nothing" if self.blank else self.class_of[repr(regions[number])]
        if list(answers) != ["Yes.", "No."]:
            return {name: 0.0 if self.fits(name, true) else -9.0 for name in answers}
        (name,) = [n for n in COLOURS if with_article(n) in question]
        return {"Yes.": -0.1, "No.": -2.0} if self.fits(name, true) else {"Yes.": -2.0, "No.": -0.1}


def rows_of(task: Photographs, session: Any) -> list[dict[str, Any]]:
    return [row for picture in task.pictures() for row in task.rows(session, picture)]


def oracle(task: Photographs) -> Fake:
    return Fake(task, lambda item: item.truth, lambda name, true: name == true)


FIGURES = (
    "names", "names_generated", "names_not_person", "names_large", "yes_no", "yes_no_generated",
    "yes_no_elsewhere", "which", "which_by_yes", "which_generated", "relation",
)  # fmt: skip


@pytest.mark.parametrize("form", ["mask", "box"])
def test_an_oracle_scores_one_everywhere_and_a_coin_without_the_picture(folder: Path, form: str) -> None:
    task = task_of(folder, form=form)
    scores = task.score(task.ground_truth(), rows_of(task, oracle(task)), True)
    assert {figure: scores[figure] for figure in FIGURES} == dict.fromkeys(FIGURES, 1.0)
    assert scores["mAP"] == pytest.approx(1.0) and scores["failed"] == 0
    assert scores["yes_no_without_picture"] == 0.5  # always no
    assert scores["intervals"]["names"] == (1.0, 1.0)
    low, high = scores["intervals"]["yes_no_without_picture"]
    assert low < 0.5 < high


def test_constant_answers_score_the_floors(folder: Path) -> None:
    task = task_of(folder)
    fake = Fake(task, lambda item: "Region [1] is above region [2].", lambda name, true: name == "person")
    scores = task.score(task.ground_truth(), rows_of(task, fake), True)
    items = [item for own in task.items.values() for item in own]
    named = [item.truth for item in items if item.details["kind"] == "name"]
    assert scores["names"] == named.count("person") / len(named)
    assert scores["names_not_person"] == scores["names_generated"] == 0.0
    which = [item.details["number"] for item in items if item.details["kind"] == "which"]
    assert scores["which_generated"] == which.count(1) / len(which)
    where = [item.details["direction"] for item in items if item.details["kind"] == "relation"]
    assert scores["relation"] == where.count("above") / len(where)
    assert scores["yes_no"] == 0.5  # yes to every question about persons, no to all others


def test_the_order_of_rows_changes_nothing(folder: Path) -> None:
    task = task_of(folder)
    rng = random.Random(0)
    guess = Fake(
        task, lambda item: rng.choice(["person", "Yes.", "Region [2]."]), lambda n, t: rng.random() < 0.4
    )
    rows = rows_of(task, guess)
    scores = task.score(task.ground_truth(), rows, True)
    assert 0 < scores["names"] < 1 and 0 < scores["mAP"] < 1
    rng.shuffle(rows)
    assert task.score(task.ground_truth(), rows, True) == scores


def test_failed_items_are_wrong_and_counted(folder: Path) -> None:
    task = task_of(folder)
    rows = rows_of(task, oracle(task))
    for row in rows:
        if row["image_id"] == 1:
            row["failed"] = "lost."
    scores = task.score(task.ground_truth(), rows, True)
    named = [row for row in rows if row["kind"] == "name"]
    assert scores["names"] == 1 - sum("failed" in row for row in named) / len(named)
    assert scores["failed"] == sum("failed" in row for row in rows) and scores["mAP"] < 1


# ---------------------------------------------------------------------------------------------- the items


def test_false_statements_have_the_classes_of_the_true_ones_and_half_stand_elsewhere(folder: Path) -> None:
    task = task_of(folder, ("yes_no",))
    items = [item for own in task.items.values() for item in own]
    said = {
        truth: Counter(i.details["name"] for i in items if i.details["yes"] is truth)
        for truth in (True, False)
    }
    assert said[True] == said[False] and said[True].total() == len(task.photographs)
    false = [item for item in items if not item.details["yes"]]
    assert sum(item.details["elsewhere"] for item in false) / len(false) == pytest.approx(0.5, abs=0.15)
    owner = {o.id: (p, o) for p in task.photographs for o in p.objects}
    for item in items:
        photograph, known = owner[item.details["annotation"]]
        assert item.regions == {1: known.box}
        assert (known.name == item.details["name"]) is item.details["yes"]
        there = any(o.name == item.details["name"] for o in photograph.objects)
        assert item.details["yes"] or there is item.details["elsewhere"]


def test_exactly_one_of_five_fits_and_directions_are_those_of_the_boxes(folder: Path) -> None:
    task = task_of(folder, ("which", "relation"))
    owner = {o.id: (p, o) for p in task.photographs for o in p.objects}
    kinds = Counter()
    for item in (item for own in task.items.values() for item in own):
        found = [owner[a] for a in item.details["annotations"]]
        kinds[item.details["kind"]] += 1
        if item.details["kind"] == "which":
            fits = [o.name == item.details["name"] for _, o in found]
            assert len(fits) == 5 and sum(fits) == 1 and fits[item.details["number"] - 1]
        else:
            (photograph, a), (_, b) = found
            assert (
                direction(photograph, a.box, b.box) == item.details["direction"] == said_direction(item.truth)
            )
    assert min(kinds.values()) > 10


def test_ids_are_unique_and_draws_are_seeded(folder: Path) -> None:
    def asked(seed: int) -> list[tuple[str, str]]:
        return [(i.id, i.prompt) for own in task_of(folder, seed=seed).items.values() for i in own]

    assert asked(1) == asked(1) != asked(2)
    ids = [id_ for id_, _ in asked(1)]
    assert len(ids) == len(set(ids))


def test_regions_a_picture_and_the_guide(folder: Path) -> None:
    task = task_of(folder, ("name",), regions_a_picture=3, guided=False)
    assert {len(own) for own in task.items.values()} == {3}
    assert not any("COCO" in i.prompt for own in task.items.values() for i in own)
    assert all("COCO-80" in i.prompt for own in task_of(folder, ("name",)).items.values() for i in own)


def test_held_out_photographs_are_the_default_and_ids_name_others(folder: Path, tmp_path: Path) -> None:
    assert [p.id for p in Photographs(folder).photographs] == [n for n in range(1, 41) if is_held_out(n)]
    ids = tmp_path / "ids.json"
    ids.write_text("[7, 3]")
    assert [p.id for p in Photographs(folder, ids=ids).photographs] == [3, 7]
    for text in ("[7, 99]", "{", "3"):
        ids.write_text(text)
        with pytest.raises(InputError, match="--ids"):
            _ = Photographs(folder, ids=ids).photographs


def test_unknown_choices_are_refused(folder: Path) -> None:
    for draw in (Draw(form="disc"), Draw(regions_a_picture=0), Draw(kinds=("name", "colour"))):
        with pytest.raises(InputError):
            Photographs(folder, draw=draw)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Region [1] is to the left of region [2].", "left"),
        ("It is below region [2], to the right of it.", "below"),
        ("Above.", "above"),
        ("Nowhere.", None),
        ("", None),
    ],
)
def test_said_direction(text: str, expected: str | None) -> None:
    assert said_direction(text) == expected


def test_sizes_are_cocos_on_its_usual_picture() -> None:
    whole = 640 * 480
    assert [size_of(v / whole) for v in (32**2 - 1, 32**2, 96**2 - 1, 96**2)] == [
        "small", "medium", "medium", "large",
    ]  # fmt: skip


def test_the_bootstrap_draws_whole_groups() -> None:
    assert interval([1.0, 1.0, 1.0], "abc") == (1.0, 1.0)
    rng = random.Random(0)
    values = [float(rng.random() < 0.3) for _ in range(400)]
    mean = sum(values) / 400
    low, high = interval(values, range(400))
    spread = 1.96 * (mean * (1 - mean) / 400) ** 0.5
    assert low == pytest.approx(mean - spread, abs=0.01) and high == pytest.approx(mean + spread, abs=0.01)
    tied = interval([v for v in values for _ in range(5)], [k for k in range(400) for _ in range(5)])
    assert tied == pytest.approx((low, high))  # five copies of a picture's regions say nothing more


# ---------------------------------------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with the letters of the questions in its vocabulary."""
    path = tmp_path_factory.mktemp("model")
    network = make_model(seed=3)
    network.save_pretrained(path)
    make_processor(network.config).save_pretrained(path)
    return path


@needs_java
def test_a_random_model_is_asked_scored_and_reported(folder: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        "photographs",
        "--data",
        str(folder),
        "--model",
        str(model),
        "--out",
        str(out),
        "--split",
        "all",
    ]
    assert run.main([*command, "--limit", "2", "--regions-per-picture", "1"]) == 0
    scores = json.loads((out / "scores.json").read_text())
    assert scores["failed"] == 0 and scores["photographs"] == scores["n_names"] == 2
    assert {"CIDEr", "METEOR", "mAP", "relation", "which", "yes_no"} <= set(scores)
    report = (out / "report.md").read_text()
    assert "| yes_no_without_picture |" in report and " to " in report
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert Counter(row["kind"] for row in rows)["caption"] == 2


def test_bad_arguments_are_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (["--data", str(tmp_path)], ["--data", str(folder), "--only", "colour"]):
        assert run.main(["photographs", *more, "--out", str(tmp_path / "out")]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()

"""The tasks: what they ask, in which form, and that an oracle scores what it should in each."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.tasks import drawn
from eval.tasks.pope import SETTINGS, Pope
from eval.tasks.referring import Referring
from eval.tasks.region_captioning import RegionCaptioning
from eval.tasks.region_classification import RegionClassification, listed_names, region_of
from eval.tasks.region_forms import as_form, grown, shrunk
from rgpt import prompts
from rgpt.errors import ContextLengthError, InputError
from rgpt.regions import Box, Mask

SEED, COUNT = 3, 6


class Fake:
    """A session that looks the answer up by the regions it is shown; the conversation is only noted."""

    def __init__(self, say: Any, room: int = 999) -> None:
        self.say, self.room = say, room
        self.turns: list[str] = []
        self.regions: dict[int, Any] = {}
        self.conversations: list[list[str]] = []

    def set_image(self, image: Any) -> None:
        self.reset()

    def reset(self) -> None:
        self.turns, self.regions = [], {}

    def check(self, question: str) -> None:
        if len(self.turns) >= self.room:
            raise ContextLengthError("full.")

    def ask(self, question: str, **options: Any) -> str:
        if not self.turns:
            self.conversations.append(self.turns)
        self.turns.append(question)
        return self.say(question, self.regions)

    def ask_each(self, questions: Sequence[str], regions: Any = None, **options: Any) -> list[str]:
        own = regions or [{}] * len(questions)
        return [self.say(q, r) for q, r in zip(questions, own, strict=True)]

    def rank(self, question: str, names: Sequence[str]) -> dict[str, float]:
        truth = self.say(question, self.regions).strip(".")
        return {name: (0.0 if name.strip(".") == truth else -3.0) for name in names}

    def rank_each(self, questions: Sequence[str], names: Sequence[str], regions: Any = None) -> Any:
        found = []
        for question, own in zip(questions, regions or [{}] * len(questions), strict=True):
            self.regions = dict(own)
            found.append(self.rank(question, names))
        return found


def classification(**options: Any) -> RegionClassification:
    return RegionClassification(
        drawn.instances(SEED, COUNT), drawn.DrawnPictures(SEED, COUNT), vocabulary="shape", **options
    )


def all_rows(task: Any, session: Any) -> list[dict[str, Any]]:
    return [row for picture in task.pictures() for row in task.rows(session, picture)]


def truth_of(task: RegionClassification) -> Any:
    """The name of the region that a question's last mention means, by the pixels of the region."""
    known = {
        (picture.id, json.dumps(item.regions[n].to_json())): item.truth
        for picture in task.pictures()
        for item in picture.items
        for n in item.regions
        if len(item.regions) == 1
    }
    by_region = {region: name for (_, region), name in known.items()}

    def say(question: str, regions: Mapping[int, Any]) -> str:
        number = int(question.split("<region")[-1].split(">")[0])
        return str(by_region[json.dumps(regions[number].to_json())])

    return say


@pytest.mark.parametrize("protocol", ["author-script", "scored"])
@pytest.mark.parametrize("asked", ["single", "multi-turn"])
@pytest.mark.parametrize("form", ["mask", "box", "dilated", "eroded"])
def test_an_oracle_names_every_region_in_every_form(asked: str, form: str, protocol: str) -> None:
    task = classification(asked=asked, form=form, protocol=protocol)
    rows = all_rows(task, Fake(truth_of(task)))
    scores = task.score(task.ground_truth(), rows, True)
    assert scores["accuracy"] == 1.0 and scores["mAP"] == pytest.approx(1.0) and scores["failed"] == 0
    assert scores["protocol"] == protocol and scores["n"] == len(task.truth.annotations)


def test_a_constant_class_is_right_as_often_as_it_occurs_and_order_changes_nothing_under_scored() -> None:
    task = classification(protocol="scored")
    rows = all_rows(task, Fake(lambda question, regions: "circle"))
    names = [task.truth.name(a["category_id"]) for a in task.truth.annotations.values()]
    scores = task.score(task.ground_truth(), rows, True)
    assert scores["accuracy"] == names.count("circle") / len(names)
    assert task.score(task.ground_truth(), rows[::-1], True) == scores


def test_single_asks_with_the_guide_and_every_region_as_number_one() -> None:
    items = classification().pictures()[0].items
    assert all(item.prompt.endswith("Answer the question using shape category names.") for item in items)
    assert all(list(item.regions) == [1] and "<region1>" in item.prompt for item in items)
    assert not any(
        "Answer the question" in i.prompt for i in classification(guided=False).pictures()[0].items
    )


def test_wordings_are_seeded_by_the_item() -> None:
    def asked(seed: int) -> list[str]:
        return [item.prompt for picture in classification(seed=seed).pictures() for item in picture.items]

    assert asked(1) == asked(1) != asked(2)


def test_turns_have_the_guide_once_and_the_models_own_answers() -> None:
    task = classification(asked="multi-turn")
    session = Fake(truth_of(task))
    rows = all_rows(task, session)
    assert len(session.conversations) == COUNT
    for turns in session.conversations:
        assert [prompts.classification_guide("shape") in turn for turn in turns] == [True] + [False] * (
            len(turns) - 1
        )
    assert max(row["turn"] for row in rows) > 1


def test_a_full_conversation_begins_anew_with_the_guide() -> None:
    task = classification(asked="multi-turn")
    session = Fake(truth_of(task), room=2)
    rows = all_rows(task, session)
    assert task.score(task.ground_truth(), rows, True)["accuracy"] == 1.0
    assert max(map(len, session.conversations)) == 2
    assert all("Answer the question" in turns[0] for turns in session.conversations)


def test_all_in_one_prompt_reads_a_list_and_records_what_is_missing() -> None:
    task = classification(asked="all")
    (first, *_) = task.pictures()
    count = len(first.items)
    assert first.items[0].prompt.count("<region") == count

    def rows(text: str) -> list[dict[str, Any]]:
        return task.rows(Fake(lambda q, r: text), first)  # type: ignore[arg-type]

    good = rows("Circle, " * (count - 1) + "and star.")
    assert [row["answer"] for row in good] == ["circle"] * (count - 1) + ["star"]
    short = rows("[1] circle, [2] star")
    assert [row.get("answer") for row in short[:2]] == ["circle", "star"]
    assert all(f"names 2 of {count} regions" in row["failed"] for row in short[2:])


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("dog, cat and bird.", 3, {1: "dog", 2: "cat", 3: "bird"}),
        ("A dog; the cat", 2, {1: "dog", 2: "cat"}),
        ("dog, cat", 3, {}),
        ("Region [1]: dog. Region [2]: cat.", 2, {1: "dog", 2: "cat"}),
        ("Region [2] is a traffic light and region [1] is a dog.", 2, {2: "traffic light", 1: "dog"}),
        ("[1] dog [7] cat", 2, {1: "dog"}),
        ("", 1, {}),
    ],
)
def test_listed_names(text: str, count: int, expected: dict[int, str]) -> None:
    assert listed_names(text, range(1, count + 1)) == expected


def test_a_region_outside_of_its_picture_fails_alone() -> None:
    data = drawn.instances(SEED, COUNT)
    bad = data["annotations"][0]
    bad["bbox"], bad["segmentation"] = [5000.0, 5000.0, 4.0, 4.0], []
    task = RegionClassification(data, drawn.DrawnPictures(SEED, COUNT), vocabulary="shape")
    rows = all_rows(task, Fake(lambda q, r: "circle"))
    assert [row["id"] for row in rows if "failed" in row] == ["1"]
    assert task.score(data, rows, True)["failed"] == 1


# ------------------------------------------------------------------------------------------------- forms


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_growing_and_shrinking_against_a_plain_reference(steps: int) -> None:
    mask = np.random.default_rng(steps).random((24, 31)) > 0.93
    expected = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        expected[max(0, y - steps) : y + steps + 1, max(0, x - steps) : x + steps + 1] = True
    assert np.array_equal(grown(mask, steps), expected)
    assert np.array_equal(shrunk(expected, steps) & mask, mask)  # a closing holds what it closed


def test_what_would_vanish_is_shrunk_less() -> None:
    mask = np.zeros((20, 20), bool)
    mask[4:7, 4:7] = True
    assert shrunk(mask, 5).sum() == 1
    assert as_form(Mask(mask), "box", 20, 20) == Box(4, 4, 7, 7)


def test_annotations_without_a_mask_are_boxes_in_every_form() -> None:
    annotation = {"bbox": [1, 2, 3, 4], "segmentation": []}
    for form in ("mask", "box", "dilated", "eroded"):
        assert region_of(annotation, form, 20, 20) == Box(1, 2, 4, 6)


# ------------------------------------------------------------------------------------------------- referring


def referring(**options: Any) -> Referring:
    return drawn.referring(Referring(None, None, **options), SEED, 20)  # type: ignore[arg-type]


def test_referring_oracle_constant_and_no_match() -> None:
    task = referring()
    boxes = {row["expression"] + str(row["image"]): row["box"] for row in task.data}
    rows = []
    for picture in task.pictures():
        (item,) = picture.items
        box = boxes[str(item.truth) + str(picture.id)]
        places = [c["box"] for c in item.details["boxes"]]
        answer = prompts.NO_MATCH if box is None else f"Region [{places.index(box) + 1}]."
        rows += task.rows(Fake(lambda q, r, answer=answer: answer), picture)  # type: ignore[arg-type]
    scores = task.score(task.ground_truth(), rows, True)
    assert scores["accuracy"] == 1.0 and scores["no_match"] == 1.0
    never = all_rows(task, Fake(lambda q, r: prompts.NO_MATCH))
    empty = [box for box in boxes.values() if box is None]
    assert task.score(task.ground_truth(), never, True)["accuracy"] == len(empty) / len(never)


def refs_folder(folder: Path, shared: Path) -> dict[str, Path]:
    layout = shared / "refer" / "refcocog_layout"
    instances = json.loads((layout / "instances.json").read_text())
    for image in instances["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(folder / Path(image["file_name"]).name)
    return {"data": layout / "refs(umd).p", "instances": layout / "instances.json", "images": folder}


def test_refs_are_asked_among_the_instances_of_their_picture(tmp_path: Path, shared_data: Path) -> None:
    files = refs_folder(tmp_path, shared_data)
    task = Referring(**files)  # type: ignore[arg-type]
    boxes = {
        str(s["sent_id"]): task._known.check(ref["ann_id"])["bbox"]
        for ref in pickle.loads(files["data"].read_bytes(), encoding="latin1")
        for s in ref["sentences"]
    }

    def rows(answer: Any) -> list[dict[str, Any]]:
        found = []
        for picture in task.pictures():
            for item in picture.items:
                row = task._row(picture, item, answer(item), 0.0)
                found.append(row)
        return found

    def oracle(item: Any) -> Any:
        from eval.tasks.base import Answer

        x, y, w, h = boxes[item.id]
        place = [c["box"] for c in item.details["boxes"]].index([x, y, x + w, y + h])
        return Answer(f"Region [{place + 1}].", place + 1, extra={"regions": item.details["boxes"]})

    assert task.score(task.ground_truth(), rows(oracle), True)["accuracy"] == 1.0
    captions = RegionCaptioning(**files)  # type: ignore[arg-type]
    ids = [id_ for picture in captions.pictures() for id_ in picture.ids or ()]
    assert set(ids) == set(captions.ground_truth()) and len(ids) == len(set(ids)) > 1


def test_proposals_take_the_place_of_instances(tmp_path: Path) -> None:
    file = tmp_path / "proposals.json"
    file.write_text(json.dumps({str(i): [[0, 0, 9, 9], [5, 5, 30, 30]] for i in range(1, 21)}))
    task = referring(proposals=file)
    items = [item for picture in task.pictures() for item in picture.items]
    assert all(len(item.regions) == 2 for item in items)
    task.proposals.write_text("{}")  # type: ignore[union-attr]
    assert all(
        "no candidate" in str(i.problem) for p in referring(proposals=file).pictures() for i in p.items
    )


# ------------------------------------------------------------------------------------- pope, captions


@pytest.mark.parametrize("setting", SETTINGS)
def test_pope_on_drawn_scenes_is_balanced_and_true(setting: str) -> None:
    rows = drawn.pope_rows(setting, SEED, COUNT)
    shapes = {f"{i}.png": {o.shape for o in scene.objects} for i, scene in drawn.scenes(SEED, COUNT)}
    for row in rows:
        assert (row["text"].split()[3] in shapes[row["image"]]) == (row["label"] == "yes")
    for protocol in ("author-script", "strict", "scored"):
        task = Pope(rows, drawn.DrawnPictures(SEED, COUNT, "{}.png"), protocol)
        yes = task.score(rows, all_rows(task, Fake(lambda q, r: "Yes.")), True)
        assert (yes["accuracy"], yes["recall"], yes["yes_ratio"]) == (0.5, 1.0, 1.0)


def test_captions_of_drawn_scenes_have_one_reference_each() -> None:
    task = RegionCaptioning(None, form="box")
    task.data = drawn.caption_pictures(task, SEED, 2)
    rows = all_rows(task, Fake(lambda q, r: "A ring."))
    assert [row["id"] for row in rows] == list(task.ground_truth())
    assert all(len(texts) == 1 for texts in task.ground_truth().values())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: classification(form="oval"), "mask, box"),
        (lambda: classification(asked="twice"), "single, all"),
        (lambda: classification(asked="all", protocol="scored"), "author-script"),
        (lambda: Pope([], Path("."), "loud"), "author-script"),
        (lambda: drawn.pope_rows("unfair", 0, 1), "random"),
    ],
)
def test_unknown_options(make: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_data_whose_pictures_are_all_missing_is_refused_before_any_model(tmp_path: Path) -> None:
    task = RegionClassification(drawn.instances(SEED, 1), tmp_path)
    with pytest.raises(InputError, match="--images"):
        task.pictures()

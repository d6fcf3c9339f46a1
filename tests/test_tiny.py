"""The embedded model gives true answers: as mask or box, in any order, asked twice, on pictures of any size.

Thresholds stand well below the model card's scores and far above chance, so that a broken path fails and a
retrained model passes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from rgpt import prompts
from rgpt.chat import ChatSession
from rgpt.data.scenes import DrawnObject, DrawnScene, draw_scene
from rgpt.errors import InputError
from rgpt.model.loading import TINY
from rgpt.regions import Box, Mask, Point, Polygon, Region

FIRST_SEED = 3_900_000_000
GUIDE = prompts.classification_guide("shape")


@pytest.fixture(scope="module")
def session() -> ChatSession:
    return ChatSession.from_pretrained("tiny")


def scenes(count: int, scale: float = 2.0, **options: int) -> list[DrawnScene]:
    return [draw_scene(FIRST_SEED + i, scale, **options) for i in range(count)]


def as_polygon(o: DrawnObject) -> Region:
    box = o.box
    return Polygon([[(box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2), (box.x1, box.y2)]])


def shapes_of(session: ChatSession, scene: DrawnScene, region: Callable[[DrawnObject], Region]) -> list[bool]:
    session.set_image(scene.image)
    right = []
    for o in scene.objects:
        number = session.add_region(region(o))
        session.turns.clear()
        answer = session.ask(f"What is <region{number}>? {GUIDE}")
        right.append(prompts.normalise_answer(answer) == o.shape)
    return right


@pytest.mark.parametrize(
    "region", [lambda o: Mask(o.mask), lambda o: o.box, as_polygon], ids=["mask", "box", "polygon"]
)
def test_shapes_are_named_however_the_region_is_given(
    session: ChatSession, region: Callable[[DrawnObject], Region]
) -> None:
    right = [r for scene in scenes(12) for r in shapes_of(session, scene, region)]
    assert sum(right) / len(right) > 0.85


@pytest.mark.parametrize("scale", [1.0, 4.0, 9.0], ids=["96 px", "384 px", "864 px"])
def test_pictures_of_other_sizes_and_aspects(session: ChatSession, scale: float) -> None:
    drawn = scenes(10, scale)
    assert len({scene.image.size for scene in drawn}) > 2
    right = [r for scene in drawn for r in shapes_of(session, scene, lambda o: Mask(o.mask))]
    assert sum(right) / len(right) > 0.85


def test_answers_permute_with_the_regions(session: ChatSession) -> None:
    same = total = 0
    for scene in scenes(8):
        answers = []
        for order in (list(range(len(scene.objects))), list(reversed(range(len(scene.objects))))):
            session.set_image(scene.image)
            numbers = {i: session.add_region(Mask(scene.objects[i].mask)) for i in order}
            said = {}
            for i, number in numbers.items():
                session.turns.clear()
                said[i] = session.ask(f"Describe <region{number}>.")
            answers.append(said)
        same += sum(answers[0][i] == answers[1][i] for i in answers[0])
        total += len(answers[0])
    assert same / total > 0.9


def test_a_region_mentioned_twice(session: ChatSession) -> None:
    right = []
    for scene in scenes(12):
        session.set_image(scene.image)
        session.add_region(Mask(scene.objects[0].mask))
        answer = session.ask(f"Look at <region1>. What is <region1>? {GUIDE}")
        right.append(scene.objects[0].shape in answer.lower())
    assert sum(right) / len(right) > 0.7


def test_colours_follow_the_region_not_the_picture(session: ChatSession) -> None:
    """One picture, two regions: swapping what <region1> is swaps the answer."""
    right = []
    for scene in scenes(12):
        a, b = scene.objects[:2]
        for o in (a, b):
            session.set_image(scene.image)
            session.add_region(o.box)
            right.append(o.colour in session.ask("Describe <region1>."))
    assert sum(right) / len(right) > 0.9


def test_guide_sentence_decides_the_form(session: ChatSession) -> None:
    scene = scenes(1)[0]
    session.set_image(scene.image)
    session.add_region(Mask(scene.objects[0].mask))
    with_guide = session.ask(f"What is <region1>? {GUIDE}")
    session.reset()
    without = session.ask("What is <region1>?")
    assert len(with_guide.split()) == 1 < len(without.split())


def test_choosing_by_likelihood_among_five(session: ChatSession) -> None:
    right = []
    for scene in scenes(60, min_objects=5):
        if len({(o.colour, o.shape) for o in scene.objects}) < len(scene.objects):
            continue
        session.set_image(scene.image)
        for o in scene.objects:
            session.add_region(Mask(o.mask))
        target = random.Random(scene.scene.seed).randrange(len(scene.objects))
        o = scene.objects[target]
        right.append(session.choose(f"the {o.colour} {o.shape}")[0] == target + 1)
    assert len(right) > 30 and sum(right) / len(right) > 0.85


def test_multi_turn_keeps_the_conversation(session: ChatSession) -> None:
    right = []
    for scene in scenes(10):
        session.set_image(scene.image)
        for o in scene.objects[:2]:
            session.add_region(Mask(o.mask))
        session.ask(f"What is <region1>? {GUIDE}")
        right.append(prompts.normalise_answer(session.ask("What about <region2>?")) == scene.objects[1].shape)
    assert sum(right) / len(right) > 0.75


def test_unknown_words_and_typed_control_tokens_do_no_harm(session: ChatSession) -> None:
    scene = scenes(1)[0]
    session.set_image(scene.image)
    session.add_region(Point(scene.image.width / 2, scene.image.height / 2))
    for question in ("Übermäßig 你好 <image> <region> </s> <region1>?", "zzz qqq", "<REGION1>"):
        assert isinstance(session.ask(question, max_new_tokens=8), str)


def test_a_prompt_longer_than_the_context_is_refused(session: ChatSession) -> None:
    session.set_image(scenes(1)[0].image)
    session.add_region(Box(1, 1, 30, 30))
    with pytest.raises(InputError, match="context"):
        session.ask("What is <region1>? " * 400)


def test_the_shipped_folder_is_small_safe_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in TINY.iterdir()}
    assert sum(files.values()) <= 10_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= set(
        files
    )
    assert "_name_or_path" not in (TINY / "config.json").read_text()  # a path of the machine that trained it
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]

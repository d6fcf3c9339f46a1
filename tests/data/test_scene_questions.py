"""Questions about drawn scenes: every answer is worked out again from the words of the question."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from rgpt import prompts
from rgpt.data import scene_questions as asking
from rgpt.data.scene_questions import MAKERS, Exchange, Numbered, conversation, number_objects
from rgpt.data.scenes import COLOURS, SHAPES, SIZES, TEXTURES, Scene, SceneObject, sample_scene

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
WORDS = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES, "size": SIZES}
RANK = {"small": 0, "medium": 1, "large": 2}


@cache
def asked() -> list[tuple[Numbered, Exchange]]:
    """Conversations about 400 scenes; in some only a part of the objects is numbered."""
    found = []
    for seed in range(8_000_000, 8_000_400):
        rng = random.Random(seed)
        scene = sample_scene(seed)
        numbered = number_objects(scene, rng, rng.choice([None, None, 2, 3]))
        found += [(numbered, e) for e in conversation(numbered, rng, 8, dict.fromkeys(MAKERS, 1.0))]
    return found


def of(*tasks: str) -> Iterator[tuple[Numbered, Exchange]]:
    return ((numbered, exchange) for numbered, exchange in asked() if exchange.task in tasks)


# ------------------------------------------------------------ a second way to the answers, from words alone


def numbers_in(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"<region(\d+)>", text)]


def attributes_in(text: str) -> list[str]:
    known = [word for words in WORDS.values() for word in words]
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word in known]


def has(o: SceneObject, words: list[str]) -> bool:
    return set(words) <= {o.shape, o.colour, o.texture, o.size}


def side(a: SceneObject, b: SceneObject) -> str | None:
    """Where a lies seen from b, by angle: each side is a sector of ± 33.7°, the rest is no man's land."""
    angle = math.degrees(math.atan2(b.y - a.y, a.x - b.x)) % 360  # counter-clockwise, y up
    for name, middle in (("right", 0), ("above", 90), ("left", 180), ("below", 270)):
        if abs((angle - middle + 180) % 360 - 180) <= math.degrees(math.atan(1 / 1.5)) + 1e-9:
            return name
    return None


def an(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def closing(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def expected_class(n: Numbered, question: str) -> str:
    (number,) = numbers_in(question)
    return n[number].shape


def expected_brief(n: Numbered, question: str) -> str:
    o = n[numbers_in(question)[0]]
    return closing(an(f"{o.size} {o.colour} {o.texture} {o.shape}"))


def expected_detailed(n: Numbered, question: str) -> str:
    number = numbers_in(question)[0]
    o, scene = n[number], n.scene
    across, down = math.floor(3 * o.x / scene.width), math.floor(3 * o.y / scene.height)
    place = [
        ["upper left", "upper middle", "upper right"],
        ["left side", "middle", "right side"],
        ["lower left", "lower middle", "lower right"],
    ][down][across]
    others = sorted((p for p in scene.objects if p is not o), key=lambda p: math.dist((p.x, p.y), (o.x, o.y)))
    near = f", near {an(f'{others[0].colour} {others[0].shape}')}" if others else ""
    return closing(f"{an(f'{o.size} {o.colour} {o.texture} {o.shape}')} in the {place} of the picture{near}")


def expected_referring(n: Numbered, question: str) -> str:
    said = re.search(r"“the (.+?)”", question)
    assert said
    fitting = [number for number in n.numbers if has(n[number], said.group(1).split())]
    assert len(fitting) < 2, "the description is ambiguous"
    return f"Region [{fitting[0]}]." if fitting else "No corresponding options found."


def expected_verify(n: Numbered, question: str) -> str:
    return "Yes." if has(n[numbers_in(question)[0]], attributes_in(question)) else "No."


def expected_verify_relation(n: Numbered, question: str) -> str:
    a, b = (n[number] for number in numbers_in(question))
    said = re.search(r"to the (?:left|right) of|above|below", question)
    assert said and side(a, b), "a person could dispute this"
    return "Yes." if side(a, b) == said.group().removeprefix("to the ").removesuffix(" of") else "No."


def expected_size(n: Numbered, question: str) -> str:
    a, b = numbers_in(question)
    ranks = RANK[n[a].size], RANK[n[b].size]
    if ranks[0] == ranks[1]:
        return "They have the same size."
    return f"Region [{a if ranks[0] > ranks[1] else b}] is larger."


def expected_attribute(n: Numbered, question: str) -> str:
    a, b = numbers_in(question)
    (name,) = re.findall(r"\b(shape|colour|texture)\b", question)
    first, second = getattr(n[a], name), getattr(n[b], name)
    if first == second:
        several = {"cross": "crosses"}.get(first, first + "s") if name == "shape" else first
        return f"Yes, both are {several}."
    first, second = (an(v) if name == "shape" else v for v in (first, second))
    return f"No, region [{a}] is {first} and region [{b}] is {second}."


def expected_exists(n: Numbered, question: str) -> str:
    return "Yes." if any(has(o, attributes_in(question)) for o in n.scene.objects) else "No."


def expected_count(n: Numbered, question: str) -> str:
    one = re.sub(r"\bcrosses\b", "cross", question)
    one = re.sub(rf"\b({'|'.join(SHAPES)})s\b", r"\1", one)
    return f"{sum(has(o, attributes_in(one)) for o in n.scene.objects)}."


def expected_picture(n: Numbered, question: str) -> str:
    names = [an(f"{o.colour} {o.shape}") for o in sorted(n.scene.objects, key=lambda o: o.x)]
    return closing(" and ".join(filter(None, [", ".join(names[:-1]), names[-1]])))


EXPECTED: dict[str, Callable[[Numbered, str], str]] = {
    "classification": expected_class,
    "classification_followup": expected_class,
    "brief_caption": expected_brief,
    "detailed_caption": expected_detailed,
    "referring": expected_referring,
    "no_match": expected_referring,
    "compare_size": expected_size,
    "compare_attribute": expected_attribute,
    "verify": expected_verify,
    "verify_relation": expected_verify_relation,
    "exists": expected_exists,
    "count": expected_count,
    "picture_caption": expected_picture,
}


def test_every_task_is_asked() -> None:
    counts = Counter(exchange.task for _, exchange in asked())
    assert set(counts) == {*EXPECTED, "relation"} and min(counts.values()) > 50, counts


@pytest.mark.parametrize("task", EXPECTED)
def test_answers_follow_from_the_truth(task: str) -> None:
    for numbered, exchange in of(task):
        assert exchange.answer == EXPECTED[task](numbered, exchange.question), exchange


def test_relations_follow_from_the_truth() -> None:
    """Some wordings name the second region first, so the answer says which region it places."""
    for numbered, exchange in of("relation"):
        said = re.fullmatch(
            r"Region \[(\d+)\] is (to the left of|to the right of|above|below) region \[(\d+)\]\.",
            exchange.answer,
        )
        assert said, exchange
        a, b = int(said[1]), int(said[3])
        assert side(numbered[a], numbered[b]) == said[2].removeprefix("to the ").removesuffix(" of")
        backwards = exchange.question.startswith(("On which side of", "In which direction from"))
        assert numbers_in(exchange.question) == ([b, a] if backwards else [a, b])


def test_directions_are_opposite_from_the_other_side() -> None:
    for numbered, exchange in of("relation"):
        a, b = numbered[exchange.details["region"]], numbered[exchange.details["other"]]
        there = asking.direction(a, b)
        assert there and asking.direction(b, a) == OPPOSITE[there]


@pytest.mark.parametrize(
    ("x", "y", "where"),
    [(8, 0, "right"), (-8, 0, "left"), (0, 8, "below"), (0, -8, "above"), (7.9, 0, None), (20, 20, None),
     (15, 10, "right"), (15, 10.1, None), (10, -15, "above"), (0, 0, None)],
)  # fmt: skip
def test_direction_needs_a_clear_margin(x: float, y: float, where: str | None) -> None:
    at = {"shape": "bar", "colour": "red", "texture": "plain", "size": "small", "radius": 5.0, "angle": 0.0}
    assert asking.direction(SceneObject(x=50 + x, y=50 + y, **at), SceneObject(x=50, y=50, **at)) == where


def test_truth_is_what_a_reader_of_the_answer_finds() -> None:
    """The parsers that scoring uses read every true answer back as its truth."""
    readers: dict[str, Callable[[str], Any]] = {
        "referring": prompts.parse_region_answer,
        "no_match": prompts.parse_region_answer,
        "verify": prompts.parse_yes_no,
        "verify_relation": prompts.parse_yes_no,
        "exists": prompts.parse_yes_no,
        "compare_attribute": prompts.parse_yes_no,
        "count": prompts.parse_count,
        "classification": prompts.normalise_answer,
    }
    for task, read in readers.items():
        for _, exchange in of(task):
            assert read(exchange.answer) == exchange.truth, exchange


def test_yes_and_no_and_no_match_are_balanced() -> None:
    for task in ("verify", "verify_relation", "exists", "compare_attribute"):
        truths = [exchange.truth for _, exchange in of(task)]
        assert 0.35 < sum(map(bool, truths)) / len(truths) < 0.65, task
    answers = [exchange.task for _, exchange in of("referring", "no_match")]
    assert 0.1 < answers.count("no_match") / len(answers) < 0.4


def test_descriptions_fit_one_object_or_none() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        objects = sample_scene(seed).objects
        target = rng.choice(objects)
        words = asking.description(objects, target, rng).split()
        twins = [o for o in objects if has(o, [target.shape, target.colour, target.texture, target.size])]
        assert sum(has(o, words) for o in objects) == len(twins) == 1 or len(twins) > 1
        assert has(target, words) and words[-1] == target.shape
        absent = asking.absent_description(objects, rng).split()
        assert not any(has(o, absent) for o in objects) and absent[-1] in SHAPES


def test_twins_are_never_asked_for() -> None:
    twin = SceneObject("bar", "red", "plain", "small", 20, 20, 6, 0)
    other = SceneObject("bar", "red", "plain", "small", 60, 60, 6, 0)
    numbered = Numbered(Scene(0, 96, 96, (twin, other)), (0, 1))
    assert all(asking.referring(numbered, random.Random(seed), no_match=0.0) is None for seed in range(20))


def test_false_statements_are_wrong_in_one_attribute() -> None:
    for numbered, exchange in of("verify"):
        o = numbered[numbers_in(exchange.question)[0]]
        wrong = [word for word in attributes_in(exchange.question) if not has(o, [word])]
        assert len(wrong) == (exchange.answer == "No.")


def test_guide_sentences_are_exact_and_only_where_they_belong() -> None:
    guides = {
        "classification": "Answer the question using shape category names.",
        "referring": "Answer the question using the template Region [x].",
    }
    assert guides["classification"] == asking.GUIDE
    for _, exchange in asked():
        question = exchange.question
        if exchange.task == "classification":
            assert question.endswith(" " + guides["classification"]) and question.count("Answer the") == 1
        elif exchange.task in ("referring", "no_match") and "<region" in question:
            assert question.endswith(" " + guides["referring"]) and question.count("Answer the") == 1
        else:
            assert "Answer the" not in question


def test_questions_mention_numbered_regions_only_and_are_filled_in() -> None:
    for numbered, exchange in asked():
        assert set(numbers_in(exchange.question)) <= set(numbered.numbers)
        assert not set("{}") & set(exchange.question + exchange.answer) and "  " not in exchange.question
        if exchange.task in ("exists", "count", "picture_caption"):
            assert not numbers_in(exchange.question)
        elif not exchange.task.startswith(("referring", "no_match")):
            assert len(set(numbers_in(exchange.question))) in (1, 2)


# ------------------------------------------------------------------ another numbering of the same objects


class Pointing(random.Random):
    """Chooses the wanted regions whatever their numbers, and everything else by its seed."""

    def __init__(self, seed: int, wanted: tuple[int, int]) -> None:
        super().__init__(seed)
        self.wanted = wanted

    def choice(self, seq: Any) -> Any:
        if isinstance(seq, range):
            return self.wanted[0]
        drawn = super().choice(seq)
        return (
            self.wanted if isinstance(seq, list) and isinstance(drawn, tuple) and len(drawn) == 2 else drawn
        )

    def sample(self, population: Any, k: int, **_: Any) -> list[Any]:
        return list(self.wanted[:k])


@pytest.mark.parametrize("task", MAKERS)
def test_another_numbering_permutes_the_answers(task: str) -> None:
    made = 0
    for seed in range(60):
        scene = sample_scene(seed)
        count = len(scene.objects)
        order = random.Random(seed).sample(range(count), count)
        first, second = Numbered(scene, tuple(range(count))), Numbered(scene, tuple(order))
        renumber = {n: order.index(n - 1) + 1 for n in first.numbers}
        options = {"no_match": 0.0} if task == "referring" else {}
        if task == "compare_attribute" and not same_kind(first[1], first[2]):
            continue  # where no pair matches, the maker draws again and the two go different ways
        here = MAKERS[task](first, Pointing(seed, (1, 2)), **options)
        there = MAKERS[task](second, Pointing(seed, (renumber[1], renumber[2])), **options)
        if here is None or there is None:
            assert here is there
            continue
        made += 1
        assert relabelled(here.answer, renumber) == there.answer
        if task != "referring":  # its question lists the regions from 1 upwards in any case
            assert relabelled(here.question, renumber) == there.question
    assert made >= 5


def same_kind(a: SceneObject, b: SceneObject) -> bool:
    return a.shape == b.shape or a.colour == b.colour or a.texture == b.texture


def relabelled(text: str, renumber: dict[int, int]) -> str:
    return re.sub(r"(<region|[Rr]egion \[)(\d+)([>\]])", lambda m: f"{m[1]}{renumber[int(m[2])]}{m[3]}", text)


def test_numbering_is_a_seeded_permutation() -> None:
    scene = sample_scene(5, min_objects=6, max_objects=6)
    orders = {number_objects(scene, random.Random(seed)).order for seed in range(50)}
    assert len(orders) > 40 and all(sorted(order) == list(range(6)) for order in orders)
    assert number_objects(scene, random.Random(1)).order == number_objects(scene, random.Random(1)).order
    assert len(number_objects(scene, random.Random(1), 2).order) == 2


@pytest.mark.parametrize("turns", [1, 3, 6])
def test_conversations_are_seeded_and_of_the_asked_length(turns: int) -> None:
    weights = dict.fromkeys(MAKERS, 1.0)
    for seed in range(50):
        numbered = number_objects(sample_scene(seed), random.Random(seed))
        first = conversation(numbered, random.Random(seed), turns, weights)
        assert first == conversation(numbered, random.Random(seed), turns, weights)
        assert turns <= len(first) <= turns + 4


def test_follow_ups_come_after_their_first_question() -> None:
    for seed in range(100):
        numbered = number_objects(sample_scene(seed), random.Random(seed))
        tasks = [
            e.task for e in conversation(numbered, random.Random(seed), 4, {"classification": 1, "count": 1})
        ]
        assert all(
            before.startswith("classification")
            for before, task in pairwise(tasks)
            if task == "classification_followup"
        )
        assert tasks[0] != "classification_followup"

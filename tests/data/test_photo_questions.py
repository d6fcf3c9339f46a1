"""Questions about photographs: every answer is worked out again from the annotations."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rgpt import prompts
from rgpt.data import photo_conversations as talking
from rgpt.data import photo_facts as facts
from rgpt.data import photo_questions as asking
from rgpt.data.class_words import caption_phrase, counted, listed, plural, with_article
from rgpt.data.colour_names import colour_of
from rgpt.data.photo_conversations import conversation
from rgpt.data.photo_facts import Frequencies, NumberedPhoto, choose_objects, is_tiny
from rgpt.data.photo_questions import GUIDE
from rgpt.data.photographs import Photograph, PhotoObject, read_photographs
from rgpt.data.scene_questions import DIRECTION_WORDS, Exchange
from rgpt.regions import Box, Polygon

NAMES = ("person", "dog", "cat", "skis", "traffic light", "orange", "bus", "tv")
SHARES = (40, 10, 8, 3, 6, 5, 4, 2)


def made_photograph(seed: int) -> Photograph:
    """Boxes at random places, frequent classes oftener; in one of six pictures a crowd."""
    rng = random.Random(seed)
    objects = []
    there = rng.sample(range(len(NAMES)), rng.randint(1, 4))
    names, shares = [NAMES[k] for k in there], [SHARES[k] for k in there]
    for i in range(rng.randint(1, 12)):
        w, h = (rng.choice((6, 20, 40, 90, 200)) * rng.uniform(0.7, 1.3) for _ in "wh")
        x, y = rng.uniform(0, 440 - w), rng.uniform(0, 320 - h)
        box = Box(x, y, x + w, y + h)
        crowd = i == 4 and seed % 6 == 0
        objects.append(PhotoObject(100 * seed + i, rng.choices(names, shares)[0], box, box, crowd))
    captions = (
        ("A brown dog with a red collar next to a bus", "A dog sits on the street.") if seed % 3 else ()
    )
    return Photograph(seed, Path(f"{seed}.jpg"), 448, 330, tuple(objects), captions)


@cache
def corpus() -> tuple[list[Photograph], Frequencies]:
    photographs = [made_photograph(seed) for seed in range(600)]
    return photographs, Frequencies(photographs)


@cache
def conversations() -> list[tuple[NumberedPhoto, list[Exchange]]]:
    photographs, frequencies = corpus()
    found = []
    for photograph in photographs:
        for kind in talking.KINDS * 2:
            rng = random.Random(f"{photograph.id} {kind} {len(found)}")
            chosen = choose_objects(photograph, frequencies, rng, talking.REGIONS)
            n = NumberedPhoto(photograph, tuple(chosen))
            found.append((n, conversation(n, rng, frequencies, kind)))
    return found


def of(*tasks: str) -> Iterator[tuple[NumberedPhoto, Exchange]]:
    found = [(n, e) for n, exchanges in conversations() for e in exchanges if e.task in tasks]
    assert len(found) > 15
    return iter(found)


def mentioned(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"<region(\d+)>", text)]


def test_every_task_is_asked_and_every_region_is_there() -> None:
    tasks = Counter(e.task for _, exchanges in conversations() for e in exchanges)
    assert set(tasks) >= {
        "names", "names_unguided", "too_small", "brief_caption", "brief_caption_placed", "detailed_caption",
        "picture_caption", "verify", "exists", "count", "referring", "no_match", "relation",
        "verify_relation", "compare_size", "beside", "position",
    }  # fmt: skip
    for n, exchanges in conversations():
        for exchange in exchanges:
            assert set(mentioned(exchange.question)) <= set(n.numbers)
            assert "{" not in exchange.question and re.fullmatch(r"\S.*\S", exchange.answer)
            assert exchange.task == "names" or exchange.answer.endswith(".")


def test_names_are_bare_where_the_guide_asks_and_sentences_elsewhere() -> None:
    for n, e in of("names", "names_unguided", "too_small"):
        (number,) = mentioned(e.question)
        item = n[number]
        if e.task == "names":
            assert e.answer == item.name and item.name in NAMES
        elif e.task == "names_unguided":
            assert GUIDE not in e.question and not is_tiny(item)
            assert e.answer.lower() == f"{with_article(item.name)}.".lower()
        else:
            assert GUIDE not in e.question and is_tiny(item) and e.answer == asking.UNKNOWN


def test_a_follow_up_keeps_the_form_of_the_turn_before_it() -> None:
    followed = 0
    for _, exchanges in conversations():
        for before, e in zip([None, *exchanges], exchanges, strict=False):
            if e.task == "names" and GUIDE not in e.question:
                assert before is not None and before.task == "names"
                followed += 1
            elif e.task == "names_unguided" and e.question.startswith(("And", "What about", "Next", "Then")):
                assert before is not None and before.task == "names_unguided"
    assert followed > 50


def test_no_name_is_asked_for_after_it_was_told() -> None:
    for _, exchanges in conversations():
        told: set[object] = set()
        matched: set[object] = set()
        for e in exchanges:
            region = e.details.get("region")
            if e.task in ("names", "names_unguided", "brief_caption", "brief_caption_placed", "verify"):
                assert region not in told
                told.add(region)
            if e.task in ("referring", "no_match"):
                assert not (told - matched) & set(e.details["candidates"])
            if e.task == "referring":
                assert e.truth not in told
                told.add(e.truth)
                matched.add(e.truth)
        captions = [i for i, e in enumerate(exchanges) if e.task == "picture_caption"]
        assert captions in ([], [0])  # names told before would be copied


def test_which_of_these_fits_exactly_one_or_none() -> None:
    answers = Counter()
    for n, e in of("referring", "no_match"):
        candidates = e.details["candidates"]
        if not (listed_ := mentioned(e.question)):
            listed_ = candidates  # a follow-up does not repeat them
        assert listed_ == candidates and e.details["text"] in e.question
        text = e.details["text"].replace("brown dog with a red collar", "street")
        fitting = [
            c for c in candidates if f"the {n[c].name}" == text or ("street" in text and n[c].name == "dog")
        ]
        if e.task == "no_match":
            assert not fitting and e.answer == prompts.NO_MATCH
        else:
            assert fitting == [e.truth] and e.answer == f"Region [{e.truth}]."
            answers[candidates.index(int(str(e.truth)))] += 1
    assert min(answers[place] for place in range(5)) > 5  # no place in the list is favoured by rule


def test_verify_says_yes_of_the_region_s_class_alone_and_half_the_time() -> None:
    truths = Counter()
    for n, e in of("verify"):
        item = n[e.details["region"]]
        assert e.details["name"] == item.name if e.truth else e.details["name"] != item.name
        assert with_article(e.details["name"]) in e.question and e.answer == ("Yes." if e.truth else "No.")
        assert e.truth or e.details["elsewhere"] == (e.details["name"] in n.classes)
        truths[e.truth] += 1
    assert abs(truths[True] / truths.total() - 0.5) < 0.06


@pytest.mark.parametrize("task", ["verify", "exists"])
def test_no_class_is_likelier_to_be_true_than_false(task: str) -> None:
    """Were negatives drawn evenly, "person" alone would answer yes."""
    photographs, frequencies = corpus()
    rng = random.Random(5)
    said: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    elsewhere = 0
    for _ in range(12):
        for photograph in photographs:
            n = NumberedPhoto(photograph, photograph.singles)
            plain = [number for number in n.numbers if not is_tiny(n[number])]
            if not plain:
                continue
            weights = [frequencies.weight(n[number]) for number in plain]
            if task == "exists":
                e = asking.exists(n, rng, frequencies)
            else:
                e = asking.verify(n, rng, rng.choices(plain, weights)[0], frequencies)
            if e is not None:
                said[bool(e.truth)][e.details["name"]] += 1
                elsewhere += not e.truth and e.details["name"] in n.classes
    yes, no = said[True], said[False]
    for name in NAMES:
        assert yes[name] / yes.total() == pytest.approx(no[name] / no.total(), abs=0.05), name
    if task == "verify":
        assert 0.42 < elsewhere / no.total() < 0.58
    else:
        assert elsewhere == 0


def test_relations_and_sizes_follow_from_the_boxes() -> None:
    for n, e in of("relation", "verify_relation", "compare_size"):
        a, b = n[e.details["region"]].box, n[e.details["other"]].box
        (ax, ay), (bx, by) = facts.centre(a), facts.centre(b)
        holds = {"left": ax < bx, "right": ax > bx, "above": ay < by, "below": ay > by}
        text = e.answer if e.task == "relation" else e.question
        said = [side for side, words in DIRECTION_WORDS.items() if words in text]
        if e.task == "relation":
            assert holds[said[0]] and said == [e.truth]
            numbers = [e.details["region"], e.details["other"]]
            assert [int(d) for d in re.findall(r"\[(\d)+\]", e.answer)] == [int(str(d)[-1]) for d in numbers]
        elif e.task == "verify_relation":
            assert holds[said[0]] == e.truth
        else:
            chosen, left = (a, b) if e.truth == e.details["region"] else (b, a)
            larger = chosen.area >= 2 * left.area
            assert larger if "larger" in e.answer else left.area >= 2 * chosen.area
            assert ("smaller" in e.answer) == ("smaller" in e.question)


def test_what_is_beside_stands_there() -> None:
    for n, e in of("beside"):
        item, side = n[e.details["region"]], e.details["side"]
        found = facts.neighbours(n.photograph, item, side)
        assert found is not None and side in e.question
        names = Counter(other.name for other in found)
        if not found:
            assert e.answer == asking.NOTHING
            continue
        assert e.answer.lower() == listed([counted(*pair) for pair in names.items()]).lower() + "."
        for other in found:
            assert side not in facts.wrong_sides(other.box, item.box) and not is_tiny(other)


def test_existence_and_number() -> None:
    for n, e in of("exists"):
        there = any(item.name == e.details["name"] for item in n.photograph.objects)
        assert there == e.truth == (e.answer == "Yes.")
    for n, e in of("count"):
        own = [item for item in n.photograph.objects if item.name == e.details["name"]]
        assert e.answer == f"{len(own)}." and not any(item.crowd or is_tiny(item) for item in own)
        assert plural(e.details["name"]) in e.question and len(own) <= 5


def test_places_and_descriptions() -> None:
    for n, e in of("position", "brief_caption_placed"):
        box = n[e.details["region"]].box
        (x, y), words = facts.centre(box), e.answer
        assert ("left" in words) == (x < 448 / 3) and ("right" in words) == (x >= 448 * 2 / 3)
        assert ("upper" in words) == (y < 110) and ("lower" in words) == (y >= 220)
    dogs = 0
    for n, e in of("brief_caption"):
        item = n[e.details["region"]]
        if item.name == "dog":
            assert e.answer in (
                "A brown dog with a red collar next to a bus.",
                "A dog sitting on the street.",
            )
            dogs += 1
        assert sum(other.name == item.name for other in n.photograph.objects) == 1
    assert dogs


def test_people_do_not_drown_the_rest() -> None:
    _, frequencies = corpus()
    box = Box(0, 0, 50, 50)
    crowd_of_cats = tuple(PhotoObject(i, ("person", "cat")[i % 2], box, box) for i in range(30))
    many = Photograph(1, Path("1.jpg"), 448, 330, crowd_of_cats)
    taken = choose_objects(many, frequencies, random.Random(1), talking.REGIONS)
    assert Counter(item.name for item in taken) == {"person": 2, "cat": 4}
    one_tv = replace(many, objects=(PhotoObject(99, "tv", box, box), *many.objects[::2]))
    first = [choose_objects(one_tv, frequencies, random.Random(seed), 1)[0].name for seed in range(2000)]
    tv, person = (1 / math.sqrt(frequencies.share[name]) for name in ("tv", "person"))
    assert first.count("tv") / 2000 == pytest.approx(tv / (tv + 15 * person), abs=0.03) and tv > 1.5 * person


def test_the_same_seed_asks_the_same() -> None:
    photographs, frequencies = corpus()
    n = NumberedPhoto(photographs[3], photographs[3].singles)
    for kind in talking.KINDS:
        asked = [conversation(n, random.Random(9), frequencies, kind) for _ in "ab"]
        assert asked[0] == asked[1] and asked[0]


def test_nothing_to_compare_is_no_error() -> None:
    """One lone tiny thing without captions."""
    _, frequencies = corpus()
    box = Box(0, 0, 3, 3)
    photograph = Photograph(1, Path("1.jpg"), 448, 330, (PhotoObject(1, "dog", box, box),))
    for kind in talking.KINDS:
        for seed in range(20):
            for e in conversation(
                NumberedPhoto(photograph, photograph.objects), random.Random(seed), frequencies, kind
            ):
                assert e.task in ("names", "too_small", "position", "exists", "count")


@pytest.mark.parametrize(
    ("caption", "name", "phrase"),
    [
        ("A brown dog with a red collar.", "dog", "a brown dog with a red collar"),
        ("A man is riding a wave on a surfboard", "person", "a man riding a wave on a surfboard"),
        ("A man rides a wave on a surfboard", "person", "a man riding a wave on a surfboard"),
        ("Black and white cow stands in a field", "cow", "a black and white cow standing in a field"),
        ("Young man riding a horse", "person", "a young man riding a horse"),
        ("An old train at the train station", "train", None),
        ("People wait at a train station", "train", None),
        ("A man and a woman sit on a bench", "person", None),
        ("Two men on a bench", "person", None),
        ("A man riding horse", "horse", None),
        ("A hot dog on a plate", "dog", None),
        ("A hot dog on a plate", "hot dog", "a hot dog"),
        ("A statue of a horse", "horse", None),
        ("A woman swinging a tennis racket at a ball", "tennis racket", "a tennis racket"),
        ("A teddy bear sitting in a chair", "bear", None),
        ("a red double decker bus driving down the street, at night", "bus",
         "a red double decker bus driving down the street"),
        ("An orange cat", "orange", None),
        ("", "dog", None),
    ],
)  # fmt: skip
def test_phrases_of_captions(caption: str, name: str, phrase: str | None) -> None:
    assert caption_phrase(caption, name) == phrase


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((255, 255, 255), "white"), ((10, 10, 10), "black"), ((128, 128, 128), "grey"),
        ((200, 20, 20), "red"),
        ((250, 140, 20), "orange"), ((245, 220, 40), "yellow"), ((30, 160, 50), "green"),
        ((30, 70, 200), "blue"),
        ((130, 40, 180), "purple"), ((240, 100, 180), "pink"), ((120, 70, 30), "brown"),
    ],
)  # fmt: skip
def test_colours(rgb: tuple[int, int, int], name: str) -> None:
    pixels = np.full((60, 80, 3), (90, 200, 90), np.uint8)
    pixels[10:50, 20:60] = rgb
    outline = Polygon([[(20, 10), (60, 10), (60, 50), (20, 50)]])
    box = Box(20, 10, 60, 50)
    assert colour_of(pixels, box, box) == colour_of(pixels, outline, box) == name
    pixels[10:50, 20:40] = 255 - pixels[10:50, 20:40] // 2
    assert colour_of(pixels, outline, box) in (None, "white", "pink")
    assert colour_of(pixels, Box(20, 10, 24, 14), Box(20, 10, 24, 14)) is None


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("dog", 1, "a dog"), ("umbrella", 1, "an umbrella"), ("skis", 1, "a pair of skis"),
        ("tv", 2, "two TVs"),
        ("person", 3, "three people"), ("bus", 2, "two buses"), ("sandwich", 2, "two sandwiches"),
        ("broccoli", 1, "a piece of broccoli"), ("mouse", 4, "four mice"),
        ("toothbrush", 2, "two toothbrushes"),
        ("sheep", 5, "five sheep"), ("knife", 2, "two knives"), ("scissors", 2, "two pairs of scissors"),
    ],
)  # fmt: skip
def test_counted_names(name: str, number: int, words: str) -> None:
    assert counted(name, number) == words


def test_balance_on_real_photographs(shared_data: Path) -> None:
    """The best guess from the name alone is right little more than half the time."""
    photographs = read_photographs(shared_data / "coco_photos", "train")
    frequencies, rng = Frequencies(photographs), random.Random(3)
    said: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for photograph in photographs * 2:
        n = NumberedPhoto(photograph, photograph.singles)
        plain = [number for number in n.numbers if not is_tiny(n[number])]
        if plain:
            weights = [frequencies.weight(n[number]) for number in plain]
            e = asking.verify(n, rng, rng.choices(plain, weights)[0], frequencies)
            assert e is not None
            said[bool(e.truth)][e.details["name"]] += 1
    yes, no = said[True], said[False]
    assert abs(yes["person"] / yes.total() - no["person"] / no.total()) < 0.03
    guessed = sum(max(yes[name], no[name]) for name in yes | no) / (yes + no).total()
    assert guessed < 0.56
    assert sum(bool(facts.phrases(p, item)) for p in photographs for item in p.singles) == 1497


def test_choices_are_answered_in_a_word_a_region_or_a_place() -> None:
    tasks = {
        "verify",
        "exists",
        "referring",
        "no_match",
        "relation",
        "verify_relation",
        "compare_size",
        "position",
    }
    photographs, frequencies = corpus()
    lengths = []
    for photograph in photographs[:100]:
        n = NumberedPhoto(photograph, tuple(photograph.singles))
        turns = conversation(n, random.Random(photograph.id), frequencies, "choices")
        assert {turn.task for turn in turns} <= tasks
        lengths.append(len(turns))
    assert sum(lengths) / len(lengths) > 6


def test_words_stand_for_regions_and_the_answers_are_true_of_them() -> None:
    yes = []
    for seed in range(300):
        for turn in talking.words_conversation(random.Random(seed), NAMES):
            assert not mentioned(turn.question)
            if turn.task == "verify_words":
                mention = f"[{turn.details['region']}] "
                behind = turn.question.split(mention, 1)[1]
                (stands,) = [name for name in sorted(NAMES, key=len)[::-1] if behind.startswith(name)][:1]
                assert (turn.answer == "Yes.") == (stands == turn.details["name"])
                yes.append(turn.answer == "Yes.")
            else:
                number = int(re.fullmatch(r"Region \[(\d)\]\.", turn.answer)[1])  # type: ignore[index]
                assert f"[{number}] {turn.details['text']}" in turn.question
    assert 0.4 < sum(yes) / len(yes) < 0.6

"""Conversations about photographs: questions strung together so that no turn gives a later answer away."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from rgpt import prompts
from rgpt.data.class_words import (
    listed,
    plural,
    with_article,
)
from rgpt.data.photo_facts import Frequencies, NumberedPhoto, direction, is_tiny, known_colour, phrases
from rgpt.data.photo_questions import (
    CANDIDATES,
    GUIDE,
    REFER,
    VERIFY,
    Pair,
    beside,
    brief_caption,
    colour,
    compare_size,
    count,
    detailed_caption,
    exists,
    name,
    picture_caption,
    position,
    referring,
    relation,
    verify,
    verify_relation,
)
from rgpt.data.scene_questions import Exchange

REGIONS = 10
"""Regions of one conversation at most."""
KINDS = ("names", "choices", "scene", "single")


def conversation(n: NumberedPhoto, rng: random.Random, frequencies: Frequencies, kind: str) -> list[Exchange]:
    """A conversation about the numbered regions in which no turn gives a later answer away.

    Args:
        kind: "names" asks what regions are (names, yes/no, which of these, descriptions), "choices" only what
            a yes, a no, a region, a side or a place answers, "scene" about the whole picture and about
            places, sizes and colours, "single" asks one question of any task.

    Returns:
        one to two dozen exchanges; none where the photograph allows none of the questions.
    """
    if kind == "names":
        return _names_conversation(n, rng, frequencies)
    if kind == "choices":
        return _choices_conversation(n, rng, frequencies)
    if kind == "scene":
        return _scene_conversation(n, rng, frequencies)
    return _single_question(n, rng, frequencies)


def _names_conversation(n: NumberedPhoto, rng: random.Random, frequencies: Frequencies) -> list[Exchange]:
    """A region's name is told once at most: by its name, a yes, a match or a description."""
    free = rng.sample(n.numbers, len(n.numbers))
    turns: list[Exchange] = []
    plain = [number for number in free if not is_tiny(n[number])]
    if len(plain) > 2 and rng.random() < 0.85:
        candidates = plain[: rng.choice((2, 3, 4, CANDIDATES, CANDIDATES, CANDIDATES))]
        rng.shuffle(candidates)
        asked: set[object] = set()
        for _ in range(rng.randint(1, 3)):
            match = referring(n, rng, frequencies, candidates, followup=bool(turns))
            if match and match.details["text"] not in asked and match.truth not in asked - {0}:
                asked |= {match.details["text"], match.truth}
                turns.append(match)
        free = [number for number in free if number not in asked]
    described = None
    if len(free) > 3 or (len(free) > 1 and rng.random() < 0.6):
        rich = [number for number in free if phrases(n.photograph, n[number])]
        described = rng.choice(rich) if rich else rng.choice(free) if rng.random() < 0.5 else None
        free = [number for number in free if number != described]
    checked: list[int] = []
    wanted = 2 if len(free) > 6 else 1 if len(free) > 3 or rng.random() < 0.3 else 0
    while len(checked) < wanted and len(free) > 1:
        checked.append(free.pop())
    blocks: list[list[Exchange]] = []
    guided = free[: -(-2 * len(free) // 3)] if rng.random() < 0.8 else []
    for numbers, guide in ((guided, True), ([each for each in free if each not in guided], False)):
        block: list[Exchange] = []
        for number in numbers:
            # A follow-up is answered in the form of the turn before it.
            short = bool(block) and rng.random() < 0.6 and block[-1].task != "too_small"
            block.append(name(n, rng, number, guide, followup=short))
        blocks.append(block)
    checks = [verify(n, rng, number, frequencies) for number in checked]
    blocks.append([check for check in checks if check])
    rng.shuffle(blocks)
    turns += [turn for block in blocks for turn in block]
    if described is not None:
        tell = detailed_caption if rng.random() < 0.25 else brief_caption
        if told := tell(n, rng, described):
            turns.append(told)
    if len(turns) < 4 and (more := exists(n, rng, frequencies, n_mentioned(n, turns))):
        turns.append(more)
    return turns


def _choices_conversation(n: NumberedPhoto, rng: random.Random, frequencies: Frequencies) -> list[Exchange]:
    """Comparisons, as many as there are: one word decides each answer, and all share the picture's tokens."""
    plain = [number for number in rng.sample(n.numbers, len(n.numbers)) if not is_tiny(n[number])]
    told: set[int] = set()
    what: list[Exchange] = []
    if len(plain) > 2 and rng.random() < 0.7:
        candidates = plain[: rng.choice((3, CANDIDATES, CANDIDATES))]
        for _ in range(2):
            match = referring(n, rng, frequencies, candidates, followup=bool(what))
            if match and match.truth not in told - {0}:
                what.append(match)
                told.add(int(str(match.truth)))
    checks = [verify(n, rng, number, frequencies) for number in plain if number not in told]
    what += [check for check in checks if check]
    for _ in range(2):
        if asked := exists(n, rng, frequencies, n_mentioned(n, what)):
            what.append(asked)
    where: list[Exchange | None] = [
        rng.choice((relation, relation, verify_relation))(n, rng, pair) for pair in _clear_pairs(n, rng)[:5]
    ]
    if len(n.numbers) > 1:
        where += [compare_size(n, rng, (a, b)) for a, b in (rng.sample(n.numbers, 2) for _ in "ab")]
    where += [position(n, rng, number) for number in rng.sample(n.numbers, min(2, len(n.numbers)))]
    rng.shuffle(where)
    blocks = [what, [each for each in where if each]]
    rng.shuffle(blocks)
    return [turn for block in blocks for turn in block]


def words_conversation(rng: random.Random, names: Sequence[str]) -> list[Exchange]:
    """What a "choices" conversation asks, in words alone: a name stands where a region's vector would.

    Stage 1 puts region vectors near the word embeddings of their names, so that what is learned here about
    names holds for regions, and a conversation without a picture is short.
    """
    said = rng.sample(names, CANDIDATES)
    mentions = {number: f"[{number}] {name}" for number, name in enumerate(said, start=1)}
    if rng.random() < 0.4:
        number = rng.randint(1, CANDIDATES)
        question = rng.choice((*REFER, *prompts.WORDINGS["referring"]))
        question = question.format(regions=listed(list(mentions.values())), text=f"the {said[number - 1]}")
        details: dict[str, object] = {"text": said[number - 1], "candidates": list(mentions)}
        return [Exchange("referring_words", question, f"Region [{number}].", number, details)]
    turns = []
    for number, mention in mentions.items():
        truth = rng.random() < 0.5
        others = said if rng.random() < 0.5 else names
        name = (
            said[number - 1] if truth else rng.choice([each for each in others if each != said[number - 1]])
        )
        question = rng.choice(VERIFY).format(region=mention, text=with_article(name))
        turns.append(
            Exchange(
                "verify_words", question, "Yes." if truth else "No.", truth, {"region": number, "name": name}
            )
        )
    return turns


def n_mentioned(n: NumberedPhoto, turns: Sequence[Exchange]) -> set[str]:
    """Classes whose names occur in what was said, in any form."""
    text = " ".join(f"{turn.question} {turn.answer}" for turn in turns).replace(GUIDE, "").lower()
    words = {each for each in n.classes if each in text or plural(each).lower() in text}
    said = {str(turn.details["name"]) for turn in turns if "name" in turn.details}
    return words | said


def _scene_conversation(n: NumberedPhoto, rng: random.Random, frequencies: Frequencies) -> list[Exchange]:
    """The caption comes first: names told before would be copied from there."""
    turns: list[Exchange | None] = [picture_caption(n, rng)]
    if turns == [None]:
        turns.append(exists(n, rng, frequencies))
        turns.append(count(n, rng, frequencies, n_mentioned(n, [turn for turn in turns if turn])))
    numbers = rng.sample(n.numbers, len(n.numbers))
    wanted: list[Callable[[], Exchange | None]] = [
        partial(rng.choice((relation, relation, verify_relation)), n, rng, pair)
        for pair in _clear_pairs(n, rng)[:3]
    ]
    if len(numbers) > 1:
        wanted += [partial(compare_size, n, rng, (a, b)) for a, b in (rng.sample(numbers, 2) for _ in "ab")]
    coloured = [number for number in numbers if known_colour(n, n[number])]
    wanted += [partial(colour, n, rng, number) for number in coloured[:2]]
    wanted += [partial(position, n, rng, number) for number in numbers[: 1 if turns[0] else 2]]
    rng.shuffle(wanted)
    turns += [make() for make in wanted[:6]]
    # Names come last: what is beside a region tells what other regions are.
    for number in numbers[:3]:
        if made := beside(n, rng, number):
            turns.append(made)
            break
    return [turn for turn in turns if turn]


def _clear_pairs(n: NumberedPhoto, rng: random.Random) -> list[Pair]:
    """Pairs of regions with a clear direction, each pair once."""
    pairs = [(a, b) for a in n.numbers for b in n.numbers if a != b]
    rng.shuffle(pairs)
    clear: dict[frozenset[int], Pair] = {}
    for a, b in pairs:
        if frozenset((a, b)) not in clear and direction(n.photograph, n[a].box, n[b].box):
            clear[frozenset((a, b))] = (a, b)
    return list(clear.values())


def _single_question(n: NumberedPhoto, rng: random.Random, frequencies: Frequencies) -> list[Exchange]:
    def any_number() -> int:
        return rng.choice(n.numbers)

    def any_pair() -> Pair | None:
        pairs = _clear_pairs(n, rng)
        return pairs[0] if pairs else None

    makers: list[tuple[float, Callable[[], Exchange | None]]] = [
        (3, lambda: picture_caption(n, rng)),
        (2, lambda: name(n, rng, any_number(), rng.random() < 0.5)),
        (2, lambda: brief_caption(n, rng, any_number())),
        (1, lambda: detailed_caption(n, rng, any_number())),
        (2, lambda: verify(n, rng, any_number(), frequencies)),
        (1, lambda: exists(n, rng, frequencies)),
        (1, lambda: count(n, rng, frequencies)),
        (1, lambda: beside(n, rng, any_number())),
        (1, lambda: colour(n, rng, any_number())),
        (1, lambda: position(n, rng, any_number())),
        (1, lambda: referring(n, rng, frequencies)),
        (1, lambda: relation(n, rng, pair) if (pair := any_pair()) else None),
    ]
    for _ in range(8):
        make = rng.choices([maker for _, maker in makers], [share for share, _ in makers])[0]
        if made := make():
            return [made]
    return []

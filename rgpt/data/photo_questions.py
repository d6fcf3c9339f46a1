"""Questions about photographs with answers that follow from their annotations: training and evaluation alike.

A maker turns numbered regions and seeded random numbers into one `Exchange` of `rgpt.data.scene_questions`,
or None where the photograph does not allow the question: only clear directions and sizes are asked about.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from rgpt import prompts
from rgpt.data.class_words import (
    ANIMALS,
    FOOD,
    PERSON,
    VEHICLES,
    counted,
    listed,
    plural,
    with_article,
)
from rgpt.data.photo_facts import (
    Frequencies,
    NumberedPhoto,
    direction,
    is_tiny,
    known_colour,
    neighbours,
    phrases,
    place,
    size_word,
    wrong_sides,
)
from rgpt.data.photographs import VOCABULARY, PhotoObject
from rgpt.data.scene_questions import DIRECTION_WORDS, DIRECTIONS, Exchange, sentence

GUIDE = prompts.classification_guide(VOCABULARY)
UNKNOWN = "I don't know what this is."
NOTHING = "I see nothing there that I know."
CANDIDATES = 5
MAX_COUNTED = 5

# Everyday wordings beside those of `prompts.WORDINGS` and `prompts.EVERYDAY_NAME`.
_FOLLOW_UP = (
    "What about {region}?",
    "And {region}?",
    "How about {region}?",
    "Next, {region}?",
    "Then {region}?",
)
_KINDS = ((ANIMALS, "animal"), (VEHICLES, "vehicle"), (FOOD, "food"), ({PERSON}, "person"))
_DESCRIBE = ("Tell me about {region}.", "What can you say about {region}?", "Describe this: {region}.")
_POSITION = (
    "Where is {region}?",
    "Where is {region} in the picture?",
    "Where in the picture is {region}?",
    "In which part of the picture is {region}?",
    "Tell me where {region} is.",
)
_COLOUR = (
    "What colour is {region}?",
    "What color is {region}?",
    "Which colour is {region}?",
    "What is the colour of {region}?",
    "Tell me the color of {region}.",
)
_NEIGHBOURS = (
    "What is {text} {region}?",
    "What's {text} {region}?",
    "What do you see {text} {region}?",
    "Name what is {text} {region}.",
    "Tell me what is {text} {region}.",
)
_SMALLER = (
    "Which is smaller, {region} or {other}?",
    "Is {region} or {other} smaller?",
    "Of {region} and {other}, which is smaller?",
)
REFER = (
    "Which of these is {text}: {regions}?",
    "Which one is {text}, {regions}?",
    "Where is {text}: {regions}?",
)
# "Do you see a person in {region}?": of a chair on which somebody sits, boxes do not tell.
VERIFY = tuple(text for text in prompts.WORDINGS["verify"] if "see" not in text and "show" not in text) + (
    "Is this {text}? {region}",
    "Could {region} be {text}?",
)
_PICTURE = ("What is going on here?", "What is happening in this picture?", "What's in this picture?")


# ------------------------------------------------------------------ one region


def name(n: NumberedPhoto, rng: random.Random, number: int, guided: bool, followup: bool = False) -> Exchange:
    """What is it? With the guide sentence (or after it) the bare class name, without it a short sentence."""
    item, said = n[number], prompts.mention(number)
    if followup:
        question = rng.choice(_FOLLOW_UP).format(region=said)
    else:
        wordings = prompts.WORDINGS["classification"]
        question = rng.choice(wordings if guided or rng.random() < 0.5 else prompts.EVERYDAY_NAME["thing"])
        if guided and rng.random() < 0.4:
            question = "What is {region}?"
        if not guided:
            kinds = [kind for names, kind in _KINDS if item.name in names]
            if kinds and rng.random() < 0.25:
                question = rng.choice(prompts.EVERYDAY_NAME[kinds[0]])
        question = question.format(region=said) + (f" {GUIDE}" if guided else "")
    if guided:
        return Exchange("names", question, item.name, item.name, {"region": number})
    if is_tiny(item):
        return Exchange("too_small", question, UNKNOWN, None, {"region": number})
    answer = sentence(with_article(item.name))
    return Exchange("names_unguided", question, answer, item.name, {"region": number})


def brief_caption(n: NumberedPhoto, rng: random.Random, number: int) -> Exchange | None:
    """The captions' words for it; where there are none, size, colour, name and place."""
    item = n[number]
    if is_tiny(item):
        return None
    wordings = _DESCRIBE if rng.random() < 0.3 else prompts.WORDINGS["brief_caption"]
    question = rng.choice(wordings).format(region=prompts.mention(number))
    found = phrases(n.photograph, item)
    text = rng.choice(found) if found else _placed(n, item)
    task = "brief_caption" if found else "brief_caption_placed"
    return Exchange(task, question, sentence(text), text, {"region": number})


def detailed_caption(n: NumberedPhoto, rng: random.Random, number: int) -> Exchange | None:
    """Its description with its place in the picture and one neighbour."""
    item = n[number]
    if is_tiny(item):
        return None
    found = phrases(n.photograph, item)
    text = rng.choice(found) if found else _sized(n, item)
    text += f", {place(n.photograph, item.box)} of the picture"
    sides = list(DIRECTIONS)
    rng.shuffle(sides)
    for side in sides:
        near = neighbours(n.photograph, item, side)
        if near and not (found and near[0].name in text):
            opposite = DIRECTIONS[DIRECTIONS.index(side) ^ 1]
            text += f", {DIRECTION_WORDS[opposite]} {with_article(near[0].name)}"
            break
    question = prompts.choose_wording("detailed_caption", rng).format(region=prompts.mention(number))
    return Exchange("detailed_caption", question, sentence(text), text, {"region": number})


def _sized(n: NumberedPhoto, item: PhotoObject) -> str:
    words = [size_word(n.photograph, item), known_colour(n, item) or "", item.name]
    words = [word for word in words if word]
    if len(words) == 1:
        return with_article(item.name)
    words[-1] = with_article(item.name).split(" ", 1)[1]  # "a small pair of skis"
    return with_article(" ".join(words))


def _placed(n: NumberedPhoto, item: PhotoObject) -> str:
    return f"{_sized(n, item)} {place(n.photograph, item.box)} of the picture"


def verify(
    n: NumberedPhoto, rng: random.Random, number: int, frequencies: Frequencies, truth: bool | None = None
) -> Exchange | None:
    """Is it a …? Half of the false names are those of other things in the picture."""
    item = n[number]
    if is_tiny(item):
        return None
    truth = rng.random() < 0.5 if truth is None else truth
    said: str | None = item.name
    if not truth:
        said = frequencies.false_name(item.name, n.classes, rng)
    if said is None:
        return None
    question = rng.choice(VERIFY).format(region=prompts.mention(number), text=with_article(said))
    details = {"region": number, "name": said, "elsewhere": said in n.classes and not truth}
    return Exchange("verify", question, "Yes." if truth else "No.", truth, details)


def position(n: NumberedPhoto, rng: random.Random, number: int) -> Exchange:
    where = place(n.photograph, n[number].box)
    question = rng.choice(_POSITION).format(region=prompts.mention(number))
    return Exchange("position", question, sentence(f"{where} of the picture"), where, {"region": number})


def colour(n: NumberedPhoto, rng: random.Random, number: int) -> Exchange | None:
    known = known_colour(n, n[number])
    if known is None:
        return None
    question = rng.choice(_COLOUR).format(region=prompts.mention(number))
    return Exchange("colour", question, sentence(known), known, {"region": number})


def beside(n: NumberedPhoto, rng: random.Random, number: int) -> Exchange | None:
    """What is to the left of it? Up to three kinds of things; "nothing" only seldom."""
    item = n[number]
    sides = list(DIRECTIONS)
    rng.shuffle(sides)
    for side in sides:
        found = neighbours(n.photograph, item, side)
        if found is None or (not found and (is_tiny(item) or rng.random() > 0.05)):
            continue
        kinds = Counter(other.name for other in found)
        if len(kinds) > 3 or max(kinds.values(), default=0) > 4:
            continue
        wording = rng.choice(_NEIGHBOURS)
        question = wording.format(text=DIRECTION_WORDS[side], region=prompts.mention(number))
        answer = sentence(listed([counted(*pair) for pair in kinds.items()])) if found else NOTHING
        return Exchange("beside", question, answer, sorted(kinds), {"region": number, "side": side})
    return None


# ------------------------------------------------------------------ several regions


def referring(
    n: NumberedPhoto,
    rng: random.Random,
    frequencies: Frequencies,
    numbers: Sequence[int] | None = None,
    no_match: float = 0.15,
    followup: bool = False,
) -> Exchange | None:
    """Which of the regions is it? Exactly one is of the class that is asked for; with `no_match` none is.

    Args:
        numbers: the candidates, in the order they are listed in; all of the photograph's by default.
        no_match: the probability of asking for what none of them is.
        followup: the turn before listed the same candidates, so they are not listed again.
    """
    numbers = list(n.numbers if numbers is None else numbers)
    if len(numbers) < 2 or any(is_tiny(n[number]) for number in numbers):
        return None
    names = Counter(n[number].name for number in numbers)
    alone = [number for number in numbers if names[n[number].name] == 1]
    if rng.random() < no_match:
        elsewhere = sorted(n.classes - set(names))
        near = bool(elsewhere) and rng.random() < 0.5
        said = rng.choice(elsewhere) if near else frequencies.absent(names, frequencies.region_weight, rng)
        if said is None:
            return None
        text, number, answer = said, 0, prompts.NO_MATCH
    elif alone:
        number = rng.choices(alone, [frequencies.weight(n[each]) for each in alone])[0]
        found = phrases(n.photograph, n[number])
        text = rng.choice(found).split(" ", 1)[1] if found and rng.random() < 0.4 else n[number].name
        answer = f"Region [{number}]."
    else:
        return None
    text = f"the {text}"
    wordings = REFER if rng.random() < 0.3 else prompts.WORDINGS["referring"]
    wordings = prompts.WORDINGS["referring_followup"] if followup else wordings
    question = rng.choice(wordings).format(regions=prompts.list_mentions(numbers), text=text)
    if not followup and rng.random() < 0.6:
        question = f"{question} {prompts.REFERRING_GUIDE}"
    task = "referring" if number else "no_match"
    return Exchange(task, question, answer, number, {"text": text, "candidates": numbers})


Pair = tuple[int, int]


def relation(n: NumberedPhoto, rng: random.Random, pair: Pair) -> Exchange | None:
    a, b = pair
    where = direction(n.photograph, n[a].box, n[b].box)
    if where is None:
        return None
    wording = prompts.choose_wording("relation", rng)
    question = wording.format(region=prompts.mention(a), other=prompts.mention(b))
    answer = f"Region [{a}] is {DIRECTION_WORDS[where]} region [{b}]."
    return Exchange("relation", question, answer, where, {"region": a, "other": b})


def verify_relation(n: NumberedPhoto, rng: random.Random, pair: Pair) -> Exchange | None:
    a, b = pair
    where = direction(n.photograph, n[a].box, n[b].box)
    if where is None:
        return None
    truth = rng.random() < 0.5
    said = where if truth else rng.choice(wrong_sides(n[a].box, n[b].box))
    question = prompts.choose_wording("verify_relation", rng).format(
        region=prompts.mention(a), other=prompts.mention(b), text=DIRECTION_WORDS[said]
    )
    return Exchange("verify_relation", question, "Yes." if truth else "No.", truth, {"region": a, "other": b})


def compare_size(n: NumberedPhoto, rng: random.Random, pair: Pair) -> Exchange | None:
    """Which takes up more of the picture? Only where one has twice the area of the other."""
    areas = {number: n[number].box.area for number in pair}
    larger, smaller = sorted(pair, key=lambda number: -areas[number])
    if areas[larger] < 2 * areas[smaller]:
        return None
    a, b = pair
    asks_smaller = rng.random() < 0.3
    wording = rng.choice(_SMALLER if asks_smaller else prompts.WORDINGS["compare_size"])
    question = wording.format(region=prompts.mention(a), other=prompts.mention(b))
    truth = smaller if asks_smaller else larger
    answer = f"Region [{truth}] is {'smaller' if asks_smaller else 'larger'}."
    return Exchange("compare_size", question, answer, truth, {"region": a, "other": b})


# ------------------------------------------------------------------ the whole picture


def exists(
    n: NumberedPhoto, rng: random.Random, frequencies: Frequencies, mentioned: Iterable[str] = ()
) -> Exchange | None:
    """Is there a … in the picture? About no class that was `mentioned` earlier."""
    said: str | None
    mentioned = set(mentioned)
    truth = rng.random() < 0.5
    if truth:
        there = sorted({item.name for item in n.photograph.singles if not is_tiny(item)} - mentioned)
        if not there:
            return None
        said = rng.choices(there, [frequencies.class_weight(each) for each in there])[0]
    else:
        said = frequencies.absent(n.classes | mentioned, frequencies.absent_weight, rng)
    if said is None:
        return None
    question = prompts.choose_wording("exists", rng).format(text=with_article(said))
    return Exchange("exists", question, "Yes." if truth else "No.", truth, {"name": said})


def count(
    n: NumberedPhoto, rng: random.Random, frequencies: Frequencies, mentioned: Iterable[str] = ()
) -> Exchange | None:
    """How many … are there? None of them tiny, no crowd, five at most; seldom none at all."""
    found = Counter(item.name for item in n.photograph.singles)
    blurred = n.photograph.crowded | {item.name for item in n.photograph.singles if is_tiny(item)}
    banned = blurred | set(mentioned)
    there = sorted(each for each, number in found.items() if number <= MAX_COUNTED and each not in banned)
    said: str | None
    if rng.random() < 0.1:
        said = frequencies.absent(n.classes | banned, frequencies.absent_weight, rng)
    else:
        # One of a kind is the rule: twos and more are asked about rather.
        weights = [frequencies.class_weight(each) * found[each] for each in there]
        said = rng.choices(there, weights)[0] if there else None
    if said is None:
        return None
    question = prompts.choose_wording("count", rng).format(text=plural(said))
    return Exchange("count", question, f"{found[said]}.", found[said], {"name": said})


def picture_caption(n: NumberedPhoto, rng: random.Random) -> Exchange | None:
    """One of the picture's captions."""
    if not n.photograph.captions:
        return None
    text = rng.choice(n.photograph.captions)
    text = text[0].upper() + text[1:].rstrip(" .,;") + "."
    wordings = _PICTURE if rng.random() < 0.2 else prompts.WORDINGS["picture_caption"]
    return Exchange("picture_caption", rng.choice(wordings), text, text)

"""Questions about photographs with answers that follow from their annotations: training and evaluation alike.

Everything is computed from a `Photograph`'s boxes, outlines, class names, captions and, for colours, pixels;
never by a model. A maker turns numbered regions and seeded random numbers into one `Exchange` of
`rgpt.data.scene_questions`, or None where the photograph does not allow the question. `conversation` strings
exchanges together such that no answer is given away by an earlier turn.

Directions, places and sizes are those of boxes in the picture. Only clear directions and sizes are asked
about; places are the thirds of the picture in which a box has its centre.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from rgpt import prompts
from rgpt.data.class_words import (
    ANIMALS,
    COLOUR_SPELLINGS,
    COLOURED,
    FOOD,
    PERSON,
    VEHICLES,
    caption_phrase,
    counted,
    listed,
    plural,
    with_article,
)
from rgpt.data.colour_names import colour_of
from rgpt.data.photographs import VOCABULARY, Photograph, PhotoObject, class_counts
from rgpt.data.scene_questions import DIRECTION_WORDS, DIRECTIONS, Exchange, sentence
from rgpt.regions import Box

GUIDE = prompts.classification_guide(VOCABULARY)
UNKNOWN = "I don't know what this is."
NOTHING = "I see nothing there that I know."
MIN_SIDE, MIN_AREA = 10, 80
"""Pixels and square pixels: smaller boxes cannot be told, and are asked about only with `too_small`."""
TINY_SHARE = 0.15
"""How likely a tiny object is chosen compared with another of its class."""
LARGE, SMALL = 0.2, 0.01
"""Shares of the picture that a box is called large or small at."""
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
_REFER = (
    "Which of these is {text}: {regions}?",
    "Which one is {text}, {regions}?",
    "Where is {text}: {regions}?",
)
# "Do you see a person in {region}?": of a chair on which somebody sits, boxes do not tell.
_VERIFY = tuple(text for text in prompts.WORDINGS["verify"] if "see" not in text and "show" not in text) + (
    "Is this {text}? {region}",
    "Could {region} be {text}?",
)
_PICTURE = ("What is going on here?", "What is happening in this picture?", "What's in this picture?")


@dataclass(frozen=True)
class NumberedPhoto:
    """A photograph some of whose objects got region numbers: region n is `objects[n - 1]`.

    `pixels` [H, W, 3] (uint8) are needed for colours alone.
    """

    photograph: Photograph
    objects: tuple[PhotoObject, ...]
    pixels: np.ndarray | None = field(default=None, compare=False)

    def __getitem__(self, number: int) -> PhotoObject:
        return self.objects[number - 1]

    @property
    def numbers(self) -> range:
        return range(1, len(self.objects) + 1)

    @cached_property
    def classes(self) -> frozenset[str]:
        """Of all that the picture holds, crowds among them."""
        return frozenset(item.name for item in self.photograph.objects)


def is_tiny(item: PhotoObject) -> bool:
    """Whether a region is too small to tell what it is."""
    width, height = item.box.x2 - item.box.x1, item.box.y2 - item.box.y1
    return min(width, height) < MIN_SIDE or item.box.area < MIN_AREA


def centre(box: Box) -> tuple[float, float]:
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2


def overlap(a: Box, b: Box) -> float:
    """Shared area as a share of the smaller box, in [0, 1]."""
    width, height = min(a.x2, b.x2) - max(a.x1, b.x1), min(a.y2, b.y2) - max(a.y1, b.y1)
    return width * height / min(a.area, b.area) if width > 0 and height > 0 else 0.0


def direction(photograph: Photograph, a: Box, b: Box) -> str | None:
    """Where `a` is as seen from `b`; None unless it is clear.

    Clear: the centres are a twentieth of the picture apart, one direction wins 1.5 to 1, and the boxes share
    at most a fifth of the smaller extent along it.
    """
    (ax, ay), (bx, by) = centre(a), centre(b)
    dx, dy = ax - bx, ay - by
    if max(abs(dx), abs(dy)) < 0.05 * max(photograph.width, photograph.height):
        return None
    if abs(dx) >= 1.5 * abs(dy):
        shared, least = min(a.x2, b.x2) - max(a.x1, b.x1), min(a.x2 - a.x1, b.x2 - b.x1)
        side = "left" if dx < 0 else "right"
    elif abs(dy) >= 1.5 * abs(dx):
        shared, least = min(a.y2, b.y2) - max(a.y1, b.y1), min(a.y2 - a.y1, b.y2 - b.y1)
        side = "above" if dy < 0 else "below"
    else:
        return None
    return side if shared <= 0.2 * least else None


def wrong_sides(a: Box, b: Box) -> list[str]:
    """The sides of `b` on which the centre of `a` is not at all."""
    (ax, ay), (bx, by) = centre(a), centre(b)
    holds = {"left": ax < bx, "right": ax > bx, "above": ay < by, "below": ay > by}
    return [side for side in DIRECTIONS if not holds[side]]


def place(photograph: Photograph, box: Box) -> str:
    """Where a box is in the picture: "in the upper left", "in the middle", "on the right side" …"""
    x, y = centre(box)
    column = ("left", "", "right")[min(2, int(3 * x / photograph.width))]
    row = ("upper", "", "lower")[min(2, int(3 * y / photograph.height))]
    if not row:
        return f"on the {column} side" if column else "in the middle"
    return f"in the {row} {column or 'middle'}"


def neighbours(photograph: Photograph, target: PhotoObject, side: str) -> list[PhotoObject] | None:
    """What stands next to `target` on that side, nearest first; None where it is not clear.

    Next to: clearly in that direction, within a third of the picture, and level with it (the boxes share half
    of the smaller extent across). Tiny things do not count; a crowd on that side makes it unclear.
    """
    across, along = (1, 0) if side in ("left", "right") else (0, 1)
    reach = (photograph.width, photograph.height)[along] / 3
    t, found = target.box.xyxy, []
    for item in photograph.objects:
        if item is target or is_tiny(item):
            continue
        b = item.box.xyxy
        level = min(t[across + 2], b[across + 2]) - max(t[across], b[across])
        extent = min(t[across + 2] - t[across], b[across + 2] - b[across])
        gap = t[along] - b[along + 2] if side in ("left", "above") else b[along] - t[along + 2]
        if level < 0.5 * extent or gap > reach:
            continue
        if direction(photograph, item.box, target.box) != side:
            if gap > -0.5 * (b[along + 2] - b[along]) and side not in wrong_sides(item.box, target.box):
                return None  # half beside, half in front: a person might name it or not
            continue
        if item.crowd:
            return None
        found.append((gap, item))
    return [item for _, item in sorted(found, key=lambda pair: pair[0])]


def phrases(photograph: Photograph, item: PhotoObject) -> list[str]:
    """What the captions say of the object, where it is the only one of its class; bare names left out."""
    if sum(other.name == item.name for other in photograph.objects) != 1 or is_tiny(item):
        return []
    found = (caption_phrase(caption, item.name) for caption in photograph.captions)
    return [phrase for phrase in found if phrase and len(phrase.split()) > 1 + len(item.name.split())]


def known_colour(n: NumberedPhoto, item: PhotoObject) -> str | None:
    """From the captions where they agree on one, else from the pixels where they are clear."""
    if item.name not in COLOURED or is_tiny(item):
        return None
    said = set()
    for phrase in phrases(n.photograph, item):
        words = phrase.split()
        head = words.index(item.name.split()[-1]) if item.name.split()[-1] in words else 0
        colours = [COLOUR_SPELLINGS[word] for word in words[:head] if word in COLOUR_SPELLINGS]
        said |= {" and ".join(colours)} if colours else set()
    if said:
        return said.pop() if len(said) == 1 else None
    return None if n.pixels is None else colour_of(n.pixels, item.region, item.box)


def size_word(photograph: Photograph, item: PhotoObject) -> str:
    """ "large", "small" or "" by the box's share of the picture."""
    share = item.box.area / (photograph.width * photograph.height)
    return "large" if share >= LARGE else "small" if share <= SMALL else ""


class Frequencies:
    """How often classes are, and from which a false "Is there …?" or "Is this …?" draws its class.

    The classes of false statements must be as frequent as those of true ones, or "person" alone would answer
    yes. As a false class must also be absent, plain draws would not have these frequencies: the weights are
    fitted in rounds (iterative proportional fitting) over all photographs.
    """

    def __init__(self, photographs: Sequence[Photograph]) -> None:
        counts = class_counts(photographs)
        self.names = tuple(sorted(counts))
        self.share = {name: counts[name] / max(1, counts.total()) for name in self.names}
        index = {name: i for i, name in enumerate(self.names)}
        has = np.zeros((len(photographs), len(self.names)), dtype=bool)
        region = np.zeros(has.shape)  # chance that a question's region is of the class
        for row, photograph in enumerate(photographs):
            for item in photograph.objects:
                if item.name in index:
                    has[row, index[item.name]] = True
            for item in photograph.singles:
                if not is_tiny(item):
                    region[row, index[item.name]] += self.weight(item)
        region /= np.maximum(region.sum(1, keepdims=True), 1e-9)
        present = has * self._by_name(self.class_weight)
        present /= np.maximum(present.sum(1, keepdims=True), 1e-9)
        self.absent_weight = self._fitted(present.sum(0), ~has)
        # Half of a region's false names stand elsewhere in the picture. Few classes do, so their weights get
        # a factor, found by bisection of its logarithm.
        low, high = 0.0, 12.0
        for _ in range(12):
            middle = (low + high) / 2
            self.elsewhere_factor = math.exp(middle)
            near = self.elsewhere_factor * has * (1 - region)
            self.region_weight = self._fitted(region.sum(0), near + ~has)
            weights = self._by_name(self.region_weight.__getitem__)
            share = near @ weights / np.maximum((near + ~has) @ weights, 1e-12)
            low, high = (low, middle) if share.mean() > 0.5 else (middle, high)

    def class_weight(self, name: str) -> float:
        return 1 / math.sqrt(self.share.get(name) or 1e-4)

    def weight(self, item: PhotoObject) -> float:
        """How likely an object is chosen: 1 / sqrt(frequency), so that people do not drown the rest."""
        return self.class_weight(item.name)

    def _by_name(self, value: Callable[[str], float]) -> np.ndarray:
        return np.array([value(name) for name in self.names])

    def _fitted(self, wanted: np.ndarray, allowed: np.ndarray) -> dict[str, float]:
        wanted = wanted / max(wanted.sum(), 1e-9)
        weights = wanted.copy()
        for _ in range(40):
            drawn = allowed * weights
            drawn = (drawn / np.maximum(drawn.sum(1, keepdims=True), 1e-12)).sum(0)
            weights *= wanted / np.maximum(drawn / max(drawn.sum(), 1e-12), 1e-12)
            weights /= max(weights.sum(), 1e-12)
        return dict(zip(self.names, weights.tolist(), strict=True))

    def false_name(self, name: str, classes: Iterable[str], rng: random.Random) -> str | None:
        """What a thing of class `name` is not; half of the time a class that is elsewhere among `classes`."""
        there = set(classes)
        factor = [self.elsewhere_factor if each in there else 1.0 for each in self.names]
        weights = [
            0.0 if each == name else f * self.region_weight[each]
            for each, f in zip(self.names, factor, strict=True)
        ]
        return rng.choices(self.names, weights)[0] if sum(weights) > 0 else None

    def absent(self, classes: Iterable[str], weights: dict[str, float], rng: random.Random) -> str | None:
        """A class that is not among `classes`, drawn by `weights`."""
        banned = set(classes)
        names = [name for name in self.names if name not in banned and weights[name] > 0]
        return rng.choices(names, [weights[name] for name in names])[0] if names else None


def choose_objects(
    photograph: Photograph, frequencies: Frequencies, rng: random.Random, count: int
) -> list[PhotoObject]:
    """Up to `count` objects in random order, rare classes rather than frequent ones.

    Of people two at most, of another class four.
    """
    pool = list(photograph.singles)
    # Sampling without replacement by weights (Efraimidis and Spirakis): the largest u^(1/w) win.
    keys = {
        item.id: math.log(rng.random() or 1e-12)
        / (frequencies.weight(item) * (TINY_SHARE if is_tiny(item) else 1.0))
        for item in pool
    }
    chosen: list[PhotoObject] = []
    taken: Counter[str] = Counter()
    for item in sorted(pool, key=lambda item: keys[item.id], reverse=True):
        if len(chosen) < count and taken[item.name] < (2 if item.name == PERSON else 4):
            chosen.append(item)
            taken[item.name] += 1
    rng.shuffle(chosen)
    return chosen


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
    question = rng.choice(_VERIFY).format(region=prompts.mention(number), text=with_article(said))
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
    wordings = _REFER if rng.random() < 0.3 else prompts.WORDINGS["referring"]
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


# ------------------------------------------------------------------ conversations

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
        question = rng.choice((*_REFER, *prompts.WORDINGS["referring"]))
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
        question = rng.choice(_VERIFY).format(region=mention, text=with_article(name))
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

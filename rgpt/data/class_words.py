"""COCO's class names in sentences, and what the captions of a photograph say of one object.

`caption_phrase` reads a caption with a few rules of our own: find a word that names the class, go left to its
article, go right over what modifies it. Where a rule does not hold there is no phrase; few but right.
"""

from __future__ import annotations

import re
from functools import cache


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


PERSON = "person"
ANIMALS = _set("bird cat dog horse sheep cow elephant bear zebra giraffe")
VEHICLES = _set("bicycle car motorcycle airplane bus train truck boat")
FOOD = _set("banana apple sandwich orange broccoli carrot pizza donut cake") | {"hot dog"}

COLOURED = (
    ((ANIMALS | VEHICLES) - {"zebra", "giraffe"})
    | _set("backpack umbrella handbag tie suitcase frisbee snowboard kite skateboard surfboard")
    | _set("bottle cup bowl chair couch bed vase toothbrush refrigerator")
    | {"fire hydrant", "sports ball", "cell phone", "teddy bear", "baseball glove", "baseball bat"}
)
"""Classes whose objects have one colour often enough to be asked about it."""

_PLURALS = {"person": "people", "mouse": "mice", "knife": "knives", "sheep": "sheep", "tv": "TVs"} | {
    "broccoli": "pieces of broccoli",
    "skis": "pairs of skis",
    "scissors": "pairs of scissors",
}
_SAID = {"tv": "TV", "broccoli": "piece of broccoli", "skis": "pair of skis", "scissors": "pair of scissors"}
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def with_article(phrase: str) -> str:
    """ "a dog", "an elephant", "a pair of skis"; names of classes or longer phrases."""
    said = _SAID.get(phrase, phrase)
    return f"an {said}" if said[0] in "aeiou" and not said.startswith(("uni", "one")) else f"a {said}"


def plural(name: str) -> str:
    """ "dogs", "people", "wine glasses"."""
    if name in _PLURALS:
        return _PLURALS[name]
    return f"{name}es" if name.endswith(("s", "ch", "sh", "x")) else f"{name}s"


def counted(name: str, number: int) -> str:
    """ "a dog", "two dogs"."""
    return with_article(name) if number == 1 else f"{_COUNTED[number]} {plural(name)}"


def listed(parts: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


_SYNONYMS = {
    "person": "man woman boy girl guy lady child kid person player skateboarder surfer skier snowboarder "
    "batter catcher pitcher umpire toddler baby gentleman rider bicyclist cyclist motorcyclist swimmer bride "
    "groom chef waiter boarder teenager male female",
    "bicycle": "bicycle|bike",
    "car": "car|suv|sedan|taxi|minivan",
    "motorcycle": "motorcycle|motorbike|motor bike|motor scooter|scooter|moped",
    "airplane": "airplane|plane|jet|airliner|aeroplane|jetliner",
    "bus": "bus",
    "train": "train|locomotive",
    "truck": "truck|pickup truck|fire truck",
    "boat": "boat|sailboat|ship|canoe|kayak|ferry",
    "traffic light": "traffic light|stop light|traffic signal|stoplight",
    "fire hydrant": "fire hydrant|hydrant",
    "stop sign": "stop sign",
    "parking meter": "parking meter",
    "bench": "bench",
    "bird": "bird|duck|seagull|parrot|pigeon|owl|swan|goose|eagle",
    "cat": "cat|kitten|kitty",
    "dog": "dog|puppy",
    "horse": "horse|pony",
    "sheep": "sheep|lamb",
    "cow": "cow|bull|calf",
    "elephant": "elephant",
    "bear": "bear|polar bear|grizzly bear|brown bear|black bear",
    "zebra": "zebra",
    "giraffe": "giraffe",
    "backpack": "backpack",
    "umbrella": "umbrella|parasol",
    "handbag": "handbag|purse",
    "tie": "tie|necktie|bow tie",
    "suitcase": "suitcase",
    "frisbee": "frisbee|flying disc",
    "snowboard": "snowboard",
    "kite": "kite",
    "baseball bat": "baseball bat|bat",
    "baseball glove": "baseball glove|baseball mitt|catchers mitt",
    "skateboard": "skateboard",
    "surfboard": "surfboard|surf board",
    "tennis racket": "tennis racket|tennis racquet|racket|racquet",
    "bottle": "bottle|wine bottle|water bottle|beer bottle",
    "wine glass": "wine glass|glass of wine",
    "cup": "cup|mug|coffee cup|cup of coffee",
    "bowl": "bowl",
    "banana": "banana",
    "apple": "apple",
    "sandwich": "sandwich|burger|hamburger|sub",
    "carrot": "carrot",
    "hot dog": "hot dog|hotdog",
    "pizza": "pizza",
    "donut": "donut|doughnut",
    "cake": "cake|birthday cake|wedding cake",
    "chair": "chair|armchair",
    "couch": "couch|sofa",
    "potted plant": "potted plant",
    "bed": "bed",
    "dining table": "dining table|dining room table",
    "toilet": "toilet",
    "tv": "tv|television|flat screen tv",
    "laptop": "laptop|laptop computer",
    "keyboard": "keyboard|computer keyboard",
    "cell phone": "cell phone|cellphone|phone|smartphone|mobile phone|smart phone",
    "microwave": "microwave|microwave oven",
    "oven": "oven|stove",
    "sink": "sink",
    "refrigerator": "refrigerator|fridge",
    "book": "book",
    "clock": "clock",
    "vase": "vase",
    "teddy bear": "teddy bear|stuffed bear|teddy",
    "toothbrush": "toothbrush|tooth brush",
}

HEADS: dict[tuple[str, ...], str] = {
    tuple(words.split()): name
    for name, text in _SYNONYMS.items()
    for words in (text.split() if name == PERSON else text.split("|"))
}
_LONGEST = max(map(len, HEADS))
_PEOPLE = _set("people men women boys girls kids children players group couple crowd family")
_ARTICLES = _set("a an the one this his her their its another")
_PREPOSITIONS = _set(
    "with in on of at by near next to from under over behind for through across along around above below "
    "inside outside against beside between onto into atop toward towards off up down out during past "
    "about"
)
_COLOURS = _set("black white grey gray red orange yellow green blue purple pink brown tan silver gold")
COLOUR_SPELLINGS = {word: word for word in _COLOURS} | {"gray": "grey", "silver": "grey", "gold": "yellow"}
"""Words for colours, and how they are answered."""
_BREAKS = _set(
    "and while as that who which where is are was were has have had or but than because if when so "
    "his her their he she it they there being"
)
_PARTICIPLES = {
    "sits": "sitting", "stands": "standing", "holds": "holding", "rides": "riding", "walks": "walking",
    "plays": "playing", "flies": "flying", "runs": "running", "looks": "looking", "wears": "wearing",
    "eats": "eating", "hits": "hitting", "swings": "swinging", "lies": "lying", "lays": "lying",
    "throws": "throwing", "catches": "catching", "jumps": "jumping", "poses": "posing", "carries": "carrying",
    "drives": "driving", "skis": "skiing", "surfs": "surfing", "talks": "talking", "uses": "using",
    "cuts": "cutting", "takes": "taking", "makes": "making", "watches": "watching", "waits": "waiting",
    "leans": "leaning", "smiles": "smiling", "works": "working", "sleeps": "sleeping", "drinks": "drinking",
    "reads": "reading", "prepares": "preparing", "performs": "performing", "travels": "traveling",
    "grazes": "grazing", "skateboards": "skateboarding", "reaches": "reaching", "brushes": "brushing",
    "pulls": "pulling", "serves": "serving", "crosses": "crossing", "rests": "resting",
}  # fmt: skip
_PAST = _set(
    "covered filled topped parked made dressed decorated surrounded attached loaded stopped painted "
    "tied cut perched seated mounted"
)
_NOT_ING = _set("building ceiling railing clothing morning evening wedding something anything")
_NOT_REAL = _set(
    "statue toy picture painting drawing stuffed sculpture reflection shadow image photo photograph "
    "poster cartoon fake model sign"
)
_MAX_WORDS = 9
_PLACED = ANIMALS | VEHICLES | {PERSON, "bench", "fire hydrant", "clock", "toilet", "bed", "couch", "sink"}


def _is_participle(word: str) -> bool:
    return word.endswith("ing") and len(word) > 4 and word not in _NOT_ING


def _words(caption: str) -> list[str]:
    return re.findall(r"[a-z]+(?:[-'][a-z]+)*|[.,;:!?\"()]|\d+", caption.lower())


def _head_at(words: list[str], start: int) -> tuple[str, int] | None:
    """The class named by the longest head that begins at `start`, and where the head ends."""
    for length in range(min(_LONGEST, len(words) - start), 0, -1):
        if name := HEADS.get(tuple(words[start : start + length])):
            return name, start + length
    return None


@cache
def heads_of(caption: str) -> tuple[tuple[str, int, int], ...]:
    """(class, first word, one past the last word) of every head in the caption, longest first."""
    words, found, i = _words(caption), [], 0
    while i < len(words):
        if head := _head_at(words, i):
            found.append((head[0], i, head[1]))
            i = head[1]
        else:
            i += 1
    return tuple(found)


def caption_phrase(caption: str, name: str) -> str | None:
    """The words of `caption` about its only object of class `name`, e.g. "a brown dog with a red collar".

    None where the class is not named exactly once, or its words are not plain.
    """
    words, heads = _words(caption), heads_of(caption)
    own = [head for head in heads if head[0] == name]
    if len(own) != 1 or (name == PERSON and not _PEOPLE.isdisjoint(words)) or not _NOT_REAL.isdisjoint(words):
        return None
    _, start, end = own[0]
    following = words[end] if end < len(words) else "."
    plain = (
        not following[0].isalpha()
        or following in _PREPOSITIONS | _BREAKS | _PAST
        or following in _PARTICIPLES
        or _is_participle(following)
    )
    if not plain:  # "train station", "horse race"
        return None
    before = _before(words, start, heads)
    if before is None:
        return None
    return " ".join([with_article(" ".join([*before, *words[start:end]])), *_after(words, end, name)])


def _before(words: list[str], start: int, heads: tuple[tuple[str, int, int], ...]) -> list[str] | None:
    """The adjectives between the article and the head; None where there is no article."""
    other = {
        i for _, first, end in heads for i in range(first, end) if words[i] not in ("baby", "male", "female")
    }
    i = start
    while i > 0 and start - i <= 4:
        word = words[i - 1]
        if word in _ARTICLES:
            return words[i:start]
        colours = word == "and" and i > 1 and words[i - 2] in _COLOURS and words[i] in _COLOURS
        if colours:
            i -= 1
            continue
        if not word[0].isalpha() or word in _PREPOSITIONS | _BREAKS | set(_PARTICIPLES):
            return None
        if (
            (i - 1 in other and word not in _COLOURS)
            or word.endswith("'s")
            or word in ("two", "three", "some")
        ):
            return None
        i -= 1
    return words[:start] if i == 0 and not any(map(_is_participle, words[:start])) else None


def _after(words: list[str], end: int, name: str) -> list[str]:
    """What modifies the head to its right, as far as it is plain; perhaps nothing."""
    rest = words[end:]
    if rest[:2] and rest[0] in ("who", "that") and rest[1:2] in (["is"], ["has"]):
        rest = rest[1:]
    if rest[:1] == ["is"] and len(rest) > 1 and (_is_participle(rest[1]) or rest[1] in ("in", "on")):
        rest = rest[1:]
    elif rest[:1] == ["has"] and rest[1:2] in (["a"], ["an"]):
        rest = ["with", *rest[1:]]
    elif rest and rest[0] in _PARTICIPLES:
        rest = [_PARTICIPLES[rest[0]], *rest[1:]]
    # "swinging a bat at a ball": after a thing that people use, a place may belong to the deed.
    begins = {"with", "of"} | ({"in", "on", "at", "under"} if name in _PLACED else set())
    if not rest or not (_is_participle(rest[0]) or rest[0] in _PAST | begins):
        return []
    kept: list[str] = []
    for i, word in enumerate(rest):
        colours = (
            word == "and"
            and kept
            and kept[-1] in _COLOURS
            and rest[i + 1 : i + 2]
            and rest[i + 1] in _COLOURS
        )
        own = (
            word in ("his", "her", "their", "its")
            and kept
            and kept[-1] in _PREPOSITIONS | {"holding", "using"}
        )
        if not (word[0].isalpha() or word.isdigit()) or (word in _BREAKS and not colours and not own):
            break
        if word in _PARTICIPLES and word != "skis":
            break
        if word == "between" or (word in ("next", "close") and rest[i + 1 : i + 2] != ["to"]):
            break
        kept.append(word)
    if len(kept) > _MAX_WORDS:
        kept = kept[:_MAX_WORDS]
        # Not in the midst of "on a red | bench": back to before the last preposition or participle.
        cut = [i for i, word in enumerate(kept) if i and (word in _PREPOSITIONS or _is_participle(word))]
        kept = kept[: cut[-1]] if cut else []
    loose = (
        _PREPOSITIONS | _ARTICLES | _COLOURS | _BREAKS | {"very", "some", "two", "large", "small", "front"}
    )
    while kept and (kept[-1] in loose or (len(kept) > 1 and _is_participle(kept[-1]))):
        kept.pop()
    return kept

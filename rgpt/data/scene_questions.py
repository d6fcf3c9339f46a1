"""Questions about drawn scenes with their true answers: what `tiny` is trained on and measured with.

Everything here is computed from the scene's own truth (`rgpt.data.scenes`), never from a model. An `Exchange`
is one question and answer; `conversation` strings them together into the multi-turn mixtures of training.

Directions need a clear margin, sizes are compared by name: a person would answer as the truth does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rgpt import prompts
from rgpt.data.scenes import COLOURS, SHAPES, SIZES, TEXTURES, Scene, SceneObject

GUIDE = prompts.classification_guide("shape")
DIRECTIONS = ("left", "right", "above", "below")
DIRECTION_WORDS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES, "size": SIZES}


@dataclass(frozen=True)
class Exchange:
    """One question and its true answer. `truth` is the parsed form that scoring compares with."""

    task: str
    question: str
    answer: str
    truth: object = None
    details: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Numbered:
    """A scene whose objects got region numbers: region n is `scene.objects[order[n - 1]]`."""

    scene: Scene
    order: tuple[int, ...]

    def __getitem__(self, number: int) -> SceneObject:
        return self.scene.objects[self.order[number - 1]]

    @property
    def numbers(self) -> range:
        return range(1, len(self.order) + 1)


def number_objects(scene: Scene, rng: random.Random, count: int | None = None) -> Numbered:
    """Give `count` (default: all) objects of the scene region numbers in random order."""
    order = list(range(len(scene.objects)))
    rng.shuffle(order)
    return Numbered(scene, tuple(order[: len(order) if count is None else count]))


def article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def direction(a: SceneObject, b: SceneObject) -> str | None:
    """Where `a` is as seen from `b`; None where no direction wins 1.5 to 1 or they are too near."""
    dx, dy = a.x - b.x, a.y - b.y
    if max(abs(dx), abs(dy)) < 8:
        return None
    if abs(dx) >= 1.5 * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) >= 1.5 * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def place(o: SceneObject, scene: Scene) -> str:
    """A ninth of the picture in words: "upper left", "middle", "lower right" …"""
    column = ("left", "", "right")[min(2, int(3 * o.x / scene.width))]
    row = ("upper", "", "lower")[min(2, int(3 * o.y / scene.height))]
    if not row and not column:
        return "middle"
    if not column:
        return f"{row} middle"
    return f"{row} {column}" if row else f"{column} side"


def nearest(scene: Scene, index: int) -> int:
    """The object whose centre is nearest to that of object `index`."""
    me = scene.objects[index]
    others = [i for i in range(len(scene.objects)) if i != index]
    return min(others, key=lambda i: (scene.objects[i].x - me.x) ** 2 + (scene.objects[i].y - me.y) ** 2)


def description(objects: Sequence[SceneObject], target: SceneObject, rng: random.Random) -> str:
    """Words that fit `target` and none of the other `objects`: its shape with some of its attributes.

    All four attributes where nothing shorter is unique; those fit a twin too, so callers check.
    """
    for words in _descriptions(target, rng):
        if sum(fits(o, words) for o in objects) == 1:
            return " ".join(words)
    return target.phrase


def _descriptions(o: SceneObject, rng: random.Random) -> list[list[str]]:
    options = [[o.colour, o.shape], [o.size, o.shape], [o.texture, o.shape], [o.size, o.colour, o.shape]]
    options += [[o.colour, o.texture, o.shape]]
    rng.shuffle(options)
    if rng.random() < 0.25:
        options.insert(0, [o.size, o.colour, o.texture, o.shape])
    if rng.random() < 0.15:
        options.insert(0, [o.shape])
    return options


def fits(o: SceneObject, words: Sequence[str]) -> bool:
    """Whether every word is an attribute of the object."""
    return all(w in (o.shape, o.colour, o.texture, o.size) for w in words)


def absent_description(objects: Sequence[SceneObject], rng: random.Random) -> str:
    """Words that fit none of `objects`; half of the time they miss one of them in a single attribute."""
    for _ in range(50):
        if rng.random() < 0.5:
            base = rng.choice(objects)
            values = {"size": base.size, "colour": base.colour, "texture": base.texture, "shape": base.shape}
            changed = rng.choice(("shape", "colour"))
            values[changed] = rng.choice([v for v in ATTRIBUTES[changed] if v != values[changed]])
        else:
            values = {name: rng.choice(options) for name, options in ATTRIBUTES.items()}
        keep = rng.choice(
            (("colour", "shape"), ("size", "shape"), ("texture", "shape"), ("size", "colour", "shape"))
        )
        words = [values[name] for name in keep]
        if not any(fits(o, words) for o in objects):
            return " ".join(words)
    raise AssertionError("no absent description found in 50 tries")


# One function a task: (numbered scene, rng) -> Exchange, or None where the scene does not allow the question.
Maker = Callable[[Numbered, random.Random], "Exchange | None"]


def classification(n: Numbered, rng: random.Random, number: int | None = None) -> Exchange:
    number = number or rng.choice(n.numbers)
    question = prompts.choose_wording("classification", rng).format(region=prompts.mention(number))
    return Exchange(
        "classification", f"{question} {GUIDE}", n[number].shape, n[number].shape, {"region": number}
    )


def classification_followup(n: Numbered, rng: random.Random, number: int | None = None) -> Exchange:
    number = number or rng.choice(n.numbers)
    question = prompts.choose_wording("classification_followup", rng).format(region=prompts.mention(number))
    return Exchange("classification_followup", question, n[number].shape, n[number].shape, {"region": number})


def brief_caption(
    n: Numbered, rng: random.Random, number: int | None = None, unguided: float = 0.3
) -> Exchange:
    """A caption with every attribute. A classification question *without* its guide asks the same."""
    number = number or rng.choice(n.numbers)
    task = "classification" if rng.random() < unguided else "brief_caption"
    question = prompts.choose_wording(task, rng).format(region=prompts.mention(number))
    phrase = n[number].phrase
    return Exchange("brief_caption", question, sentence(article(phrase)), phrase, {"region": number})


def detailed_caption(n: Numbered, rng: random.Random) -> Exchange:
    number = rng.choice(n.numbers)
    o = n[number]
    text = f"{article(o.phrase)} in the {place(o, n.scene)} of the picture"
    if len(n.scene.objects) > 1:
        near = n.scene.objects[nearest(n.scene, n.order[number - 1])]
        text += f", near {article(f'{near.colour} {near.shape}')}"
    question = prompts.choose_wording("detailed_caption", rng).format(region=prompts.mention(number))
    return Exchange(
        "detailed_caption", question, sentence(text), o.phrase, {"region": number, "place": place(o, n.scene)}
    )


def referring(
    n: Numbered, rng: random.Random, followup: bool = False, no_match: float = 0.2
) -> Exchange | None:
    """Which of all numbered regions fits a description; with probability `no_match` none does."""
    objects = [n[i] for i in n.numbers]
    if rng.random() < no_match:
        text, number, answer = absent_description(objects, rng), 0, prompts.NO_MATCH
    else:
        number = rng.choice(n.numbers)
        text = description(objects, n[number], rng)
        if sum(fits(o, text.split()) for o in objects) != 1:
            return None
        answer = f"Region [{number}]."
    wording = prompts.choose_wording("referring_followup" if followup else "referring", rng)
    question = wording.format(regions=prompts.list_mentions(n.numbers), text=f"the {text}")
    if not followup:
        question = f"{question} {prompts.REFERRING_GUIDE}"
    task = "no_match" if number == 0 else "referring"
    return Exchange(task, question, answer, number, {"text": f"the {text}", "candidates": list(n.numbers)})


def _pair(n: Numbered, rng: random.Random) -> tuple[int, int] | None:
    return tuple(rng.sample(n.numbers, 2)) if len(n.order) > 1 else None  # type: ignore[return-value]


def relation(n: Numbered, rng: random.Random) -> Exchange | None:
    for _ in range(4):
        pair = _pair(n, rng)
        if pair and (where := direction(n[pair[0]], n[pair[1]])):
            a, b = pair
            question = prompts.choose_wording("relation", rng).format(
                region=prompts.mention(a), other=prompts.mention(b)
            )
            answer = f"Region [{a}] is {DIRECTION_WORDS[where]} region [{b}]."
            return Exchange("relation", question, answer, where, {"region": a, "other": b})
    return None


def compare_size(n: Numbered, rng: random.Random) -> Exchange | None:
    pair = _pair(n, rng)
    if pair is None:
        return None
    a, b = pair
    sizes = SIZES.index(n[a].size), SIZES.index(n[b].size)
    if sizes[0] == sizes[1]:
        answer, truth = "They have the same size.", 0
    else:
        truth = a if sizes[0] > sizes[1] else b
        answer = f"Region [{truth}] is larger."
    question = prompts.choose_wording("compare_size", rng).format(
        region=prompts.mention(a), other=prompts.mention(b)
    )
    return Exchange("compare_size", question, answer, truth, {"region": a, "other": b})


def compare_attribute(n: Numbered, rng: random.Random) -> Exchange | None:
    name = rng.choice(("shape", "colour", "texture"))
    pair = _matching_pair(n, name, rng) if rng.random() < 0.5 else _pair(n, rng)
    if pair is None:
        return None
    a, b = pair
    values = getattr(n[a], name), getattr(n[b], name)
    same = values[0] == values[1]
    if same:
        answer = f"Yes, both are {plural(values[0]) if name == 'shape' else values[0]}."
    else:
        said = [article(v) if name == "shape" else v for v in values]
        answer = f"No, region [{a}] is {said[0]} and region [{b}] is {said[1]}."
    wording = prompts.choose_wording("compare_attribute", rng)
    question = wording.format(region=prompts.mention(a), other=prompts.mention(b), text=name)
    return Exchange("compare_attribute", question, answer, same, {"region": a, "other": b, "attribute": name})


def _matching_pair(n: Numbered, name: str, rng: random.Random) -> tuple[int, int] | None:
    pairs = [
        (a, b) for a in n.numbers for b in n.numbers if a != b and getattr(n[a], name) == getattr(n[b], name)
    ]
    return rng.choice(pairs) if pairs else None


VERIFIED: tuple[tuple[str, ...], ...] = (
    ("colour",), ("texture",), ("size",), ("shape",),
    ("colour", "shape"), ("colour", "shape"), ("size", "shape"), ("texture", "shape"),
    ("size", "colour", "shape"), ("colour", "texture", "shape"),
    ("size", "colour", "texture", "shape"),
)  # fmt: skip


def verify(n: Numbered, rng: random.Random) -> Exchange:
    """Is the region what is said of it? A few attributes; a false statement is wrong in exactly one."""
    number = rng.choice(n.numbers)
    o = n[number]
    names = rng.choice(VERIFIED)
    values = {name: getattr(o, name) for name in names}
    truth = rng.random() < 0.5
    if not truth:
        wrong = rng.choice(names)
        values[wrong] = rng.choice([v for v in ATTRIBUTES[wrong] if v != values[wrong]])
    text = " ".join(values[name] for name in names)
    text = article(text) if "shape" in names else text
    wording = prompts.choose_wording("verify", rng)
    if "shape" not in names:
        # "Does <region1> show red?" is not English.
        while "show {text}" in wording or "see {text}" in wording:
            wording = prompts.choose_wording("verify", rng)
    question = wording.format(region=prompts.mention(number), text=text)
    return Exchange("verify", question, "Yes." if truth else "No.", truth, {"region": number})


def wrong_sides(a: SceneObject, b: SceneObject) -> list[str]:
    """The sides of `b` on which `a` is not at all: an object above and a little to the left is not called
    wrong there."""
    holds = {"left": a.x < b.x, "right": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}
    return [side for side in DIRECTIONS if not holds[side]]


def verify_relation(n: Numbered, rng: random.Random) -> Exchange | None:
    for _ in range(4):
        pair = _pair(n, rng)
        if pair and (where := direction(n[pair[0]], n[pair[1]])):
            a, b = pair
            truth = rng.random() < 0.5
            said = where if truth else rng.choice(wrong_sides(n[a], n[b]))
            wording = prompts.choose_wording("verify_relation", rng)
            question = wording.format(
                region=prompts.mention(a), other=prompts.mention(b), text=DIRECTION_WORDS[said]
            )
            return Exchange(
                "verify_relation", question, "Yes." if truth else "No.", truth, {"region": a, "other": b}
            )
    return None


def exists(n: Numbered, rng: random.Random) -> Exchange:
    """Is there such an object in the whole picture? No region is mentioned."""
    truth = rng.random() < 0.5
    if truth:
        o = rng.choice(n.scene.objects)
        words = rng.choice(([o.colour, o.shape], [o.shape], [o.colour, o.shape]))
    else:
        words = _absent_pair(n.scene.objects, rng)
    question = prompts.choose_wording("exists", rng).format(text=article(" ".join(words)))
    return Exchange("exists", question, "Yes." if truth else "No.", truth)


def _absent_pair(objects: Sequence[SceneObject], rng: random.Random) -> list[str]:
    while True:
        words = rng.choice(([rng.choice(COLOURS), rng.choice(SHAPES)], [rng.choice(SHAPES)]))
        if not any(fits(o, words) for o in objects):
            return list(words)


def count(n: Numbered, rng: random.Random) -> Exchange:
    """How many objects (all, of a colour, of a shape) the whole picture has. Zero happens."""
    kind = rng.choice(("all", "colour", "shape"))
    objects = n.scene.objects
    if kind == "all":
        what, number = "objects", len(objects)
    else:
        pool = [getattr(o, kind) for o in objects] if rng.random() < 0.8 else list(ATTRIBUTES[kind])
        value = rng.choice(pool)
        number = sum(getattr(o, kind) == value for o in objects)
        what = f"{value} objects" if kind == "colour" else plural(value)
    question = prompts.choose_wording("count", rng).format(text=what)
    return Exchange("count", question, f"{number}.", number, {"kind": kind})


def plural(shape: str) -> str:
    return "crosses" if shape == "cross" else f"{shape}s"


def picture_caption(n: Numbered, rng: random.Random) -> Exchange:
    """Every object by colour and shape, from left to right."""
    ordered = sorted(n.scene.objects, key=lambda o: o.x)
    names = [article(f"{o.colour} {o.shape}") for o in ordered]
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    truth = [f"{o.colour} {o.shape}" for o in ordered]
    return Exchange(
        "picture_caption", prompts.choose_wording("picture_caption", rng), sentence(listed), truth
    )


MAKERS: dict[str, Maker] = {
    "classification": classification,
    "brief_caption": brief_caption,
    "detailed_caption": detailed_caption,
    "referring": referring,
    "relation": relation,
    "compare_size": compare_size,
    "compare_attribute": compare_attribute,
    "verify": verify,
    "verify_relation": verify_relation,
    "exists": exists,
    "count": count,
    "picture_caption": picture_caption,
}


def conversation(n: Numbered, rng: random.Random, turns: int, weights: dict[str, float]) -> list[Exchange]:
    """A multi-turn mixture of `turns` exchanges, up to four more where follow-ups run over.

    `weights` are shares by task name of `MAKERS`. Follow-ups drop the guide sentence, as in the paper [P].
    The scene must allow at least one of the tasks: a relation needs two objects.
    """
    names, shares = list(weights), list(weights.values())
    exchanges: list[Exchange] = []
    while len(exchanges) < turns:
        task = rng.choices(names, shares)[0]
        made = MAKERS[task](n, rng)
        if made is None:
            continue
        exchanges.append(made)
        if task == "classification":
            for number in rng.sample(n.numbers, min(rng.randint(0, 2), len(n.order))):
                exchanges.append(classification_followup(n, rng, number))
        elif task == "referring":
            for _ in range(rng.randint(1, 4)):
                if again := referring(n, rng, followup=True):
                    exchanges.append(again)
    return exchanges[: turns + 4]

"""What is asked about photographs in COCO's layout, drawn from their annotations alone.

Of every photograph: names of some regions, a caption, yes/no questions, which of five regions is a thing of a
class, and where one region is relative to another. The draws depend on the seed and the photographs, never
on a model, so that floors and ceilings (`eval/photo_bounds.py`) are those of the very same items.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.tasks.base import Item
from rgpt import prompts
from rgpt.data.class_words import with_article
from rgpt.data.photo_facts import direction, is_tiny
from rgpt.data.photo_questions import GUIDE
from rgpt.data.photographs import Photograph, PhotoObject, annotation_files, of_split, read_photographs
from rgpt.data.scene_questions import DIRECTION_WORDS
from rgpt.errors import InputError
from rgpt.regions import Region

KINDS = ("name", "caption", "yes_no", "which", "relation")
FORMS = ("mask", "box")
CANDIDATES = 5
WHICH = 2
"""Which-of-these questions about a photograph, at most."""


@dataclass(frozen=True)
class Draw:
    """What to ask: `form` of regions (`mask`: the outline where one is annotated, else the box), how many
    regions of a photograph are named, and which of `KINDS`."""

    seed: int = 0
    form: str = "mask"
    regions_a_picture: int = 6
    kinds: tuple[str, ...] = KINDS
    guided: bool = True

    def region(self, item: PhotoObject) -> Region:
        return item.box if self.form == "box" else item.region


def read_set(folder: Path, split: str, ids: Path | None = None, limit: int | None = None) -> list[Photograph]:
    """The photographs of a split, or those of a JSON list of numbers, by number. Raises InputError."""
    found = read_photographs(folder)
    if ids is None:
        return of_split(found, split)[:limit]
    try:
        wanted = json.loads(ids.read_text(encoding="utf-8"))
        numbers = {int(number) for number in wanted}
    except (OSError, ValueError, TypeError) as problem:
        raise InputError.about(
            f"--ids {str(ids)!r}", "a JSON list of the photographs' numbers", str(problem)[:80]
        ) from problem
    if unknown := sorted(numbers - {photograph.id for photograph in found}):
        raise InputError.about(
            f"--ids {str(ids)!r}",
            "numbers of photographs in the folder",
            f"{unknown[0]} and {len(unknown) - 1} more that are not",
            "check --data",
        )
    return [photograph for photograph in found if photograph.id in numbers][:limit]


def category_names(folder: Path) -> list[str]:
    """The names of the folder's categories, in the files' order."""
    names: dict[str, None] = {}
    for path in annotation_files(folder)[0]:
        content = json.loads(path.read_text(encoding="utf-8"))
        names |= {str(category["name"]): None for category in content["categories"]}
    return list(names)


def share_of(item: PhotoObject, photograph: Photograph) -> float:
    """The area of the object's box as a share of the picture's."""
    box = item.box
    return (box.x2 - box.x1) * (box.y2 - box.y1) / (photograph.width * photograph.height)


def clear_objects(photograph: Photograph) -> list[PhotoObject]:
    """Objects large enough that all can be asked of them; names are asked of small ones, too."""
    return [item for item in photograph.singles if not is_tiny(item)]


def draw_items(photographs: Sequence[Photograph], draw: Draw) -> dict[int, list[Item]]:
    """The items of every photograph, by its number; in the order of `photographs`."""
    items: dict[int, list[Item]] = {photograph.id: [] for photograph in photographs}
    for photograph in photographs:
        own = items[photograph.id]
        if "name" in draw.kinds:
            own += [name_item(photograph, item, draw) for item in _sampled(photograph, draw)]
        if "caption" in draw.kinds and photograph.captions:
            rng = random.Random(f"{draw.seed} caption {photograph.id}")
            wording = prompts.choose_wording("picture_caption", rng)
            details = {"kind": "caption", "captions": list(photograph.captions)}
            own.append(Item(f"{photograph.id}/caption", wording, {}, photograph.captions[0], details))
        if "which" in draw.kinds:
            own += which_items(photograph, draw)
        if "relation" in draw.kinds and (item := relation_item(photograph, draw)):
            own.append(item)
    if "yes_no" in draw.kinds:
        for photograph, item in yes_no_items(photographs, draw):
            items[photograph.id].append(item)
    return items


def name_item(photograph: Photograph, item: PhotoObject, draw: Draw) -> Item:
    """What is it? The truth is its class."""
    rng = random.Random(f"{draw.seed} name {item.id}")
    prompt = prompts.choose_wording("classification", rng).format(region=prompts.mention(1))
    if draw.guided:
        prompt = f"{prompt} {GUIDE}"
    details = {"kind": "name", "annotation": item.id, "share": share_of(item, photograph)}
    return Item(f"{item.id}/name", prompt, {1: draw.region(item)}, item.name, details)


def _sampled(photograph: Photograph, draw: Draw) -> list[PhotoObject]:
    """Objects to be named, drawn evenly from all of the photograph that are no crowds."""
    singles = list(photograph.singles)
    rng = random.Random(f"{draw.seed} regions {photograph.id}")
    return rng.sample(singles, min(draw.regions_a_picture, len(singles)))


def which_items(photograph: Photograph, draw: Draw) -> list[Item]:
    """Which of five regions is a thing of a class, as one of them is? Two classes where there are two."""
    rng = random.Random(f"{draw.seed} which {photograph.id}")
    objects = clear_objects(photograph)
    classes = sorted({item.name for item in objects})
    fit = [c for c in classes if sum(item.name != c for item in objects) >= CANDIDATES - 1]
    items = []
    for name in rng.sample(fit, min(WHICH, len(fit))):
        fitting = rng.choice([item for item in objects if item.name == name])
        chosen = [fitting, *rng.sample([item for item in objects if item.name != name], CANDIDATES - 1)]
        rng.shuffle(chosen)
        regions = {n: draw.region(item) for n, item in enumerate(chosen, start=1)}
        wording = prompts.choose_wording("referring", rng)
        prompt = wording.format(regions=prompts.list_mentions(list(regions)), text=f"the {name}")
        number = chosen.index(fitting) + 1
        details = {
            "kind": "which", "name": name, "number": number, "annotations": [item.id for item in chosen],
        }  # fmt: skip
        asked = f"{prompt} {prompts.REFERRING_GUIDE}"
        items.append(Item(f"{photograph.id}/which/{name}", asked, regions, f"Region [{number}].", details))
    return items


def relation_item(photograph: Photograph, draw: Draw) -> Item | None:
    """Where is one region relative to another? The direction is drawn first: "above" is not to be rare."""
    rng = random.Random(f"{draw.seed} relation {photograph.id}")
    pairs = defaultdict(list)
    clear = clear_objects(photograph)
    for a in clear:
        for b in clear:
            if a is not b and (where := direction(photograph, a.box, b.box)):
                pairs[where].append((a, b))
    if not pairs:
        return None
    where = rng.choice(sorted(pairs))
    a, b = rng.choice(pairs[where])
    wording = prompts.choose_wording("relation", rng)
    prompt = wording.format(region=prompts.mention(1), other=prompts.mention(2))
    details = {"kind": "relation", "direction": where, "annotations": [a.id, b.id]}
    answer = f"Region [1] is {DIRECTION_WORDS[where]} region [2]."
    return Item(f"{photograph.id}/relation", prompt, {1: draw.region(a), 2: draw.region(b)}, answer, details)


def yes_no_items(photographs: Sequence[Photograph], draw: Draw) -> list[tuple[Photograph, Item]]:
    """Is <region1> a …? One true statement a photograph, and for each of them a false one of the same class.

    So every class is right as often as it is wrong, and no answer that looks at the words alone beats a coin.
    Every second false statement is about a region in whose picture the class is elsewhere: knowing what is in
    the picture does not help there. Regions are boxes, so that they can be shown on a blank picture too.
    """
    rng = random.Random(f"{draw.seed} yes no")
    by_class: dict[str, list[Photograph]] = defaultdict(list)
    for photograph in photographs:
        for name in {item.name for item in photograph.objects}:
            by_class[name].append(photograph)
    found: list[tuple[Photograph, Item]] = []
    taken: set[tuple[int, str]] = set()
    for photograph in photographs:
        classes = sorted({item.name for item in clear_objects(photograph)})
        if not classes:
            continue
        name = rng.choice(classes)
        true = rng.choice([item for item in clear_objects(photograph) if item.name == name])
        wanted = len(found) // 2 % 2 == 0
        for elsewhere in (wanted, not wanted):
            holders = by_class[name] if elsewhere else photographs
            tried = [photograph] if elsewhere else []
            tried += rng.sample(list(holders), min(20, len(holders)))
            others = [
                (other, item)
                for other in tried
                if elsewhere == any(o.name == name for o in other.objects)
                for item in clear_objects(other)
                if item.name != name and (item.id, name) not in taken
            ]
            if others:
                break
        else:
            continue  # nothing false can be said with this class: the true statement is left out, too
        first = [pair for pair in others if pair[0] is others[0][0]]
        other, false = rng.choice(first)
        taken.add((false.id, name))
        for where, item, truth in ((photograph, true, True), (other, false, False)):
            found.append((where, _yes_no(item, name, truth, elsewhere and not truth, draw)))
    return found


def _yes_no(item: PhotoObject, name: str, truth: bool, elsewhere: bool, draw: Draw) -> Item:
    rng = random.Random(f"{draw.seed} is {item.id} {name}")
    wording = prompts.choose_wording("verify", rng)
    prompt = wording.format(region=prompts.mention(1), text=with_article(name))
    details: Mapping[str, Any] = {
        "kind": "yes_no", "name": name, "yes": truth, "elsewhere": elsewhere, "annotation": item.id,
    }  # fmt: skip
    return Item(f"{item.id}/is/{name}", prompt, {1: item.box}, "Yes." if truth else "No.", details)

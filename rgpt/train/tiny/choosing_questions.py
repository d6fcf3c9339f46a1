"""Questions for learning to say which region fits: two candidates and one attribute first, then more."""

from __future__ import annotations

import random

from rgpt import prompts
from rgpt.data.scene_questions import (
    Exchange,
    Numbered,
    fits,
    number_objects,
    referring,
    relation,
    verify,
    verify_relation,
)
from rgpt.data.scenes import Scene

MOST_CANDIDATES = ((0.0, 2), (0.2, 3), (0.35, 4), (0.5, 6))
"""From this share of the drill on, at most so many candidates."""
WHOLE_QUESTIONS_FROM = 0.35
"""From here on a part of the questions has whole descriptions, follow-ups and no match."""


def one_attribute(numbered: Numbered, rng: random.Random) -> Exchange | None:
    """Which candidate is red / a circle / …: one word that fits exactly one of them, or None."""
    objects = [numbered[i] for i in numbered.numbers]
    number = rng.choice(numbered.numbers)
    it = numbered[number]
    # Colour and shape are what people name; texture and size come along.
    words = [it.colour, it.shape, it.colour, it.shape, it.texture, it.size]
    words = [word for word in words if sum(fits(o, [word]) for o in objects) == 1]
    if not words:
        return None
    text = f"the {rng.choice(words)}"
    wording = prompts.choose_wording("referring", rng)
    question = wording.format(regions=prompts.list_mentions(numbered.numbers), text=text)
    if rng.random() < 0.3:
        question = f"{question} {prompts.REFERRING_GUIDE}"
    return Exchange("referring", question, f"Region [{number}].", number, {"text": text})


def drill_exchange(scene: Scene, rng: random.Random, progress: float) -> tuple[Numbered, Exchange] | None:
    """One question about some of the scene's objects, as hard as `progress` (0..1) allows.

    1.0 is stage 2, which asks mostly whole questions and needs "no match" more than the drill does.
    """
    most = [count for begins, count in MOST_CANDIDATES if progress >= begins][-1]
    numbered = number_objects(scene, rng, min(len(scene.objects), rng.randint(2, most)))
    drawn = rng.random()
    if drawn < 0.1:  # lest directions are forgotten
        made = rng.choice((relation, verify_relation, verify))(numbered, rng)
    elif drawn < 0.75 and progress == 1.0:
        made = referring(numbered, rng, followup=rng.random() < 0.1, no_match=0.4)
    elif drawn < 0.35 and progress >= WHOLE_QUESTIONS_FROM:
        made = referring(numbered, rng, followup=rng.random() < 0.3, no_match=0.3)
    else:
        made = one_attribute(numbered, rng)
    return None if made is None else (numbered, made)

"""A very small random model on disk, a mix of samples of every kind, and runs over them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from rgpt.data.schema import QuestionAnswer, Sample, write_jsonl
from rgpt.regions import RLE, Box, Mask, Region
from rgpt.train.arguments import Run, run_from
from tests.model.tiny_models import make_model, make_picture, make_processor

KINDS = ("text only", "picture only", "one region", "many regions")
WORDS = ("red", "blue", "green", "round", "long", "small")


def little_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A random RegionGPT of width 32, with its processor, as a folder."""
    model = make_model(seed=seed, **changes)
    model.save_pretrained(folder)
    make_processor(model.config).save_pretrained(folder)
    return folder


def little_sample(folder: Path, number: int, kind: str) -> Sample:
    """Answers are one to nine words that follow from the question, so that they can be learned."""
    chance = random.Random(number)
    word = chance.choice(WORDS)
    turns = [QuestionAnswer(f"Say {word}.", " ".join([word] * chance.choice((1, 2, 3, 9))))]
    if kind == "text only":
        return Sample(f"{number}", None, (), tuple(turns))
    picture = folder / "pictures" / f"{number % 8}.png"
    if not picture.exists():
        picture.parent.mkdir(parents=True, exist_ok=True)
        make_picture(number % 8).save(picture)
    count = {"picture only": 0, "one region": 1}.get(kind, chance.randint(2, 6))
    regions = [little_region(chance) for _ in range(count)]
    turns += [
        QuestionAnswer(f"Is <region{n}> {word}?", "yes" if n % 2 else "no") for n in range(1, count + 1)
    ]
    return Sample(f"{number}", picture, tuple(regions), tuple(turns))


def little_region(chance: random.Random) -> Region:
    left, top = chance.randint(0, 25), chance.randint(0, 15)
    box = Box(left, top, left + chance.randint(4, 14), top + chance.randint(4, 14))
    if chance.random() < 0.5:
        return box
    mask = Mask(box.to_mask(30, 40)).to_mask(30, 40).copy()
    mask[top, left] = False  # not a box
    return RLE.from_mask(mask)


def little_mix(folder: Path, count: int, first: int = 0, kinds: tuple[str, ...] = KINDS) -> Path:
    """`count` samples of all kinds in turn, in `folder`/samples.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"samples-{first}.jsonl"
    numbers = range(first, first + count)
    write_jsonl(path, [little_sample(folder, n, kinds[n % len(kinds)]) for n in numbers])
    return path


def little_settings(folder: Path, model: Path, data: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run in float32 that logs every step, in `folder`."""
    return {
        "stage": "tune",
        "model": str(model),
        "skip_stage_1": True,
        "out": str(folder),
        "data": [{"path": str(data)}],
        "batch_size": 4,
        "micro_batch_size": 4,
        "max_steps": 4,
        "lr": 1e-3,
        "precision": "fp32",
        "max_length": 400,
        "workers": 0,
        "log_every": 1,
        "save_every": 100,
        **changes,
    }


def little_run(folder: Path, model: Path, data: Path, **changes: Any) -> Run:
    return run_from(little_settings(folder, model, data, **changes))

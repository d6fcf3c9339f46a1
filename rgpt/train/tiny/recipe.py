"""Train `tiny` from nothing: phases, each a file or folder that is kept when the run is started again.

    scenes/    drawn pictures with masks and truth
    tower/     vision tower, pretrained on them, from here on frozen
    language/  tokenizer and language model, warmed up on symbolic scenes
    features/  what the frozen tower sees in each scene
    align/     stage 1: refinement + connector
    choose/    the language model alone learns to choose among regions
    tune/      stage 2: everything but the tower
    model/     the finished folder, float16 safetensors, what `rgpt.model.load` opens

Tower and language model do not need each other; they train side by side, one thread each.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedTokenizerFast

import rgpt.model as rgpt_model
from rgpt.data.scenes import SHAPES
from rgpt.errors import InputError
from rgpt.files import whole_folder, write_json
from rgpt.hub import open_pretrained
from rgpt.train.stages import stage_table
from rgpt.train.tiny import choosing, language, scene_store, tower, tune

SCENE_SEED = 1_000_000


@dataclass(frozen=True)
class Recipe:
    """How long each phase may take; a phase ends with its steps or its seconds, whichever comes first."""

    scenes: int = 40_960
    tower_steps: int = 2_600
    tower_seconds: float = 2_400
    language_steps: int = 7_000
    language_seconds: float = 2_400
    align_steps: int = 500
    align_seconds: float = 420
    choose_steps: int = 3_000
    choose_seconds: float = 1_500
    tune_steps: int = 12_000
    tune_seconds: float = 8_400
    seed: int = 0
    tower_batch: int = 64
    language_tokens: int = language.BATCH_TOKENS
    tune_tokens: int = tune.BATCH_TOKENS
    tasks: tuple[str, ...] | None = None
    """Only these tasks in both stages; None: all."""


SMOKE = Recipe(
    scenes=512,
    tower_steps=200,
    tower_batch=16,
    language_steps=240,
    language_tokens=1024,
    align_steps=40,
    choose_steps=10,
    tune_steps=240,
    tune_tokens=2000,
    tasks=("classification", "brief_caption"),
)
"""Everything once, in under three minutes on two cores. It learns colours, shapes hardly."""


def train(work: Path, recipe: Recipe, threads: int = 2) -> dict[str, Any]:
    """Run what is not there yet and return the report, which is also written to `work/report.json`."""
    work.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = (
        json.loads((work / "report.json").read_text()) if (work / "report.json").exists() else {}
    )
    asked = json.loads(json.dumps(asdict(recipe)))
    if report.setdefault("recipe", asked) != asked:
        differ = ", ".join(
            f"{k} {report['recipe'].get(k)} not {v}" for k, v in asked.items() if report["recipe"].get(k) != v
        )
        raise InputError(
            f"{work} holds a run with another recipe ({differ}): give another --work or delete it."
        )
    write_json(work / "report.json", report)
    _side_by_side(work, recipe, report)
    torch.set_num_threads(threads)
    model = tune.build_model(work / "tower", work / "language")
    writer = language.Writer(open_pretrained(PreTrainedTokenizerFast, work / "language"))
    frozen = _digest(model.model.vision_tower)  # type: ignore[union-attr, arg-type]
    features: tune.Features | None = None
    for stage, steps, seconds, lr in (
        ("align", recipe.align_steps, recipe.align_seconds, 2e-3),
        ("choose", recipe.choose_steps, recipe.choose_seconds, 1e-3),
        ("tune", recipe.tune_steps, recipe.tune_seconds, 1e-3),
    ):
        folder = work / stage
        if (folder / "done").exists():
            model = open_pretrained(rgpt_model.RegionGPTForConditionalGeneration, folder)
            continue
        if features is None:
            features = tune.cache_features(
                work / "scenes", open_pretrained(AutoModel, work / "tower"), work / "features"
            )
        if stage == "choose":
            result = choosing.drill(
                model, features, writer, steps, lr=lr, seed=recipe.seed, out=folder, max_seconds=seconds,
                scenes=min(recipe.scenes, choosing.SCENES), tokens=recipe.language_tokens,
            )  # fmt: skip
            _finish(work, report, stage, result)
            continue
        print(stage_table(model, stage), flush=True)
        result = tune.train_stage(
            model, stage, features, writer, steps, lr=lr, seed=recipe.seed, out=folder, max_seconds=seconds,
            tasks=recipe.tasks, tokens=recipe.tune_tokens,
        )  # fmt: skip
        _finish(work, report, stage, result)
    if _digest(model.model.vision_tower) != frozen:  # type: ignore[union-attr, arg-type]
        raise AssertionError("the vision tower changed in a stage that must leave it frozen")
    report["parameters"] = sum(p.numel() for p in model.parameters())
    export(model, work / "language", work / "model")
    write_json(work / "report.json", report)
    return report


def _finish(work: Path, report: dict[str, Any], stage: str, result: Mapping[str, Any]) -> None:
    report[stage] = dict(result)
    (work / stage / "done").touch()
    write_json(work / "report.json", report)


def _side_by_side(work: Path, recipe: Recipe, report: dict[str, Any]) -> None:
    """Scenes and tower in this process, the language model in another: they need nothing of each other."""
    # spawn, not fork: torch's thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        waiting = pool.apply_async(_language, (work / "language", recipe))
        torch.set_num_threads(1)
        scene_store.write_store(work / "scenes", SCENE_SEED, recipe.scenes)
        done = work / "tower" / "done"
        if not done.exists():
            result = tower.pretrain_tower(
                work / "scenes",
                work / "tower",
                recipe.tower_steps,
                batch_size=recipe.tower_batch,
                seed=recipe.seed,
                max_seconds=recipe.tower_seconds,
            )
            done.write_text(json.dumps(result))
        report["tower"] = json.loads(done.read_text())
        report["language"] = waiting.get()
    write_json(work / "report.json", report)


def _language(folder: Path, recipe: Recipe) -> dict[str, float]:
    if (folder / "done").exists():
        return json.loads((folder / "done").read_text())
    torch.set_num_threads(1)
    result = language.warm_up(
        folder,
        recipe.language_steps,
        seed=recipe.seed,
        max_seconds=recipe.language_seconds,
        tasks=recipe.tasks,
        tokens=recipe.language_tokens,
    )
    (folder / "done").write_text(json.dumps(result))
    return result


def _digest(module: nn.Module) -> list[tuple[str, int]]:
    """Something that differs when any number of the module does (buffers included)."""
    return [(name, hash(value.detach().numpy().tobytes())) for name, value in module.state_dict().items()]


def export(model: Any, language_folder: Path, out: Path) -> None:
    """Write the finished model with its processor: float16, one safetensors file, `out` appears only when
    complete."""
    tokenizer = open_pretrained(PreTrainedTokenizerFast, language_folder)
    processor = rgpt_model.RegionGPTProcessor.for_model(
        model.config,
        tokenizer,
        "lines",
        image_size=scene_store.IMAGE_SIZE,
        image_mean=scene_store.IMAGE_MEAN,
        image_std=scene_store.IMAGE_STD,
    )
    half = rgpt_model.RegionGPTForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    seen = {"pictures": "drawn scenes", "vocabulary": "shape", "names": SHAPES}
    with whole_folder(out, replace=True) as partial:
        half.half().save_pretrained(partial)
        processor.save_pretrained(partial)
        write_json(partial / "about.json", seen)


def write_card(work: Path, scores: dict[str, Any], code_revision: str) -> str:
    """The model card: what it is, how it was trained, what it scores.

    Every figure comes from this run's files; `notes` in report.json (a list of sentences) are printed too.
    """
    report = json.loads((work / "report.json").read_text())
    recipe = report["recipe"]
    rows = "\n".join(
        f"| {name} | {value:.4f} |" for name, value in scores.items() if isinstance(value, float)
    )
    phases = "\n".join(
        f"| {phase} | {report[phase]['steps']:,} | {report[phase]['seconds'] / 60:.1f} |"
        for phase in ("tower", "language", "align", "choose", "tune")
        if phase in report
    )
    notes = "\n".join(f"- {note}" for note in report.get("notes", ()))
    first, last = language.WARM_UP_SEEDS
    return f"""# tiny

A RegionGPT of {report["parameters"] / 1e6:.2f} million parameters that knows drawn scenes only: shapes, their
colours, textures, sizes and places. It is what the tests run on, and what opens where `photo` cannot be
had; it knows nothing about photographs.

Trained from nothing with `rgpt/train/tiny` (`bash scripts/train_tiny.sh`) on a CPU,
{datetime.date.today().isoformat()}, code {code_revision}.

| phase | steps | minutes |
|---|---|---|
{phases}

Drawing the scenes and running them through the frozen tower once is not counted. Seeds: pictures
{SCENE_SEED:,} to {SCENE_SEED + recipe["scenes"] - 1:,}; symbolic scenes {first:,} to {last:,};
evaluation from 3,000,000,000 up (`eval/tasks/shapes.py`), so none is shared.

{notes}

## Scores

`python -m eval.run shapes --model tiny --seed {scores.get("seed")} --count {scores.get("scenes")}` (regions:
{scores.get("regions")}):

| figure | share |
|---|---|
{rows}

`referring_likelihood` is computed from likelihoods, not generated (`ChatSession.choose`).
"""

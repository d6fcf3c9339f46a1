"""The recipe of `tiny` in small: both stages run, frozen parts stay, the loss falls."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rgpt.chat import ChatSession
from rgpt.data.scenes import COLOURS, SHAPES, SIZES, TEXTURES, draw_scene
from rgpt.regions import Mask

ROOT = Path(__file__).parents[2]
# What scripts/train_tiny.sh runs after its setup; the setup would build an environment inside a test.
TRAIN = [sys.executable, "-m", "scripts.train_tiny", "--smoke"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run([*TRAIN, "--work", str(folder)], cwd=ROOT, check=True, timeout=1800)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_loss_falls_in_both_stages(work: Path) -> None:
    report = json.loads((work / "report.json").read_text())
    for stage in ("align", "tune"):
        curve = report[stage]["curve"]
        assert sum(curve[-5:]) < 0.8 * sum(curve[:5]), stage


def test_what_a_stage_freezes_is_bit_equal(work: Path) -> None:
    tower, language = weights(work / "tower"), weights(work / "language")
    for stage in ("align", "choose", "tune"):
        trained = weights(work / stage)
        for name, value in tower.items():
            assert torch.equal(trained[f"model.vision_tower.{name}"], value), (stage, name)
    aligned, chosen = weights(work / "align"), weights(work / "choose")
    changed = {name for name, value in aligned.items() if not torch.equal(chosen[name], value)}
    assert changed and all(name.startswith("model.language_model.") for name in changed)
    seen = 0
    aligned, tuned = weights(work / "align"), weights(work / "tune")
    for name, value in language.items():
        renamed = name.replace("model.", "model.language_model.", 1)
        if renamed in aligned:
            seen += 1
            assert torch.equal(aligned[renamed], value), name
            assert value.ndim < 2 or not torch.equal(tuned[renamed], value), name
    assert seen > 30
    for part in ("refinement", "connector"):
        names = [name for name in aligned if f".{part}." in name]
        assert names and all(not torch.equal(aligned[n], tuned[n]) for n in names)


def test_the_answers_beat_chance(work: Path) -> None:
    """Colours are what these minutes teach; tests/test_tiny.py asks the shipped model for more."""
    session = ChatSession.from_pretrained(str(work / "model"))
    right = asked = 0
    for seed in range(3_950_000_000, 3_950_000_040):
        scene = draw_scene(seed, 2.0)
        session.set_image(scene.image)
        for drawn, truth in zip(scene.objects, scene.scene.objects, strict=True):
            session.reset()
            number = session.add_region(Mask(drawn.mask))
            answer = session.ask(f"Describe <region{number}>.", max_new_tokens=12)
            words = re.findall(r"[a-z]+", answer.lower())
            assert words and set(words) <= {"a", "an", *SHAPES, *COLOURS, *TEXTURES, *SIZES}
            right += truth.colour in words
            asked += 1
    assert asked > 60 and right / asked > 2.5 / len(COLOURS)


def test_another_recipe_in_the_same_folder_is_refused(work: Path) -> None:
    done = subprocess.run(
        [*TRAIN, "--seed", "5", "--work", str(work)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 2 and "another recipe (seed 0 not 5)" in done.stderr


def test_a_second_run_keeps_what_is_done(work: Path) -> None:
    before = (work / "tune" / "model.safetensors").stat().st_mtime_ns
    subprocess.run([*TRAIN, "--work", str(work)], cwd=ROOT, check=True, timeout=600)
    assert (work / "tune" / "model.safetensors").stat().st_mtime_ns == before

"""The recipe of `photo` in small, on real photographs and the real base: both stages, and answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.model import load
from rgpt.model.photo_base import ensure_base
from rgpt.regions import Box

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "coco_photos"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="needs ../shared/data/coco_photos"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        ensure_base()
    except InputError as error:
        pytest.skip(f"the base of photo cannot be had here: {error}")
    folder = tmp_path_factory.mktemp("photo")
    train(folder)
    return folder


def train(folder: Path) -> str:
    command = ["bash", "scripts/train_photo.sh", str(PHOTOGRAPHS), "--smoke", "--work", str(folder)]
    environment = {**os.environ, "RGPT_PYTHON": sys.executable}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, timeout=1500, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_both_stages_learn(work: Path) -> None:
    for stage in ("align", "tune"):
        log = [json.loads(line) for line in (work / stage / "log.jsonl").read_text().splitlines()]
        losses = [row["loss"] for row in log if "loss" in row]
        assert losses and all(0 < loss < 100 for loss in losses), stage
        assert (work / stage / "curve.png").stat().st_size > 1000


def test_the_trained_part_names_the_fetched_base_and_answers_about_a_photograph(work: Path) -> None:
    adapter = work / "tune" / "adapter"
    assert json.loads((adapter / "base.json").read_text())["base"] == "package:photo"
    base, tuned = load("package:photo")[0].state_dict(), load(adapter)[0].state_dict()
    changed = {name.split(".")[1] for name in base if not torch.equal(base[name], tuned[name])}
    assert changed == {"connector", "region_geometry", "language_model"}
    session = ChatSession.from_pretrained(str(adapter))
    session.set_image(next(iter(sorted((PHOTOGRAPHS / "images").iterdir()))))
    session.add_region(Box(20, 20, 200, 200))
    assert session.ask("What is <region1>?", max_new_tokens=8)


def test_a_second_call_does_nothing_again(work: Path) -> None:
    files = [path for path in work.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files if path.suffix == ".safetensors"}
    said = train(work)
    assert str(work / "tune" / "adapter") in said
    assert before == {path: path.stat().st_mtime_ns for path in before}

"""Floors and ceilings: known answers of every piece, and the whole command on a small folder."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from eval import photo_bounds
from eval.photo_bounds import (
    Vectors,
    best_threshold,
    bound_captions,
    consensus,
    fit,
    inverse_frequencies,
    table,
)
from eval.tasks.photo_items import read_set
from rgpt.errors import InputError
from tests.eval.photo_folders import write_folder
from tests.model.tiny_models import make_model, make_processor

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs a Java runtime")


def test_a_network_learns_what_can_be_told_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(3, size=900))
    x = torch.from_numpy(rng.normal(size=(900, 6))).float()
    held = torch.arange(900) % 8 == 0
    blind = fit(x, y, held, 3, seed=0)(x[held]).argmax(-1)
    assert float((blind == y[held]).float().mean()) < 0.6
    x[torch.arange(900), y] += 6.0
    seeing = fit(x, y, held, 3, seed=0)
    assert float((seeing(x[held]).argmax(-1) == y[held]).float().mean()) > 0.95
    assert torch.equal(seeing(x), fit(x, y, held, 3, seed=0)(x))  # a seed is a result
    assert seeing(x[:5]).exp().sum(-1).tolist() == pytest.approx([1.0] * 5, abs=1e-5)


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ([(-3.0, False), (-2.0, False), (-1.0, True)], 3),
        ([(-3.0, True), (-1.0, True)], 2),
        ([(-3.0, False), (-1.0, False)], 2),
        ([(-3.0, True), (-2.0, False), (-1.0, True)], 2),
        ([(-1.0, True), (-1.0, False)], 1),
        ([], 0),
    ],
)
def test_the_best_threshold_is_as_good_as_any(values: list[tuple[float, bool]], right: int) -> None:
    threshold = best_threshold(values)
    assert sum((value > threshold) is truth for value, truth in values) == right
    for other in [v + d for v, _ in values for d in (-0.5, 0.0, 0.5)]:
        assert sum((value > other) is truth for value, truth in values) <= right


def test_the_consensus_is_what_most_say() -> None:
    said = [
        ["a dog runs on grass", "a brown dog"],
        ["a dog on the grass", "an animal outside"],
        ["two people eat pizza", "a dog runs on green grass"],
    ]
    place = consensus(said, inverse_frequencies(said))
    assert [caption for own in said for caption in own][place] in (
        "a dog runs on grass", "a dog on the grass", "a dog runs on green grass",
    )  # fmt: skip
    # Captions of one photograph do not vote for each other.
    alone = [["red red red", "red red red"], ["a blue boat"], ["a blue boat sails"]]
    assert consensus(alone, inverse_frequencies(alone)) in (2, 3)


def test_rare_words_weigh_more_and_what_all_say_nothing() -> None:
    idf = inverse_frequencies([["a dog"], ["a cat"], ["a cat sits"], ["a bird"]])
    assert idf[("a",)] == 0.0 and idf[("dog",)] == math.log(4) and idf[("cat",)] == math.log(2)
    assert idf[("a", "cat")] == math.log(2)


@needs_java
def test_copied_captions_of_the_same_picture_are_perfect_and_of_others_are_not(tmp_path: Path) -> None:
    """Every evaluated picture has a twin among the training pictures, with the same features and captions."""
    photographs = read_set(write_folder(tmp_path / "data", range(1, 21)), "all")
    generator = torch.Generator().manual_seed(0)
    vectors = Vectors(pictures={p.id: torch.randn(16, generator=generator) for p in photographs})
    rows = [{"id": f"{p.id}/caption", "image_id": p.id, "captions": list(p.captions)} for p in photographs]
    found = bound_captions(rows, photographs, vectors, seed=0)
    assert found["nearest"].scores["CIDEr"] > 3 * found["shuffled"].scores["CIDEr"]
    assert found["nearest"].scores["METEOR"] == pytest.approx(1.0)
    assert found["consensus"].scores["n_CIDEr"] == 20
    low, high = found["nearest"].intervals["CIDEr"]
    assert low <= found["nearest"].scores["CIDEr"] <= high


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of photographs and a random model."""
    root = tmp_path_factory.mktemp("bounds")
    network = make_model(seed=3)
    network.save_pretrained(root / "model")
    make_processor(network.config).save_pretrained(root / "model")
    return write_folder(root / "data", range(1, 49)), root / "model"


def test_the_command_prints_floor_model_and_ceiling(
    parts: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(photo_bounds, "EPOCHS", 15)
    monkeypatch.setattr(photo_bounds, "HIDDEN", 64)
    data, model = parts
    out = tmp_path / "bounds.json"
    command = ["--data", str(data), "--model", str(model), "--seeds", "2", "--out", str(out)]
    command += ["--only", "name,yes_no,which,relation"]
    assert photo_bounds.main(command) == 0, capsys.readouterr().err
    bounds = json.loads(out.read_text())
    floors, ceilings = bounds["floors"], bounds["ceilings"]
    assert floors["yes_no"] == 0.5 and floors["which"] == pytest.approx(0.2)
    assert floors["which"] < ceilings["which"] <= 1 and 0 < floors["names"] < 1
    assert floors["names_generated"] == floors["names"] and bounds["seeds"] == 2
    assert bounds["photographs"] + bounds["training_photographs"] == 48
    assert "ceiling" in capsys.readouterr().out
    scores = dict(ceilings)
    shown = table(bounds, scores)
    line = next(line for line in shown.splitlines() if line.startswith("which "))
    assert line.split()[1:4] == ["0.200", f"{ceilings['which']:.3f}", f"{ceilings['which']:.3f}"]
    assert line.split()[4] == "1.000"
    with pytest.raises(InputError, match="the same options"):
        table(bounds, {**scores, "n_which": 1})


def test_a_ceiling_needs_training_photographs(
    parts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = parts
    command = ["--data", str(data), "--model", str(model), "--only", "name", "--train-limit", "1"]
    assert photo_bounds.main(command) == 2
    assert "training photographs" in capsys.readouterr().err

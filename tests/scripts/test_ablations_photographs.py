"""The ablations on photographs, whole, on a random model; and the bases, which differ in one thing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rgpt.data.photographs import read_photographs
from rgpt.model import load
from rgpt.regions import Box
from rgpt.train.feature_cache import write_cache
from scripts import ablations
from scripts.ablations_photographs import outlined, with_refinement
from tests.eval.photo_folders import write_folder
from tests.train.little import little_model


@pytest.mark.parametrize("kind", ["none", "bilinear", "deconv"])
def test_a_base_differs_in_its_refinement_alone(tmp_path: Path, kind: str) -> None:
    base = little_model(tmp_path / "base", refinement="bilinear")
    first, processor = load(base)
    other, own = load(with_refinement(str(base), kind, tmp_path / "other"))
    assert other.config.refinement == kind and own.refined_grid == other.config.refined_grid
    weights = other.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.state_dict().items())
    assert {name.split(".")[1] for name in set(weights) - set(first.state_dict())} == (
        {"refinement"} if kind == "deconv" else set()
    )
    assert (tmp_path / "other" / "chat_template.jinja").read_text() == processor.chat_template
    again = load(with_refinement(str(base), kind, tmp_path / "again"))[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


def test_outlined_photographs_have_outlines_alone(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", range(1, 5))
    found = read_photographs(outlined(data, tmp_path / "outlined"))
    assert [len(photograph.objects) for photograph in found] == [1] * 4
    assert not any(isinstance(item.region, Box) for photograph in found for item in photograph.objects)
    assert all(photograph.path.is_file() for photograph in found)


def test_all_rows_are_trained_once_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder(tmp_path / "data", range(1, 49))
    base = little_model(tmp_path / "base", refinement="bilinear", region_geometry=True)
    write_cache(tmp_path / "features", *load(base), sorted((data / "images").iterdir()))
    command = ["--work", str(tmp_path / "work"), "photographs", "--data", str(data), "--base", str(base)]
    command += ["--features", str(tmp_path / "features"), "--steps", "2"]
    assert ablations.main(command) == 0
    first = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines() if line]
    assert [row[0] for row in rows if row[1] == "2"] == ["bilinear", "none", "deconv", "masks", "boxes"]
    held_out = read_photographs(data, "held_out")
    assert [row[3] for row in rows if row[0] == "objects"] == [str(7 * len(held_out)), str(len(held_out))]
    runs = tmp_path / "work" / "photographs"
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*-2/delta/model.safetensors")}
    changed = [json.loads((path.parent / "base.json").read_text())["base"] for path in sorted(before)]
    assert len(before) == 5 and all((runs / "none-2" / "delta" / name).is_dir() for name in changed)
    assert ablations.main(command) == 0
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_cannot_work_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder(tmp_path / "data", range(1, 3))
    base = little_model(tmp_path / "base", refinement="deconv")
    command = ["--work", str(tmp_path / "work"), "photographs", "--data", str(data), "--base", str(base)]
    command += ["--features", str(tmp_path / "features")]
    assert ablations.main(command) == 2
    assert "written by rgpt cache-features" in capsys.readouterr().err
    write_cache(tmp_path / "features", *load(base), sorted((data / "images").iterdir()))
    assert ablations.main(command) == 2
    assert "none or bilinear" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()

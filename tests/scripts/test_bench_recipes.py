"""`bench recipes`: the synthetic file has the true layout and the figures come from a real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import bench_recipes


def test_the_synthetic_file_is_visual_genomes_layout(tmp_path: Path) -> None:
    bench_recipes.write_visual_genome(tmp_path, 120)
    entries = json.loads((tmp_path / "region_descriptions.json").read_text())
    assert [len(entry["regions"]) for entry in entries] == [50, 50, 20]
    keys = {"region_id", "width", "height", "image_id", "phrase", "y", "x"}
    assert all(set(region) == keys for entry in entries for region in entry["regions"])
    pictures = json.loads((tmp_path / "image_data.json").read_text())
    assert [picture["image_id"] for picture in pictures] == [entry["id"] for entry in entries]


def test_a_run_is_measured_and_loses_nothing(tmp_path: Path) -> None:
    bench_recipes.write_visual_genome(tmp_path, 1000)
    seconds, busy, mib = bench_recipes.convert(tmp_path, 1000, workers=1)
    assert seconds > 0 and busy > 0 and mib > 10
    with pytest.raises(SystemExit, match="999 regions went in"):
        (tmp_path / "out").rename(tmp_path / "before")
        bench_recipes.convert(tmp_path, 999, workers=1)

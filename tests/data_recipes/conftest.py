"""Running a recipe as its command line does, and reading what it wrote."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from data_recipes import output, runner
from data_recipes.captioned import Captioned
from data_recipes.detections import Detection
from rgpt.data.schema import Sample, read_jsonl


class Output(NamedTuple):
    """A recipe's folder, read back."""

    folder: Path
    report: dict[str, Any]
    samples: list[Sample]
    detections: list[Detection]
    captions: list[Captioned]


def read_output(folder: Path) -> Output:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (folder / "contact_sheet.png").stat().st_size > 0
    assert not [path for path in folder.iterdir() if path.name.startswith(("scratch", "."))]
    samples = list(read_jsonl(folder / "samples.jsonl")) if (folder / "samples.jsonl").exists() else []
    detections = []
    if (folder / "detections.jsonl").exists():
        with open(folder / "detections.jsonl", encoding="utf-8") as lines:
            detections = [Detection.from_json(json.loads(line), folder) for line in lines]
    captions = []
    if (folder / "captions.jsonl").exists():
        with open(folder / "captions.jsonl", encoding="utf-8") as lines:
            captions = [Captioned.from_json(json.loads(line), folder) for line in lines]
    # What every report promises.
    assert report["read"] == report["records_kept"] + sum(report["dropped"].values())
    assert report["kept"] == len(samples) + len(detections) + len(captions)
    assert report["regions"] == sum(len(item.regions) for item in (*samples, *detections))
    assert report["turns"] == sum(len(sample.turns) for sample in samples) == sum(report["tasks"].values())
    assert report["words"] == sum(
        len(text.split()) for sample in samples for turn in sample.turns for text in turn
    ) + sum(
        len(text.split())
        for texts in (*(item.names for item in detections), *(item.captions for item in captions))
        for text in texts
    )
    return Output(folder, report, samples, detections, captions)


@pytest.fixture
def convert(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Output]:
    """convert("coco", "--annotations", path, …): runs `python -m data_recipes.coco` in this process.

    Contact sheets show two samples: drawing 24 would take most of the tests' time.
    """
    runs = iter(range(1000))
    outputs = tmp_path_factory.mktemp("out")
    monkeypatch.setattr(runner, "contact_sheet", lambda samples: output.contact_sheet(samples[:2]))

    def run(name: str, *arguments: object) -> Output:
        recipe = importlib.import_module(f"data_recipes.{name}").RECIPE
        out = outputs / f"{name}-{next(runs)}"
        given = [*map(str, arguments)]
        if "--images" in given and not Path(images := given[given.index("--images") + 1]).is_dir():
            given[given.index(images)] = str(tmp_path / images)  # the pictures are still to come
            (tmp_path / images).mkdir(parents=True, exist_ok=True)
        assert runner.main(recipe, [*given, "--out", str(out)]) == 0
        return read_output(out)

    return run

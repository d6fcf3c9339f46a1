"""Names by the nearest word embedding: known where vectors are known, and compared object by object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from eval import nearest_names
from eval.nearest_names import figures_of
from eval.tasks.photo_items import category_names, read_set
from rgpt.model import load
from rgpt.train.name_loss import name_embeddings
from tests.eval.photo_folders import write_folder
from tests.train.little import little_model


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("nearest")
    model = little_model(root / "model", seed=3, refinement="bilinear")
    return write_folder(root / "data", range(1, 33)), model


def test_a_connector_that_writes_one_name_says_that_name(parts: tuple[Path, Path]) -> None:
    data, folder = parts
    names, photographs = category_names(data), read_set(data, "held_out")
    model, processor = load(folder)

    for wanted in ("dog", "traffic light"):
        with torch.no_grad():  # whatever is seen, the connector's last layer answers with its bias
            model.model.connector.linear_2.weight.zero_()
            model.model.connector.linear_2.bias.copy_(
                name_embeddings(model, processor.tokenizer, names)[names.index(wanted)]
            )
        said = nearest_names.nearest_names(photographs, names, model, processor)
        assert said == [wanted] * sum(len(photograph.singles) for photograph in photographs)


def test_differences_are_taken_object_by_object() -> None:
    truths = ["dog", "person", "dog", "dog"] * 20
    rows = [
        {"image_id": k // 4, "truth": truth, "share": 0.001, "right 0": float(k % 2), "right 1": 1.0}
        for k, truth in enumerate(truths)
    ]
    first, second = figures_of(rows, 0), figures_of(rows, 1)
    assert first["scores"]["names"] == 0.5 and not first["differences"]
    # Every photograph gains the same: the difference is certain.
    assert second["differences"]["names"] == [0.5, 0.5, 0.5]
    assert second["scores"]["n_names_small"] == 80 and "names_large" not in second["scores"]


def test_the_command(parts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = map(str, parts)
    out = tmp_path / "new" / "scores.json"
    command = ["--data", data, "--model", model, model, "--limit", "3"]
    assert nearest_names.main([*command, "--regions", "mask", "box", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [entry["regions"] for entry in found["models"]] == ["mask", "box"]
    assert found["photographs"] == 3 and found["models"][0]["scores"]["n_names"] == 21
    assert "beside the first" in capsys.readouterr().out
    assert nearest_names.main([*command, "--regions", "box", "box", "box"]) == 2
    assert "one for each model" in capsys.readouterr().err

"""Held-out questions with a right answer: asked at intervals, drawn, and what the best step is chosen by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rgpt.answers import is_right
from rgpt.data.schema import QuestionAnswer, Sample, write_jsonl
from rgpt.errors import InputError
from rgpt.train import record
from rgpt.train.arguments import run_from
from rgpt.train.evaluation import Best, accuracies
from tests.train.little import little_settings
from tests.train.test_endings import Little


def questions(path: Path) -> Path:
    """What can be learned in ten steps (a count), what cannot (a name), and an open answer."""
    turns = (QuestionAnswer("Say.", "3"), QuestionAnswer("Say more.", "Zq"))
    samples = [
        Sample(f"{n}", None, (), (*turns, QuestionAnswer("Describe it.", "a b c d e f"))) for n in "ab"
    ]
    write_jsonl(path, samples)
    return path


def trained_on(path: Path) -> Path:
    write_jsonl(path, [Sample(f"{n}", None, (), (QuestionAnswer("Say.", "3"),)) for n in range(4)])
    return path


def test_accuracy_is_logged_drawn_and_chooses_the_best(tmp_path: Path) -> None:
    little = Little(tmp_path)
    held_out = {"path": str(questions(tmp_path / "h.jsonl")), "every": 1, "accuracy": True, "answers": 1}
    settings: dict[str, Any] = {
        "file": trained_on(tmp_path / "t.jsonl"), "held_out": held_out, "lr": 0.01, "max_steps": 20,
        "save_every": 1, "keep": 99, "keep_best": "accuracy", "early_stop": 4,
    }  # fmt: skip
    result = little.train("r", **settings)
    looks = {row["step"]: row for row in little.rows("r") if "held_out_loss" in row}
    shares = {step: row["held_out_accuracy"] for step, row in looks.items()}
    assert min(shares.values()) == 0 and max(shares.values()) == 0.5  # every count, no name
    assert all(row["held_out_accuracy"] == row["held_out_accuracy_count"] / 2 for row in looks.values())
    best = min((step for step in looks if shares[step] == 0.5), key=lambda step: looks[step]["held_out_loss"])
    assert max(looks) == best + 4 < 20
    asked = [row for row in record.read_log(tmp_path / "r" / "answers.jsonl") if row["step"] == best]
    assert [row.get("kind") for row in asked] == [None, "count", "name", "count", "name"]
    assert all(row["right"] == is_right(row["kind"], row["truth"], row["answer"]) for row in asked[1:])
    one, other = (
        load_file(folder / "model.safetensors")
        for folder in (result, tmp_path / "r" / "checkpoints" / f"checkpoint-{best}")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    card = (result / "README.md").read_text()
    assert f"weights of step {best}, whose held-out accuracy was the greatest, 0.500" in card
    assert f"| {best} | " in card and "| held-out accuracy |" in card
    assert not (result / "counts.json").exists() and (tmp_path / "r" / "curve.png").is_file()


def test_best_weights_younger_than_the_checkpoint_are_not_taken_for_the_best(tmp_path: Path) -> None:
    """Killed after step 4, resumed at 3: best/ holds step 4, which the run comes to again, or does not."""
    little = Little(tmp_path)
    held_out = {"path": str(questions(tmp_path / "h.jsonl")), "every": 1, "answers": 0}
    settings: dict[str, Any] = {"held_out": held_out, "keep_best": "loss", "save_every": 1, "max_steps": 3}
    little.train("r", **settings)
    out = tmp_path / "r"
    (out / "model").rename(tmp_path / "before")
    (out / "best").mkdir()
    (out / "best" / "model.safetensors").write_bytes(b"of step 4")
    (out / "best" / "counts.json").write_text(json.dumps(["loss", 4, 0.1, None]))
    result = little.train("r", resume=True, **settings)
    one, other = (load_file(folder / "model.safetensors") for folder in (result, tmp_path / "before"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_of_equal_accuracies_the_smaller_loss_is_better() -> None:
    first = Best("accuracy", 1, 2.0, 0.5)
    assert first.better_than(None)
    assert Best("accuracy", 2, 9.0, 0.6).better_than(first)
    assert Best("accuracy", 2, 1.0, 0.5).better_than(first)
    assert not Best("accuracy", 2, 2.0, 0.5).better_than(first)
    assert not Best("accuracy", 2, 0.1, 0.4).better_than(first)
    assert Best("loss", 2, 1.0).better_than(Best("loss", 1, 2.0))


def test_shares_are_of_scored_answers_only() -> None:
    rows = [{"kind": "name", "right": True}, {"kind": "yes_no", "right": False}, {"answer": "shown"}]
    assert accuracies(rows) == {
        "held_out_accuracy": 0.5,
        "held_out_accuracy_yes_no": 0.0,
        "held_out_accuracy_name": 1.0,
    }
    assert accuracies([]) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"keep_best": "accuracy", "held_out": {"path": "h"}},
        {"keep_best": "f1", "held_out": {"path": "h"}},
        {"keep_best": "accuracy"},
        {"held_out": {"path": "h", "accuracy": True}, "stage": "align", "objective": "names"},
    ],
    ids=str,
)
def test_what_cannot_be_chosen_by_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="accuracy"):
        run_from({**little_settings(Path("o"), Path("m"), Path("d")), **changes})
    assert (
        run_from({**little_settings(Path("o"), Path("m"), Path("d")), "keep_best": False}).keep_best is None
    )

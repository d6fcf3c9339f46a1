"""Stage 1 by names: the loss against a plain computation, what it changes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import decoders

from rgpt.data.collator import Collator, model_inputs
from rgpt.data.dataset import TrainingSet
from rgpt.data.mixture import Draw
from rgpt.data.sample_files import SampleFile
from rgpt.data.schema import QuestionAnswer, Sample, write_jsonl
from rgpt.errors import InputError
from rgpt.model import load
from rgpt.regions import Box
from rgpt.train.arguments import check_files, run_from
from rgpt.train.name_loss import PULL, TEMPERATURE, name_loss
from rgpt.train.run import train
from tests.model.tiny_models import make_picture
from tests.train.little import little_model

NAMES = ("red", "blue", "long red")


def samples(folder: Path, answers: tuple[str, ...] = NAMES) -> Path:
    picture = folder / "picture.png"
    make_picture(1).save(picture)
    boxes = [Box(1 + 8 * n, 2, 8 + 8 * n, 20) for n in range(len(answers))]
    turns = [QuestionAnswer(f"What is <region{n}>?", answer) for n, answer in enumerate(answers, start=1)]
    write_jsonl(
        folder / "names.jsonl", [Sample(f"{k}", picture, tuple(boxes), tuple(turns)) for k in range(4)]
    )
    return folder / "names.jsonl"


def batch_of(path: Path, processor: object, count: int = 2) -> dict[str, object]:
    rows = TrainingSet([SampleFile(path)], processor)  # type: ignore[arg-type]
    return model_inputs(Collator(0, "none")([rows[Draw(0, row)] for row in range(count)]))


def in_a_sentence(tokenizer: Any) -> list[list[int]]:
    """Token ids of the names as they stand in "see dog": of the ids there, those behind "see"."""
    found = []
    for name in NAMES:
        text = f"see {name}"
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        found.append(
            [
                i
                for i, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
                if end > 3
            ]
        )
    return found


def test_equal_to_a_plain_computation(tmp_path: Path) -> None:
    model, processor = load(little_model(tmp_path / "model"))
    processor.tokenizer.backend_tokenizer.decoder = decoders.Fuse()  # no blanks between its characters
    batch = batch_of(samples(tmp_path), processor)
    loss, mentions = name_loss(model, batch, processor.tokenizer)
    with torch.no_grad():
        refined = model.model.encode(batch["pixel_values"])
        vectors = model.model.pool_regions(refined, batch["region_masks"])[:, : len(NAMES)].flatten(0, 1)
        table = model.get_input_embeddings().weight
        names = torch.stack([table[i].mean(0) for i in in_a_sentence(processor.tokenizer)])
        pairs = [(a - b).square().sum() for a in names for b in names]
        unit = torch.stack(pairs).mean()
        expected = 0.0
        for row, vector in enumerate(vectors):
            distance = (vector - names).square().sum(-1) / unit
            right = row % len(NAMES)
            expected += float(torch.logsumexp(-distance / TEMPERATURE, 0) + distance[right] / TEMPERATURE)
            expected += PULL * float(distance[right])
    assert mentions == 2 * len(NAMES)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_run_learns_the_names_and_changes_connector_and_refinement_alone(tmp_path: Path) -> None:
    base = little_model(tmp_path / "model")
    path = samples(tmp_path)
    run = run_from(
        {
            "stage": "align", "objective": "names", "model": str(base), "out": str(tmp_path / "run"),
            "data": [{"path": str(path)}], "batch_size": 2, "micro_batch_size": 2, "max_steps": 20,
            "lr": 1e-2, "precision": "fp32", "workers": 0, "packing": "none", "log_every": 1,
            "held_out": {"path": str(little_copy(path, tmp_path)), "every": 10, "samples": 2},
        }
    )  # fmt: skip
    result = train(run)
    before, after = load(base)[0].state_dict(), load(result)[0].state_dict()
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"connector", "refinement"}
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in log if "loss" in row]
    held_out = [row["held_out_loss"] for row in log if "held_out_loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    assert held_out[-1] < held_out[0]


def little_copy(path: Path, folder: Path) -> Path:
    copy = folder / "held-out.jsonl"
    copy.write_text(path.read_text())
    return copy


def test_answers_that_are_no_names_of_regions_are_refused(tmp_path: Path) -> None:
    model, processor = load(little_model(tmp_path / "model"))
    picture = tmp_path / "picture.png"
    make_picture(1).save(picture)
    turn = QuestionAnswer("Is <region1> like <region2>?", "long")
    write_jsonl(tmp_path / "s.jsonl", [Sample("a", picture, (Box(1, 1, 9, 9), Box(12, 1, 20, 9)), (turn,))])
    with pytest.raises(InputError, match="2 mentions but 1 answers"):
        name_loss(model, batch_of(tmp_path / "s.jsonl", processor, 1), processor.tokenizer)


def test_several_processes_are_refused_for_they_would_not_share_gradients() -> None:
    run = run_from(
        {"stage": "align", "objective": "names", "model": "tiny", "out": "x", "data": [{"path": "y"}]}
    )
    with pytest.raises(InputError, match="several processes"):
        check_files(run, processes=2)


def test_stage_tune_has_no_such_objective() -> None:
    with pytest.raises(InputError, match="objective"):
        run_from(
            {"stage": "tune", "objective": "names", "model": "tiny", "out": "x", "data": [{"path": "y"}]}
        )

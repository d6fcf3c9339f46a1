"""A run's YAML: typed, unknown keys refused, mistakes told in one sentence before any work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rgpt.errors import InputError
from rgpt.train.arguments import Run, check_files, read_run, refuse_other_run, run_from

ROOT = Path(__file__).parents[2]
RUNS = sorted((ROOT / "scripts" / "runs").glob("*.yaml"))
LEAST: dict[str, Any] = {"stage": "align", "model": "tiny", "out": "o", "data": [{"path": "a.jsonl"}]}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**LEAST, **changes}))
    return path


def test_defaults_and_the_resolved_file_say_the_same(tmp_path: Path) -> None:
    run = read_run(write(tmp_path))
    (tmp_path / "again.yaml").write_text(run.to_yaml())
    assert read_run(tmp_path / "again.yaml") == run
    assert (run.max_length, run.epochs, run.data[0].weight) == (2048, 1.0, 1.0)


def test_overrides_reach_inside(tmp_path: Path) -> None:
    words = ["lr=1e-3", "data.0.weight=2", "held_out.path=h.jsonl", "held_out.every=5", "max_steps=null"]
    run = read_run(write(tmp_path), words)
    assert (run.lr, run.data[0].weight, run.max_steps) == (1e-3, 2.0, None)
    assert run.held_out is not None and (run.held_out.path, run.held_out.every) == ("h.jsonl", 5)
    assert read_run(write(tmp_path), ["data=[{path: x.json, images: i}]"]).data[0].images == "i"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rate": 1}, "keys in .*: expected only stage, model, .*, got learning_rate"),
        ({"stage": None}, "expected a value for stage"),
        ({"stage": "pretrain"}, "stage in .*: expected one of align, tune, got pretrain"),
        ({"lr": "fast"}, "lr in .*: expected a number, got fast"),
        ({"lr": 0}, "lr in .*: expected a number above 0"),
        ({"batch_size": 2.5}, "batch_size in .*: expected a value of type int"),
        ({"batch_size": 0}, "batch_size in .*: expected at least 1"),
        ({"truncation": "yes please"}, "truncation in .*: expected a value of type bool"),
        ({"truncation": 1}, "truncation in .*: expected a value of type bool"),
        ({"data": []}, "data in .*: expected at least one file"),
        ({"data": "a.jsonl"}, "data in .*: expected a list"),
        ({"data": [{"path": "a", "wieght": 1}]}, "only path, weight, kind, images, got wieght"),
        ({"lora": {"rank": "x"}}, "rank in .*lora: expected a value of type int"),
        ({"method": "lora"}, "method in .*: expected full in stage align"),
        ({"warmup": 1}, "warmup in .*: expected a share"),
        ({"packing": True}, "packing in .*: expected a value of type str"),
        ({"stage": "tune", "delta": True}, "delta in .*: expected false in stage tune"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_run(write(tmp_path, **changes))


@pytest.mark.parametrize("override", ["lr", "=3", "lr 1", "data.7.weight=1", "lr.x=1"])
def test_overrides_that_cannot_be(tmp_path: Path, override: str) -> None:
    with pytest.raises(InputError):
        read_run(write(tmp_path, lr=1.0), [override])


def test_files_are_looked_for_first(tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text("{}\n")

    def refused(**changes: Any) -> str:
        with pytest.raises(InputError) as caught:
            check_files(run_from({**LEAST, "data": [{"path": str(data)}], **changes}))
        return str(caught.value)

    assert "data: expected an existing file, got nothing at 'no.jsonl'" in refused(
        data=[{"path": "no.jsonl"}]
    )
    assert "model: expected an embedded model or a folder" in refused(model=str(tmp_path))
    assert "expected the model/ folder of a finished stage-1 run" in refused(stage="tune")
    assert "deepspeed: expected one of scripts/deepspeed" in refused(deepspeed="zero2")
    assert "features: expected a folder written by rgpt cache-features" in refused(features=str(tmp_path))
    assert "a file that is not trained on" in refused(held_out={"path": str(data)})
    assert "expected a multiple of micro_batch_size 16 x 1 processes" in refused(batch_size=100)
    check_files(run_from({**LEAST, "data": [{"path": str(data)}], "stage": "tune", "skip_stage_1": True}))


def test_stage_2_takes_the_folder_of_stage_1(tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text("{}\n")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "run.yaml").write_text("stage: align\n")
    check_files(run_from({**LEAST, "data": [{"path": str(data)}], "stage": "tune", "model": str(tmp_path)}))


def test_another_run_does_not_continue_this_one(tmp_path: Path) -> None:
    run = run_from(LEAST)
    (tmp_path / "run.yaml").write_text(run.to_yaml())
    refuse_other_run(run, tmp_path / "run.yaml")
    refuse_other_run(run_from({**LEAST, "workers": 0, "keep": 9}), tmp_path / "run.yaml")
    lines = [line for line in run.to_yaml().splitlines() if not line.startswith("delta")]
    (tmp_path / "run.yaml").write_text("\n".join(lines))  # begun before there was such a setting
    refuse_other_run(run, tmp_path / "run.yaml")
    with pytest.raises(InputError, match=r"expected the settings it began with, got another lr, seed"):
        refuse_other_run(run_from({**LEAST, "lr": 1.0, "seed": 3}), tmp_path / "run.yaml")


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_the_runs_that_ship_are_runs(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and f"scripts/runs/{path.name}" in first
    run = read_run(path)
    script = {"align": "scripts/pretrain.sh", "tune": "scripts/finetune.sh"}[run.stage]
    assert script in first
    assert run.deepspeed is None or (ROOT / run.deepspeed).is_file()


def test_the_papers_figures_are_in_the_runs() -> None:
    named = {path.stem: read_run(path) for path in RUNS}
    align, tune = named["align_7b"], named["tune_7b"]
    assert (align.batch_size, align.lr, tune.batch_size, tune.lr) == (256, 1e-3, 128, 2e-5)
    for run in (align, tune):
        assert (run.epochs, run.warmup, run.weight_decay, run.precision, run.max_length) == (
            1,
            0.03,
            0,
            "bf16",
            2048,
        )


def test_the_command_says_one_sentence(tmp_path: Path) -> None:
    for words in ([str(write(tmp_path, nonsense=1))], [str(write(tmp_path)), "--stage", "tune"], ["no.yaml"]):
        done = subprocess.run(
            [sys.executable, "-m", "rgpt.train.run", *words, "--check"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("rgpt.train: ")


def test_every_setting_is_a_field() -> None:
    assert set(LEAST) < set(Run.__dataclass_fields__)

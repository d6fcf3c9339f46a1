"""More ends of runs: what is changed under a run, broken records of one, other signals, odd launches."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from rgpt.cli import main as rgpt
from rgpt.errors import InputError
from rgpt.train import run
from rgpt.train.arguments import read_run, run_from
from rgpt.train.environment import launched
from rgpt.train.feature_cache import FeatureCache
from tests.train.little import little_mix, little_model, little_run, little_settings
from tests.train.test_endings import Little, begun, little, meanwhile

__all__ = ["begun", "little", "meanwhile"]

# ---------------------------------------------------------------------------------------- under a run


def test_data_rewritten_under_a_run_end_it_and_a_touched_file_does_not(
    tmp_path: Path, meanwhile: Any
) -> None:
    little = Little(tmp_path)
    text = little.data.read_text()
    meanwhile(1, lambda: little.data.write_text(text))
    little.train("touched", max_steps=3)
    meanwhile(1, lambda: little.data.write_text(text.replace("red", "der")))
    said = little.fails("rewritten", max_steps=3, on_bad_sample="skip", save_every=1)
    assert "something else of the same length" in said
    assert little.checkpoints("rewritten") == [1, 2]  # whose samples had been read


def test_a_cache_cut_short_under_a_run_ends_it(tmp_path: Path, meanwhile: Any) -> None:
    little = Little(tmp_path)
    file, cache = little.with_odd_picture()
    (shard,) = cache.glob("*.safetensors")
    meanwhile(1, lambda: os.truncate(shard, shard.stat().st_size - 2))
    assert "written since" in little.fails("cut", file=file, features=str(cache), max_steps=4)
    (cache / "cache.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        FeatureCache(cache)


def test_a_folder_removed_under_a_run_is_one_sentence(tmp_path: Path, meanwhile: Any) -> None:
    little = Little(tmp_path)
    meanwhile(1, lambda: shutil.rmtree(tmp_path / "gone"))
    assert "no longer there" in little.fails("gone", max_steps=3, save_every=1)


# ---------------------------------------------------------------------------------------- nothing learned


def test_a_run_that_changes_no_weight_fails(little: Little) -> None:
    assert "no weight has changed in 2 steps" in little.fails("unmoved", lr=1e-30, max_steps=2)
    assert not (little.folder / "unmoved" / "model").exists()


@pytest.mark.parametrize("template", ["{% broken", "{{ messages[0].nothing.at.all }}"])
def test_a_template_that_cannot_be_written_out_is_one_sentence(little: Little, template: str) -> None:
    name = f"template-{len(template)}"
    assert "the chat template cannot be written out" in little.fails(name, chat_template=template)


def test_answers_that_are_not_taught_to_end_are_said(
    little: Little, capsys: pytest.CaptureFixture[str]
) -> None:
    template = "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}"
    template += "{% if m.role == 'assistant' %}{% generation %}{{ c.text }}{% endgeneration %}"
    template += "{% else %}{{ c.text }}{% endif %}{% endif %}{% endfor %}{% endfor %}"
    little.train("endless", chat_template=template, max_steps=1)
    assert "may not know where to stop" in capsys.readouterr().out
    little.train("ends", max_steps=1)
    assert "may not know where to stop" not in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("run.yaml", b"", "key: value lines"),
        ("run.yaml", b"- 1", "key: value lines"),
        ("run.yaml", b"\xff\xfe", "YAML file"),
        ("inputs.json", b"{", "inputs.json cannot be read"),
        ("inputs.json", b"[]", "inputs.json cannot be read"),
    ],
)
def test_a_broken_record_of_a_run_is_one_sentence(
    little: Little, file: str, content: bytes, says: str, tmp_path: Path
) -> None:
    settings = little_run(tmp_path / "r", little.model, little.data)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "run.yaml").write_text(settings.to_yaml())
    (tmp_path / "r" / file).write_bytes(content)
    with pytest.raises(InputError, match=says):
        run.train(settings, resume=True)


def test_odd_logs_and_manifests_are_survived(begun: Little, capsys: pytest.CaptureFixture[str]) -> None:
    out = begun.folder / "r"
    (out / "log.jsonl").write_text('5\n{"step": "x"}\n')
    (out / "checkpoints" / "checkpoint-2" / "complete.json").write_text('{"files": {}}')
    begun.train("r", resume=True, max_steps=2, save_every=1)
    said = capsys.readouterr().out
    assert "complete.json lists no file" in said and "from checkpoint-1" in said
    assert [row["step"] for row in begun.rows("r")] == [2]


def test_a_finished_run_says_so_and_notices_other_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    little = Little(tmp_path)
    little.train("r", max_steps=1)
    little.train("r", resume=True, max_steps=1)
    assert "is finished; nothing was left to do" in capsys.readouterr().out
    little.data.write_text(little.data.read_text().replace("Say", "Sag", 1))
    assert "which is finished" in little.fails("r", resume=True, max_steps=1)


def test_accepting_without_resuming_is_refused(little: Little, capsys: pytest.CaptureFixture[str]) -> None:
    path = little.folder / "accept.yaml"
    path.write_text(yaml.safe_dump(little_settings(little.folder / "accept", little.model, little.data)))
    assert run.main([str(path), "--accept-changed-data"]) == 2
    assert "expected --resume with it" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_other_signals_that_announce_an_end_save_too(
    tmp_path: Path, meanwhile: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    little, number = Little(tmp_path), getattr(signal, name)
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump(little_settings(tmp_path / "r", little.model, little.data))
    )
    meanwhile(1, lambda: os.kill(os.getpid(), number))
    assert run.main([str(tmp_path / "r.yaml")]) == 128 + number
    assert f"stopped by {name} after step 2: checkpoint-2 is whole" in capsys.readouterr().err


def test_nohup_is_heeded(tmp_path: Path, meanwhile: Any) -> None:
    little = Little(tmp_path)
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump(little_settings(tmp_path / "r", little.model, little.data, max_steps=2))
    )
    meanwhile(1, lambda: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run.main([str(tmp_path / "r.yaml")]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_leaving_does_not_wait_for_hundreds_of_answers(
    tmp_path: Path, meanwhile: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    little = Little(tmp_path)
    held_out = {"path": str(little_mix(tmp_path / "h", 8, first=100)), "every": 1, "accuracy": True}
    settings = little_settings(tmp_path / "r", little.model, little.data, held_out=held_out)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(settings))
    meanwhile(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run.main([str(tmp_path / "r.yaml")]) == 143
    assert "after step 2: checkpoint-2 is whole" in capsys.readouterr().err
    assert [row["step"] for row in little.rows("r") if "held_out_loss" in row] == [1]


# ---------------------------------------------------------------------------------------- numbers, launches


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 10**30},
        {"max_steps": 10**20},
        {"batch_size": 10**12, "micro_batch_size": 10**12},
        {"lora": {"rank": 10**10}},
        {"workers": 10**6},
        {"data": [{"path": "d", "weight": 1e12}]},
        {"leave_seconds": 1e300},
        {"held_out": {"path": "h", "samples": 10**20}},
    ],
    ids=str,
)
def test_numbers_that_libraries_overflow_at_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        run_from({**little_settings(Path("o"), Path("m"), Path("d")), **changes})


def test_so_are_epochs_without_end(little: Little) -> None:
    assert "epochs: expected at most" in little.fails("forever", max_steps=None, epochs=1e300)


def test_a_run_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"stage: \xff\xfe")
    for path in (tmp_path / "run.yaml", tmp_path, tmp_path / "nothing.yaml"):
        with pytest.raises(InputError, match="an existing YAML file"):
            read_run(path)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, (0, 1)),
        ({"RANK": "", "WORLD_SIZE": ""}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, (1, 2)),
        ({"RANK": "x"}, None),
        ({"WORLD_SIZE": "two"}, None),
        ({"RANK": "-1"}, None),
        ({"RANK": "1"}, None),
        ({"RANK": "0", "WORLD_SIZE": "2"}, None),
        ({"WORLD_SIZE": "0"}, None),
    ],
    ids=str,
)
def test_half_a_launch_is_refused(environment: dict[str, str], found: tuple[int, int] | None) -> None:
    if found is None:
        with pytest.raises(InputError, match="in the environment: expected what a launcher sets"):
            launched(environment)
    else:
        assert launched(environment) == found


# ---------------------------------------------------------------------------------------- merging


def test_an_adapter_that_is_not_finite_is_not_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    little = Little(tmp_path)
    adapter = little.train("r", method="lora", lora={"rank": 2, "alpha": 4}, max_steps=1)
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    for value in (torch.nan, 1e6):
        save_file(
            {**weights, name: torch.full_like(weights[name], value)}, adapter / "adapter_model.safetensors"
        )
        out = tmp_path / f"merged-{value}"
        assert rgpt(["merge-lora", str(adapter), "--out", str(out), "--dtype", "float16"]) == (
            2 if value != 0 else 0
        )
        assert "expected finite numbers" in capsys.readouterr().err and not out.exists()
    other = little_model(tmp_path / "other", seed=3)
    assert rgpt(["merge-lora", str(adapter), "--base", str(other), "--out", str(tmp_path / "m")]) == 2
    assert not (tmp_path / "m").exists()


# ---------------------------------------------------------------------------------------- two ranks


@pytest.mark.slow
def test_ranks_that_were_given_other_data_end_together(tmp_path: Path) -> None:
    """As on two machines whose disks differ: the second rank's file is another, of the same name."""
    little = Little(tmp_path)
    other = tmp_path / "elsewhere"
    shutil.copytree(little.data.parent, other / "data")
    text = (other / "data" / little.data.name).read_text()
    (other / "data" / little.data.name).write_text(text.replace("red", "der"))
    (other / "run").symlink_to(tmp_path / "run")
    settings = little_settings(Path("run"), little.model, Path("data") / little.data.name, micro_batch_size=2)
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    root = Path(__file__).parents[2]
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "rgpt.train.run", str(tmp_path / "run.yaml")],
            cwd=folder,
            env={**os.environ, **where, "PYTHONPATH": str(root), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, folder in enumerate((tmp_path, other))
    ]
    said = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert "rank 1 has another data/samples-0.jsonl than rank 0" in said[0]

"""How runs end that go wrong: nothing that is not finite is kept, nothing learned is no result, and a resumed
run is the run it says it is. Faults are in data and weights, never in code that is replaced."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, safe_open, save_file
from transformers import TrainerCallback

from rgpt.commands import cache_features
from rgpt.data.schema import QuestionAnswer, Sample, read_jsonl, write_jsonl
from rgpt.errors import InputError
from rgpt.train import record, run
from rgpt.train.arguments import read_run, run_from
from rgpt.train.environment import check_environment, deepspeed_config
from tests.model.tiny_models import make_picture
from tests.train.little import little_mix, little_model, little_run, little_settings

NO_MARKS = "{% for m in messages %}{{ m.role }}: {{ m.content[-1].text }}\n{% endfor %}"
"""A chat template that does not mark the assistant's words."""


class Little:
    """A model, 24 samples, and runs in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = little_model(folder / "model")
        self.data = little_mix(folder / "data", 24)

    def train(self, name: str, resume: bool = False, **changes: Any) -> Path:
        model, data = Path(changes.pop("model", self.model)), Path(changes.pop("file", self.data))
        return run.train(little_run(self.folder / name, model, data, **changes), resume)

    def fails(self, name: str, **changes: Any) -> str:
        with pytest.raises(InputError) as caught:
            self.train(name, **changes)
        return str(caught.value)

    def rows(self, name: str) -> list[dict[str, Any]]:
        return record.read_log(self.folder / name / "log.jsonl")

    def checkpoints(self, name: str) -> list[int]:
        found = (self.folder / name / "checkpoints").iterdir()
        return sorted(int(path.name.rpartition("-")[2]) for path in found)

    def with_odd_picture(self) -> tuple[Path, Path]:
        """(samples of which one, `odd`, has a picture of its own; cached features, NaN for that picture)."""
        odd = self.folder / "data" / "odd.png"
        make_picture(99).save(odd)
        file, cache = self.folder / "data" / "odd.jsonl", self.folder / "cache"
        if not file.exists():
            sample = Sample("odd", odd, (), (QuestionAnswer("Is it odd?", "yes"),))
            write_jsonl(file, [*read_jsonl(self.data), sample])
            cache_features.main([str(file), "--model", str(self.model), "--out", str(cache)])
            (shard,) = cache.glob("*.safetensors")
            with safe_open(shard, "pt") as opened:
                facts = opened.metadata()
            features, listed = load_file(shard)["features"], json.loads(facts["pictures"])
            digests = [row[0] for row in listed]
            features[digests.index(_digest(odd))] = torch.nan
            save_file({"features": features}, shard, facts)
        return file, cache


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Little:
    return Little(tmp_path_factory.mktemp("endings"))


def all_finite(folder: Path) -> bool:
    files = list(folder.rglob("*.safetensors"))
    return bool(files) and all(t.isfinite().all() for file in files for t in load_file(file).values())


# ---------------------------------------------------------------------------------------- not finite


def test_a_run_stops_before_the_first_step_that_is_not_finite(little: Little) -> None:
    file, cache = little.with_odd_picture()
    settings = {"file": file, "features": str(cache), "max_steps": 6, "save_every": 1, "keep": 9}
    said = little.fails("stops", **settings)
    step = int(said.partition(":")[0].removeprefix("step "))
    assert 1 < step <= 6 and "not finite" in said and "sample odd" in said
    assert "sample 3" not in said  # the one that is wrong, not all of its step
    assert little.checkpoints("stops") == list(range(1, step))
    assert all_finite(little.folder / "stops") and not (little.folder / "stops" / "model").exists()
    losses = [row["loss"] for row in little.rows("stops") if "loss" in row]
    assert len(losses) == step - 1 and all(map(math.isfinite, losses))
    # Resumed, it comes to the same step and says the same.
    assert little.fails("stops", resume=True, **settings) == said


@pytest.mark.parametrize("micro", [4, 2])
def test_such_a_step_can_be_passed_over(little: Little, micro: int) -> None:
    file, cache = little.with_odd_picture()
    name = f"skips-{micro}"
    result = little.train(
        name, file=file, features=str(cache), max_steps=6, on_nonfinite="skip", micro_batch_size=micro
    )
    (row,) = [row for row in little.rows(name) if "nonfinite" in row]
    assert row["nonfinite"] == 1 and row["samples_nonfinite"] == [f"{file}, sample odd"]
    losses = {row["step"]: row["loss"] for row in little.rows(name) if "loss" in row}
    assert set(losses) == set(range(1, 7)) - {row["step"]}
    assert all_finite(result)


def test_one_that_does_not_recover_ends(little: Little) -> None:
    said = little.fails("explodes", lr=1e25, max_steps=12, on_nonfinite="skip", nonfinite_in_a_row=2)
    assert "3 steps in a row" in said
    assert not (little.folder / "explodes" / "model").exists()


def test_weights_that_are_not_finite_are_neither_saved_nor_published(little: Little) -> None:
    large = little_model(little.folder / "large")
    weights = load_file(large / "model.safetensors")
    weights["model.language_model.embed_tokens.weight"][ord("~") - 27] = 3e38  # no sample has the letter
    save_file(weights, large / "model.safetensors", {"format": "pt"})
    said = little.fails("infinite", model=large, warmup=0.0, max_steps=1, weight_decay=3000.0)
    assert "weights" in said and "not finite" in said
    assert little.checkpoints("infinite") == []
    assert not (little.folder / "infinite" / "model").exists()


def test_a_base_that_is_not_finite_is_refused(little: Little) -> None:
    broken = little_model(little.folder / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.connector.linear_1.bias"][0] = torch.inf
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    assert "connector.linear_1.bias" in little.fails("on-broken", model=broken)


# ---------------------------------------------------------------------------------------- nothing learned


def too_long(folder: Path, count: int, of: int) -> Path:
    """`of` samples, the first `count` of which have a question longer than any row."""
    path = folder / f"long-{count}-{of}.jsonl"
    words = [("Say " + "very " * 200 if n < count else "Say ") + "red." for n in range(of)]
    write_jsonl(
        path, [Sample(str(n), None, (), (QuestionAnswer(word, "red"),)) for n, word in enumerate(words)]
    )
    return path


def test_a_sample_without_learned_tokens_is_a_bad_sample(little: Little) -> None:
    file = too_long(little.folder, 1, 8)
    said = little.fails("unlearned", file=file, truncation=True, max_steps=2)
    assert "sample 0" in said and "nothing in it is learned" in said
    little.train("unlearned-skip", file=file, truncation=True, max_steps=2, on_bad_sample="skip")
    bad = record.read_log(little.folder / "unlearned-skip" / "bad_samples.0.jsonl")
    assert [row["kind"] for row in bad] == ["unlearned"]


@pytest.mark.parametrize("template", [None, NO_MARKS], ids=["all too long", "template without generation"])
def test_a_run_that_learned_nothing_fails(little: Little, template: str | None) -> None:
    name = "nothing-long" if template is None else "nothing-template"
    file = too_long(little.folder, 8, 8) if template is None else too_long(little.folder, 0, 8)
    settings = {"file": file, "max_steps": 2, "truncation": True, "chat_template": template}
    assert "nothing in it is learned" in little.fails(name, **settings)
    said = little.fails(f"{name}-skip", on_bad_sample="skip", weight_decay=0.5, **settings)
    assert "learned no token" in said and "8 of 8 samples" in said
    assert not (little.folder / f"{name}-skip" / "model").exists()


def test_a_step_with_nothing_to_learn_changes_nothing(little: Little) -> None:
    """Neither by decay nor by momentum: the weights after it are those before it."""
    file = too_long(little.folder, 4, 12)
    settings = {
        "file": file, "max_steps": 3, "on_bad_sample": "skip", "max_length": 100, "weight_decay": 0.5,
        "save_every": 1, "keep": 9, "seed": 3,
    }  # fmt: skip
    little.train("idle", **settings)  # batches are of like length: one of the three is long
    rows = {row["step"]: row for row in little.rows("idle")}
    (idle,) = [step for step, row in rows.items() if row["learned_tokens"] == 0]
    assert idle > 1, "the seed should put it after a step with momentum"
    before, after = (
        load_file(little.folder / "idle" / "checkpoints" / f"checkpoint-{step}" / "model.safetensors")
        for step in (idle - 1, idle)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_shares_stand_in_the_log_and_at_the_end(little: Little, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 8 samples 2 are too long to learn from and 2 are cut."""
    path = little.folder / "shares.jsonl"
    words = [("Say " + "very " * 100, "red")] * 2 + [("Say", "red " * 60)] * 2 + [("Say", "red")] * 4
    write_jsonl(path, [Sample(str(n), None, (), (QuestionAnswer(*turn),)) for n, turn in enumerate(words)])
    little.train(
        "shares", file=path, truncation=True, max_length=100, on_bad_sample="skip", batch_size=8,
        micro_batch_size=8, max_steps=1,
    )  # fmt: skip
    (row,) = [row for row in little.rows("shares") if "loss" in row]
    assert (row["share_skipped"], row["share_cut"]) == (0.25, 0.25)
    out = capsys.readouterr().out
    assert "2 of 8 samples were skipped" in out and "2 unlearned" in out and "2 were cut" in out


# ---------------------------------------------------------------------------------------- going on


@pytest.fixture
def begun(tmp_path: Path) -> Little:
    """A run `r` of two steps, each with its checkpoint, whose result has been taken away."""
    little = Little(tmp_path)
    little.train("r", max_steps=2, save_every=1)
    (tmp_path / "r" / "model").rename(tmp_path / "taken")
    return little


def change_data(little: Little) -> None:
    text = little.data.read_text()
    little.data.write_text(text.replace("Say", "Sag", 1))


def change_base(little: Little) -> None:
    little_model(little.model, seed=1)


@pytest.mark.parametrize(("change", "named"), [(change_data, "samples-0.jsonl"), (change_base, "model ")])
def test_a_run_does_not_go_on_from_other_data_or_another_base(
    begun: Little, change: Any, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(begun)
    said = begun.fails("r", resume=True, max_steps=2, save_every=1)
    assert "changed: " in said and named in said and "--accept-changed-data" in said
    settings = little_run(begun.folder / "r", begun.model, begun.data, max_steps=2, save_every=1)
    run.train(settings, resume=True, accept_changed_data=True)
    assert "going on after step 2" in capsys.readouterr().out
    (row,) = record.read_log(begun.folder / "r" / "resumes.jsonl")
    assert row["step"] == 2 and named in row["changed"][0]


def test_a_checkpoint_that_was_changed_is_passed_over_aloud(
    begun: Little, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = begun.folder / "r" / "checkpoints" / "checkpoint-2" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # of the same size
    weights.write_bytes(data)
    (begun.folder / "r" / "checkpoints" / ".partial-3").mkdir()
    # The same batch in smaller pieces: what running out of memory asks for.
    result = begun.train("r", resume=True, max_steps=2, save_every=1, micro_batch_size=1)
    out = capsys.readouterr().out
    assert "checkpoint-2 is passed over: model.safetensors holds something else" in out
    assert "going on after step 1, from checkpoint-1" in out
    assert not list((begun.folder / "r" / "checkpoints").glob(".partial*"))
    one, other = (load_file(p / "model.safetensors") for p in (result, begun.folder / "taken"))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    assert "micro_batch_size: 1" in (result / "run.yaml").read_text()


def test_a_foreign_result_is_not_this_runs(begun: Little) -> None:
    foreign = begun.folder / "new" / "model"
    foreign.mkdir(parents=True)
    (foreign / "weights").write_text("mine")
    for resume in (False, True):
        assert "no run.yaml" in begun.fails("new", resume=resume, max_steps=2)
    assert [path.name for path in foreign.parent.iterdir()] == ["model"]
    foreign.rename(begun.folder / "r" / "model")
    assert "something else" in begun.fails("r", resume=True, max_steps=2, save_every=1)


def test_resuming_nothing_is_said(little: Little, capsys: pytest.CaptureFixture[str]) -> None:
    little.train("none-yet", resume=True, max_steps=1)
    assert "holds no run yet" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- what the YAML says


@pytest.mark.parametrize(
    ("name", "value", "ok"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", False),
        ("ACCELERATE_MIXED_PRECISION", "no", True),
        ("ACCELERATE_USE_FSDP", "true", False),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8", False),
        ("ACCELERATE_DYNAMO_BACKEND", "inductor", False),
        ("NVIDIA_TF32_OVERRIDE", "1", False),
        ("ACCELERATE_USE_CPU", "true", True),
    ],
)
def test_the_environment_does_not_change_a_run(name: str, value: str, ok: bool) -> None:
    settings = little_run(Path("o"), Path("m"), Path("d"))
    if ok:
        check_environment(settings, 1, {name: value})
    else:
        with pytest.raises(InputError, match=f"{name} in the environment"):
            check_environment(settings, 1, {name: value})


def test_a_run_asks_the_environment_itself(little: Little, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert "as the run's settings say it" in little.fails("environment", max_steps=1)
    assert not (little.folder / "environment").exists()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"bf16": {"enabled": True}}, "bf16.enabled"),
        ({"fp16": {"enabled": True}}, "fp16.enabled"),
        ({"gradient_clipping": 0.5}, "gradient_clipping"),
        ({"train_micro_batch_size_per_gpu": 2}, "train_micro_batch_size_per_gpu"),
        ({"optimizer": {"type": "Adam"}}, "optimizer"),
        ({"zero_optimization": {"stage": 7}}, "zero_optimization.stage"),
        ({}, "zero_optimization.stage"),
        ([], "a JSON object"),
    ],
)
def test_nor_does_the_deepspeed_file(tmp_path: Path, config: Any, says: str) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(config))
    settings = little_run(Path("o"), Path("m"), Path("d"), deepspeed=str(tmp_path / "ds.json"))
    with pytest.raises(InputError, match=says):
        deepspeed_config(settings, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"held_out": {"path": "h", "every": 0}},
        {"held_out": {"path": "h", "samples": 0}},
        {"held_out": {"path": "h", "answers": -1}},
        {"lora": {"rank": 0}},
        {"lora": {"dropout": 1.0}},
        {"lora": {"alpha": -8}},
        {"weight_decay": math.nan},
        {"warmup": math.nan},
        {"lr": math.inf},
        {"lr": "nan"},
        {"data": [{"path": "d", "weight": math.inf}]},
        {"data": [{"path": "d", "weight": 0}]},
        {"save_minutes": 0},
    ],
    ids=str,
)
def test_numbers_that_mean_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        run_from({**little_settings(Path("o"), Path("m"), Path("d")), **changes})


def test_a_key_stands_once(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("stage: tune\nlr: 1.0\nheld_out: {path: h, every: 1, every: 2}\n")
    with pytest.raises(InputError, match="'every' twice"):
        read_run(tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_text("stage: tune\nmodel: m\nout: o\ndata: [{path: d}]\n")
    with pytest.raises(InputError, match="each key once"):
        read_run(tmp_path / "run.yaml", ["lr=1", "lr=2"])


def test_a_weight_that_rounds_to_nothing_is_refused(little: Little) -> None:
    settings = little_settings(little.folder / "no-weight", little.model, little.data)
    settings["data"].append({"path": str(little.data), "weight": 0.01})
    with pytest.raises(InputError, match="weight of data file 2"):
        run.train(run_from(settings))
    assert not (little.folder / "no-weight").exists()


def test_an_out_that_cannot_be_is_refused_first(little: Little) -> None:
    (little.folder / "file").write_text("mine")
    assert "a file at" in little.fails("file", max_steps=1)
    assert "a file at" in little.fails("file/below", max_steps=1)
    (little.folder / "other").mkdir()
    (little.folder / "other" / "thesis.tex").write_text("mine")
    assert "thesis.tex and no run.yaml" in little.fails("other", max_steps=1)


def test_held_out_samples_are_checked_like_others(little: Little, capsys: pytest.CaptureFixture[str]) -> None:
    path = little.folder / "held-out.jsonl"
    gone = Sample("gone", little.folder / "gone.png", (), (QuestionAnswer("q", "a"),))
    trained = list(read_jsonl(little.data))[:3]
    write_jsonl(path, [gone, *trained])
    settings = {"held_out": {"path": str(path), "every": 1, "answers": 4}, "max_steps": 1}
    assert "sample gone" in little.fails("held-out", **settings)
    little.train("held-out-skip", on_bad_sample="skip", **settings)
    out = capsys.readouterr().out
    assert "1 of 4 held-out samples cannot be used" in out
    assert "3 of 4 samples in" in out and "trained on too" in out
    answers = record.read_log(little.folder / "held-out-skip" / "answers.jsonl")
    assert len(answers) == 3


# ---------------------------------------------------------------------------------------- bad lines


def test_a_broken_line_is_a_bad_sample(little: Little, capsys: pytest.CaptureFixture[str]) -> None:
    path = little.folder / "broken.jsonl"
    lines = little.data.read_text().splitlines()
    path.write_text("\n".join(['{"id": "cut', '{"id": "odd", "turns": []}', *lines[:14:4], *lines[:14:4]]))
    settings = {"file": path, "batch_size": 10, "micro_batch_size": 10, "max_steps": 1}
    assert f"{path}:1: line: expected one JSON object" in little.fails("broken-line", **settings)
    little.train("broken-line-skip", on_bad_sample="skip", **settings)
    assert "(1 broken line, 1 odd record)" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- the machine


class MeanwhileAt(TrainerCallback):
    """Something happens to the machine when a step begins."""

    def __init__(self, step: int, happen: Any) -> None:
        self.step, self.happen = step, happen

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.happen()


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Any:
    plain = run.callbacks

    def at(step: int, happen: Any) -> None:
        monkeypatch.setattr(run, "callbacks", lambda *given: [*plain(*given), MeanwhileAt(step, happen)])

    return at


def test_a_file_emptied_under_a_run_ends_it(tmp_path: Path, meanwhile: Any) -> None:
    little = Little(tmp_path)
    meanwhile(2, lambda: little.data.write_text(""))
    said = little.fails("emptied", max_steps=6, save_every=1, on_bad_sample="skip")
    assert "samples-0.jsonl" in said and "bytes it had when it was opened, got 0" in said
    assert all_finite(tmp_path / "emptied" / "checkpoints" / "checkpoint-2")


def test_a_full_disk_is_one_sentence_and_costs_nothing(tmp_path: Path, meanwhile: Any) -> None:
    import resource

    little = Little(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    meanwhile(1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard)))
    try:
        said = little.fails("full", max_steps=2, save_every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "make room" in said and "checkpoint-1 is whole" in said and "--resume" in said
    assert little.checkpoints("full") == [1] and all_finite(
        tmp_path / "full" / "checkpoints" / "checkpoint-1"
    )
    meanwhile(99, None)
    assert little.train("full", resume=True, max_steps=2, save_every=1).is_dir()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(
    tmp_path: Path, meanwhile: Any, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    little = Little(tmp_path)
    settings = little_settings(tmp_path / "left", little.model, little.data, max_steps=4, workers=1)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    meanwhile(2, lambda: os.kill(os.getpid(), number))
    assert run.main([str(tmp_path / "run.yaml")]) == 128 + number
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"stopped by {number.name} after step 3: checkpoint-3 is whole; go on with " in said
    assert little.checkpoints("left") == [3]
    meanwhile(99, None)
    assert run.main([str(tmp_path / "run.yaml"), "--resume"]) == 0
    whole = little.train("whole", max_steps=4, workers=1)
    one, other = (load_file(p / "model.safetensors") for p in (whole, tmp_path / "left" / "model"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [row["loss"] for row in little.rows("left")] == [row["loss"] for row in little.rows("whole")]


def test_a_worker_that_dies_is_one_sentence(tmp_path: Path, meanwhile: Any) -> None:
    little = Little(tmp_path)

    def kill_workers() -> None:
        for child in psutil.Process().children(recursive=True):
            child.kill()

    meanwhile(1, kill_workers)
    said = little.fails("worker", max_steps=6, save_every=1, workers=1)
    last = max(little.checkpoints("worker"))  # batches that it had made may be used before it is missed
    assert "a data worker has died" in said and f"checkpoint-{last} is whole" in said


def test_minutes_save_too(little: Little, meanwhile: Any) -> None:
    little.train("minutes", max_steps=3, save_every=99, save_minutes=1e-9, keep=9)
    assert little.checkpoints("minutes") == [1, 2, 3]


# ---------------------------------------------------------------------------------------- the best


def test_the_best_is_kept_and_the_run_stops_when_it_gets_worse(little: Little) -> None:
    """Held-out answers of letters that training never sees: learning makes them less likely."""
    path = little.folder / "other-answers.jsonl"
    write_jsonl(path, [Sample("x", None, (), (QuestionAnswer("Say red.", "Zq?" * 9),))])
    settings = {"held_out": {"path": str(path), "every": 1, "answers": 0}, "lr": 0.02, "max_steps": 30}
    result = little.train("best", keep_best=True, early_stop=2, save_every=1, keep=99, **settings)
    held_out = {row["step"]: row["held_out_loss"] for row in little.rows("best") if "held_out_loss" in row}
    best = min(held_out, key=held_out.__getitem__)
    assert max(held_out) == best + 2 < 30
    one, other = (
        load_file(folder / "model.safetensors")
        for folder in (result, little.folder / "best" / "checkpoints" / f"checkpoint-{best}")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    card = (result / "README.md").read_text()
    assert f"weights of step {best}" in card and "samples-0.jsonl" in card
    assert not (little.folder / "best" / "best").exists()


# ---------------------------------------------------------------------------------------- two ranks


def test_two_ranks_end_together(little: Little) -> None:
    """What only one of them meets: a picture that is not finite, a bad sample, a signal."""
    file, cache = little.with_odd_picture()
    odd = {"file": file, "features": str(cache), "max_steps": 6, "save_every": 1, "keep": 9}
    cases: dict[str, dict[str, Any]] = {
        "stop": odd,
        "skip": {**odd, "on_nonfinite": "skip"},
        "bad": {"file": too_long(little.folder, 1, 8), "truncation": True, "max_steps": 2},
        "term": {"max_steps": 5000},
    }
    paths = []
    for name, changes in cases.items():
        data = changes.pop("file", little.data)
        settings = little_settings(
            little.folder / f"two-{name}", little.model, data, micro_batch_size=2, **changes
        )
        paths.append(little.folder / f"two-{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(settings))
    words = [str(path) for path in paths]
    words[-1] += ":SIGTERM:2"
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.two_ranks", *words],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = {name: (little.folder / f"two-{name}.output").read_text() for name in cases}
    codes = dict(zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True))
    assert codes == {"stop": [2, 2], "skip": [0, 0], "bad": [2, 2], "term": [143, 143]}, said
    for name, words_of_it in {
        "stop": ("not finite", "sample odd"),
        "bad": ("sample 0", "nothing in it is learned"),
        "term": ("stopped by SIGTERM after step", "is whole; go on with"),
    }.items():
        (line,) = [line for line in said[name].splitlines() if line.startswith("rgpt.train: ")]
        assert all(word in line for word in words_of_it), line
    assert all_finite(little.folder / "two-stop") and not (little.folder / "two-stop" / "model").exists()
    (row,) = [row for row in little.rows("two-skip") if "nonfinite" in row]
    assert row["samples_nonfinite"] == [f"{file}, sample odd"]
    assert all_finite(little.folder / "two-skip" / "model")
    assert len(little.checkpoints("two-term")) == 1

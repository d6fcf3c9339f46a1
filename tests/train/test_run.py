"""Whole runs of a very small model in one process: what changes, what is saved, how they continue."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from rgpt.commands import cache_features, merge_lora
from rgpt.errors import InputError
from rgpt.model import load
from rgpt.train import record, run
from rgpt.train.adapters import merge_adapter
from rgpt.train.stages import STAGES, part_of
from tests.train.little import little_mix, little_model, little_run

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}


class Little:
    """A model, samples, and runs in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = little_model(folder / "model")
        self.data = little_mix(folder / "data", 40)
        self.held_out = little_mix(folder / "data", 8, first=1000)

    def train(self, name: str, resume: bool = False, **changes: Any) -> Path:
        changes.setdefault("model", str(self.model))
        settings = little_run(self.folder / name, Path(changes.pop("model")), self.data, **changes)
        return run.train(settings, resume)

    def rows(self, name: str) -> list[dict[str, Any]]:
        return record.read_log(self.folder / name / "log.jsonl")

    def losses(self, name: str) -> list[float]:
        return [row["loss"] for row in self.rows(name) if "loss" in row]


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Little:
    return Little(tmp_path_factory.mktemp("little"))


@pytest.fixture
def stops_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`stops_at(step)`: the next run breaks off after that step, as if the machine had failed."""

    class Stop(TrainerCallback):
        def __init__(self, step: int) -> None:
            self.step = step

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == self.step:
                raise ConnectionError("the machine has failed")

    plain = run.callbacks

    def stops(step: int | None) -> None:
        extra = [] if step is None else [Stop(step)]
        monkeypatch.setattr(run, "callbacks", lambda *arguments: [*plain(*arguments), *extra])

    yield stops


# ---------------------------------------------------------------------------------------------- what changes


@pytest.mark.parametrize("stage", STAGES)
def test_exactly_the_stages_parts_change(little: Little, stage: str) -> None:
    before = load_file(little.model / "model.safetensors")
    after = load_file(little.train(f"changes-{stage}", stage=stage) / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if part_of(name) in STAGES[stage].trains}


def test_lora_leaves_the_base_as_it_was_and_trains_all_it_should(little: Little) -> None:
    adapter = little.train("changes-lora", **LORA)
    tensors = load_file(adapter / "adapter_model.safetensors")
    base = load_file(little.model / "model.safetensors")
    kinds = {"lora" if "lora_" in name else part_of(name) for name in tensors}
    assert kinds == {"lora", "refinement", "connector"}
    assert all(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    for name, tensor in tensors.items():
        if "lora_" in name:
            assert part_of(name) == "language_model"
        else:  # trained whole: a changed copy of the base's
            original = base[name.removeprefix("base_model.model.")]
            assert tensor.shape == original.shape and not torch.equal(tensor, original)
    targets = {name.split(".lora_")[0] for name in tensors if "lora_" in name}
    linears = [
        n for n, m in load(little.model)[0].model.language_model.named_modules() if hasattr(m, "in_features")
    ]
    assert len(targets) == len(linears)


def test_a_merged_adapter_answers_like_the_adapted_model(
    little: Little, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel

    adapter = little.train("merge", max_steps=6, lr=1e-2, **LORA)
    merged = little.folder / "merged"
    assert merge_lora.main([str(adapter), "--out", str(merged)]) == 0
    assert str(merged) in capsys.readouterr().out
    plain, processor = load(merged)
    adapted = PeftModel.from_pretrained(load(little.model)[0], str(adapter)).eval()
    batch = processor(text="<image>\nIs it red?", images=_picture())
    base = load(little.model)[0](**batch).logits
    assert torch.allclose(plain(**batch).logits, adapted(**batch).logits, atol=1e-4)
    assert not torch.allclose(plain(**batch).logits, base, atol=1e-2)
    assert (merged / "run.yaml").is_file()
    with pytest.raises(InputError, match="expected a new folder"):
        merge_lora.main([str(adapter), "--out", str(merged)])


def logits(folder: Path) -> torch.Tensor:
    model, processor = load(folder)
    with torch.no_grad():
        return model(**processor(text="<image>\nIs it red?", images=_picture())).logits


def test_what_a_run_writes_is_opened_as_it_is(little: Little) -> None:
    """An adapter or delta beside the run's checkpoints, which name the same base from a folder deeper."""
    adapter = little.train("opened", save_every=2, **LORA)
    last = adapter.parent / "checkpoints" / "checkpoint-4"
    merge_adapter(adapter, little.folder / "opened-merged")
    assert torch.equal(logits(adapter), logits(little.folder / "opened-merged"))
    assert torch.equal(logits(adapter), logits(last))
    assert not torch.equal(logits(adapter), logits(adapter.parent / "checkpoints" / "checkpoint-2"))
    files = {"adapter_config.json", "adapter_model.safetensors", "base.json", *run.PROVENANCE, "README.md"}
    assert {path.name for path in adapter.iterdir()} == files
    assert json.loads((adapter / "base.json").read_text())["base"] == "../../model"
    assert str(little.folder) not in (adapter / "adapter_config.json").read_text()


def test_a_delta_is_the_model_that_a_run_without_it_writes(little: Little) -> None:
    whole = little.train("align-whole", stage="align")
    delta = little.train("align-delta", stage="align", delta=True)
    assert delta.name == "delta" and torch.equal(logits(delta), logits(whole))
    names = load_file(delta / "model.safetensors")
    assert {part_of(name) for name in names} == {"refinement", "connector"}
    # Stage 2 starts from it; the adapter holds both parts whole and names the model that stage 1 began with.
    settings = {"skip_stage_1": False, **LORA}
    after_whole = little.train("after-whole", model=str(whole), **settings)
    after_delta = little.train("after-delta", model=str(delta), **settings)
    assert little.losses("after-delta") == little.losses("after-whole")
    assert torch.equal(logits(after_delta), logits(after_whole))
    assert json.loads((after_delta / "base.json").read_text())["base"] == "../../model"


@pytest.mark.parametrize("method", [{}, LORA], ids=["full", "lora"])
def test_a_run_starts_from_an_adapter(little: Little, method: dict[str, Any]) -> None:
    name = "lora" if method else "full"
    first = little.train(f"first-{name}", **LORA)
    merged = merge_adapter(first, little.folder / f"first-{name}-merged")
    by_layer = little.train(f"on-adapter-{name}", model=str(first), **method)
    by_merged = little.train(f"on-merged-{name}", model=str(merged), **method)
    assert little.losses(f"on-adapter-{name}") == little.losses(f"on-merged-{name}")
    assert torch.equal(logits(by_layer), logits(by_merged))


def test_a_run_refuses_a_base_that_changed_before_any_work(little: Little) -> None:
    other = little_model(little.folder / "changing")
    adapter = little.train("on-changing", model=str(other), max_steps=1, **LORA)
    little_model(other, seed=1)
    with pytest.raises(InputError, match="expected the model it was trained on"):
        little.train("after-changing", model=str(adapter))
    assert not (little.folder / "after-changing").exists()
    with pytest.raises(InputError, match="qlora"):
        little.train("quantised", model=str(little.train("plain", max_steps=1, **LORA)), method="qlora")


def _picture() -> Any:
    from tests.model.tiny_models import make_picture

    return make_picture()


# ---------------------------------------------------------------------------------------------- what is saved


def test_everything_lies_beside_the_weights(little: Little) -> None:
    held_out = {"path": str(little.held_out), "every": 2, "samples": 8, "answers": 2}
    result = little.train("saved", held_out=held_out, save_every=2)
    model, processor = load(result)
    processor.check_model(model.config)
    assert json.loads((result / "versions.json").read_text())["torch"]
    folder = result.parent
    assert (result / "run.yaml").read_text() == (folder / "run.yaml").read_text()
    assert (folder / "curve.png").is_file() and any((folder / "tensorboard").iterdir())
    rows = little.rows("saved")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "held_out_loss" in row] == [2, 4]
    for key in ("tokens_per_second", "samples_per_second", "data_share", "learning_rate", "learned_tokens"):
        assert all(key in row for row in rows if "loss" in row)
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [row["step"] for row in answers] == [2, 2, 4, 4]
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-4"}


def test_mfu_is_in_the_log_when_the_peak_is_known(little: Little) -> None:
    little.train("mfu", peak_tflops=0.1, max_steps=2)
    assert all(0 < row["mfu"] < 1 for row in little.rows("mfu") if "loss" in row)


def test_the_table_at_the_start(little: Little, capsys: pytest.CaptureFixture[str]) -> None:
    little.train("table", max_steps=1, connector_lr=5e-3, weight_decay=0.1)
    rows = {words[0]: words[1:] for line in capsys.readouterr().out.splitlines() if (words := line.split())}
    assert rows["vision_tower"][1:] == ["0", "frozen"]
    assert rows["connector"][2:] == ["0.005", "0.1"]
    assert rows["language_model"][2:] == ["0.001", "0.1"]
    model = load(little.model)[0]
    assert int(rows["all"][0].replace(",", "")) == model.num_parameters()


@pytest.mark.parametrize(
    ("seen", "recipe", "warned"),
    [
        ("drawn scenes", None, True),
        ("drawn scenes", "shapes", False),
        ("photographs", None, False),
        (None, None, False),
    ],
)
def test_a_start_that_never_saw_photographs_is_warned_of(
    little: Little,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    seen: str | None,
    recipe: str | None,
    warned: bool,
) -> None:
    model = shutil.copytree(little.model, tmp_path / "model")
    if seen is not None:
        (model / "about.json").write_text(json.dumps({"pictures": seen}))
    data = little_mix(tmp_path / "data", 8)
    if recipe is not None:
        (data.parent / "report.json").write_text(json.dumps({"recipe": recipe}))
    run.train(little_run(tmp_path / "run", model, data, max_steps=1))
    assert ("has never seen a photograph" in capsys.readouterr().out) is warned


def test_rates_are_those_of_the_table(little: Little) -> None:
    """With a connector rate next to nothing, connector and refinement hardly move."""
    before = load_file(little.model / "model.safetensors")
    after = load_file(little.train("rates", connector_lr=1e-9) / "model.safetensors")
    moved = {name: float((before[name] - after[name]).abs().max()) for name in before}
    assert max(moved[n] for n in moved if part_of(n) in ("connector", "refinement")) < 1e-7
    assert min(moved[n] for n in moved if part_of(n) == "lm_head") > 1e-4


# ---------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("packing", ["none", "one-row"])
def test_micro_batches_and_packing_do_not_change_the_loss(little: Little, packing: str) -> None:
    """1 x 4 = accumulation 4 x 1, although the answers are of unlike lengths."""
    whole = little.losses("one-by-four") or (little.train("one-by-four"), little.losses("one-by-four"))[1]
    little.train(f"four-by-one-{packing}", micro_batch_size=1, packing=packing)
    assert little.losses(f"four-by-one-{packing}") == pytest.approx(whole, abs=1e-5)
    little.train(f"packing-{packing}", packing=packing)
    assert little.losses(f"packing-{packing}") == pytest.approx(whole, abs=1e-5)


def test_cached_features_are_the_pixels(little: Little, capsys: pytest.CaptureFixture[str]) -> None:
    cache = little.folder / "cache"
    words = [str(little.data), "--model", str(little.model), "--out", str(cache), "--batch", "3"]
    assert cache_features.main(words) == 0
    assert "6 pictures, 6 computed now" in capsys.readouterr().out
    cache_features.main(words)
    assert "6 pictures, 0 computed now" in capsys.readouterr().out
    little.train("pixels")
    little.train("cached", features=str(cache))
    assert little.losses("cached") == pytest.approx(little.losses("pixels"), rel=2e-3)  # bf16
    assert little.losses("cached") != little.losses("pixels")
    other = little_model(little.folder / "other", seed=1)
    with pytest.raises(InputError, match="expected those of this model's tower and preprocessing"):
        little.train("stale", features=str(cache), model=str(other))


def test_a_picture_that_changed_or_is_new_stops_a_cached_run(tmp_path: Path) -> None:
    little = Little(tmp_path)
    cache_features.main([str(little.data), "--model", str(little.model), "--out", str(tmp_path / "cache")])
    picture = tmp_path / "data" / "pictures" / "1.png"
    picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"1\.png.*none for its content"):
        little.train("changed", features=str(tmp_path / "cache"), max_steps=8)


# ---------------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("method", [{}, LORA], ids=["full", "lora"])
def test_a_run_that_broke_off_continues_exactly(
    little: Little, stops_at: Any, method: dict[str, Any]
) -> None:
    name = "lora" if method else "full"
    settings = {"max_steps": 12, "save_every": 3, "workers": 0 if method else 1, **method}
    result = little.train(f"{name}-whole", **settings)
    for step in (5, 11):
        stops_at(step)
        with pytest.raises(ConnectionError):
            little.train(f"{name}-broken", resume=True, **settings)
    stops_at(None)
    again = little.train(f"{name}-broken", resume=True, **settings)
    assert little.losses(f"{name}-broken") == little.losses(f"{name}-whole")
    file = "adapter_model.safetensors" if method else "model.safetensors"
    one, other = load_file(result / file), load_file(again / file)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert little.train(f"{name}-broken", resume=True, **settings) == again  # finished: nothing to do


def test_a_folder_with_a_run_is_not_overwritten(little: Little) -> None:
    little.train("twice", max_steps=1)
    with pytest.raises(InputError, match="which holds a run; add --resume to continue it"):
        little.train("twice", max_steps=1)
    with pytest.raises(InputError, match="expected the settings it began with, got another lr"):
        little.train("twice", resume=True, max_steps=1, lr=1.0)


# ---------------------------------------------------------------------------------------------- bad samples


def test_a_corrupt_picture_stops_the_run_with_its_path_or_is_listed(tmp_path: Path) -> None:
    little = Little(tmp_path)
    (tmp_path / "data" / "pictures" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"pictures/1\.png"):
        little.train("stop", max_steps=10)
    little.train("skip", max_steps=10, on_bad_sample="skip")
    bad = [json.loads(line) for line in (tmp_path / "skip" / "bad_samples.0.jsonl").read_text().splitlines()]
    assert len(bad) == 5 and all("1.png" in row["reason"] for row in bad)  # 1, 9, 17, 25, 33 of 40
    assert len(little.losses("skip")) == 10


# ---------------------------------------------------------------------------------------------- other ways


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"gradient_checkpointing": True}, 1e-5),
        ({"precision": "bf16"}, 0.05),
        ({"group_by_length": False}, None),
    ],
    ids=str,
)
def test_other_settings_train_the_same(
    little: Little, changes: dict[str, Any], tolerance: float | None
) -> None:
    name = "-".join(changes)
    little.train(name, **changes)
    if tolerance is not None:
        whole = little.losses("one-by-four") or (little.train("one-by-four"), little.losses("one-by-four"))[1]
        assert little.losses(name) == pytest.approx(whole, abs=tolerance)
    assert all(loss > 0 for loss in little.losses(name))


def test_stage_2_starts_where_stage_1_ended(little: Little) -> None:
    aligned = little.train("stage-1", stage="align", skip_stage_1=False)
    tuned = little.train("stage-2", model=str(aligned), skip_stage_1=False)
    assert load(tuned)[0].num_parameters() == load(aligned)[0].num_parameters()
    with pytest.raises(InputError, match="finished stage-1 run"):
        little.train("stage-2-of-2", model=str(tuned), skip_stage_1=False)


def test_qlora_without_its_library_is_one_sentence(little: Little, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="method qlora: expected the library bitsandbytes"):
        little.train("qlora", method="qlora")

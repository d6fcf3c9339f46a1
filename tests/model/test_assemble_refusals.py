"""What is wrong with a checkpoint is said in one sentence, and nothing is left behind; memory stays near a
shard."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from rgpt.cli import main
from rgpt.errors import InputError
from rgpt.model import assemble_write, load
from rgpt.model.assemble import Options, assemble_llava, assemble_parts
from rgpt.model.assemble_sources import FileWeights, find_source
from rgpt.model.assemble_write import shard_bytes
from tests.model.checkpoints import make_clip, make_llava, make_llm, rewrite
from tests.model.tiny_models import LM, make_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    make_llava(folder, shard="40KB")
    return folder


@pytest.fixture
def llava(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "llava"))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the tensors of the first shard, and the index with them."""
    tensors = load_file(shards(folder)[0])
    before = set(tensors)
    change(tensors)
    save_file(tensors, shards(folder)[0], {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    for key in before - set(tensors):
        del weight_map[key]
    weight_map |= dict.fromkeys(set(tensors) - before, shards(folder)[0].name)
    rewrite(index, weight_map=weight_map)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda f: shutil.rmtree(f), "there is no folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), r"config\.json is no JSON"),
    "another type": (lambda f: rewrite(f / "config.json", model_type="blip-2"), "'blip-2', not a 'llava'"),
    "original code": (lambda f: rewrite(f / "config.json", mm_vision_tower="x"), "transformers form"),
    "layers joined": (
        lambda f: rewrite(f / "config.json", vision_feature_layer=[-2, -1]),
        r"layers \[-2, -1\]",
    ),
    "no such layer": (lambda f: rewrite(f / "config.json", vision_feature_layer=9), "layer 9"),
    "class token kept": (
        lambda f: rewrite(f / "config.json", vision_feature_select_strategy="full"),
        "17 tokens",
    ),
    "wrong token id": (
        lambda f: rewrite(f / "config.json", image_token_index=7),
        "token 100 in the tokenizer",
    ),
    "missing shard": (lambda f: shards(f)[1].unlink(), "is missing though its index names it"),
    "truncated shard": (lambda f: truncate(shards(f)[1]), r"model-00002-of-.*cannot be read"),
    "missing key": (
        lambda f: edit(f, lambda t: t.pop("language_model.lm_head.weight")),
        r"lacks 1 weights, .*lm_head\.weight",
    ),
    "surplus key": (lambda f: edit(f, lambda t: t.update(extra=torch.zeros(2))), "no place for, first extra"),
    "wrong shape": (
        lambda f: edit(f, lambda t: t.update({"language_model.lm_head.weight": torch.zeros(3, 3)})),
        r"lm_head\.weight has the shape \[3, 3\]",
    ),
    "no weights": (lambda f: [p.unlink() for p in f.glob("model*")], "holds no weights"),
    "index lies": (
        lambda f: rewrite(f / "model.safetensors.index.json", weight_map={"ghost": shards(f)[0].name}),
        "first ghost",
    ),
    "region token": (lambda f: make_tokenizer().save_pretrained(f), "already has <region>"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "tokenizer of"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_wrong_checkpoint_is_named_and_nothing_is_written(
    name: str, llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = DAMAGE[name]
    damage(llava)
    assert main(["assemble", "--llava", str(llava), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().split("\n")[-1]
    assert said.startswith("rgpt assemble: ") and __import__("re").search(words, said), said
    assert {path.name for path in tmp_path.iterdir()} <= {"llava"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "--out"),
        (["--out", "x"], "exactly one of"),
        (["--llava", "a", "--vision", "b", "--llm", "c", "--out", "x"], "exactly one of"),
        (["--vision", "b", "--out", "x"], "exactly one of"),
        (["--llava", "a", "--merge-grid", "0", "--out", "x"], "--merge-grid is 0"),
        (["--spatialrgpt", "a", "--refinement", "none", "--out", "x"], "cannot be chosen"),
        (["--llava", "./nowhere", "--out", "x"], "there is no folder"),
        (["--llava", "README.md", "--out", "x"], "is a file"),
        (["--vision", "open_clip:ViT-L-14", "--llm", "c", "--out", "x"], "names no model and tag"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assemble", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not Path("x").exists()


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repository: str, **options: Any) -> str:
        asked.append((repository, options["revision"]))
        raise OSError("no route to host")

    asked: list[Any] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(
        InputError, match=r"owner/name is no folder, and the hub gave no such checkpoint .no route to host"
    ):
        find_source("owner/name")
    with pytest.raises(InputError):
        find_source("owner/name@v2")
    assert asked == [("owner/name", None), ("owner/name", "v2")]


def test_a_hub_snapshot_tells_its_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, llava: Path
) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123abcd"
    shutil.copytree(llava, snapshot)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(snapshot))
    assemble_llava("owner/name", tmp_path / "out")
    source = json.loads((tmp_path / "out" / "provenance.json").read_text())["sources"][0]
    assert (source["id"], source["revision"]) == ("owner/name", "0123abcd")


def test_a_folder_in_use_is_left_alone(llava: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        assemble_llava(str(llava), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    (tmp_path / "out" / "mine.txt").unlink()
    assemble_llava(str(llava), tmp_path / "out")  # an empty folder is as good as none
    assert (tmp_path / "out" / "config.json").is_file()
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_a_small_disk_is_told_before_writing(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble_write.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(InputError, match=r"0\.00 GB free but the model needs 0\.07 GB"):
        assemble_llava(str(llava), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["llava"]


@pytest.mark.parametrize("after", [0, 2])
def test_a_disk_that_fills_up_leaves_nothing(
    after: int, llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def full(tensors: Any, path: Path, **options: Any) -> None:
        if len(written) == after:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, **options)
        written.append(path)

    monkeypatch.setattr(assemble_write, "save_file", full)
    with pytest.raises(InputError, match="the disk is full"):
        assemble_llava(str(llava), tmp_path / "out", Options(max_shard_size="30KB"))
    assert len(written) == after and [path.name for path in tmp_path.iterdir()] == ["llava"]


def test_a_killed_run_leaves_no_target(llava: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom rgpt.model import assemble, assemble_write\n"
        "save = assemble_write.save_file\n"
        "def slow(*a, **k):\n    save(*a, **k); print('wrote', flush=True); time.sleep(60)\n"
        "assemble_write.save_file = slow\n"
        "assemble.assemble_llava(sys.argv[1], sys.argv[2], assemble.Options(max_shard_size='30KB'))\n"
    )
    command = [sys.executable, "-c", program, str(llava), str(tmp_path / "out")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stdout is not None
        while "wrote" not in (line := run.stdout.readline()):
            assert line, "the run ended before it wrote anything"
        os.kill(run.pid, signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    left = [path.name for path in tmp_path.iterdir() if path.name != "llava"]
    assert len(left) == 1 and left[0].startswith(".out.") and left[0].endswith(".partial")
    assemble_llava(str(llava), tmp_path / "out")  # and is no obstacle
    load(tmp_path / "out", device="cpu")


def test_assembled_folders_are_checked_on_opening(llava: Path, tmp_path: Path) -> None:
    assemble_llava(str(llava), tmp_path / "out", Options(max_shard_size="30KB"))
    again = load(tmp_path / "out", device="cpu")[0]
    state = again.state_dict()
    assert all(
        torch.equal(v, state[k]) for k, v in load(tmp_path / "out", device="cpu")[0].state_dict().items()
    )
    broken = Path(shutil.copytree(tmp_path / "out", tmp_path / "broken"))
    truncate(shards(broken)[1])
    with pytest.raises(InputError, match="broken"):
        load(broken, device="cpu")
    shards(broken)[1].unlink()
    with pytest.raises(InputError, match="broken"):
        load(broken, device="cpu")
    for change, words in (
        (lambda t: t.update(extra=torch.zeros(2)), "has the unknown 1 weights, first extra"),
        (lambda t: t.pop(sorted(t)[0]), "lacks 1 weights"),
    ):
        shutil.rmtree(broken)
        shutil.copytree(tmp_path / "out", broken)
        edit(broken, change)
        with pytest.raises(InputError, match=words):
            load(broken, device="cpu")


def test_two_language_models_are_not_a_start(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip")
    make_llm(tmp_path / "llm")
    with pytest.raises(InputError, match="not a causal language model"):
        assemble_parts(str(tmp_path / "clip"), str(tmp_path / "clip"), tmp_path / "out")
    with pytest.raises(InputError, match=r"tower of .* cannot read one|preprocessor_config"):
        assemble_parts(str(tmp_path / "llm"), str(tmp_path / "llm"), tmp_path / "out")


def test_pickles_with_code_are_not_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "owned"),))

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Evil()}))
    with pytest.raises(InputError, match=r"pytorch_model\.bin cannot be read"):
        FileWeights(tmp_path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "text, size", [("2GB", 2 * 10**9), ("30kb", 30_000), ("1.5 MB", 1_500_000), (7, 7), ("9", 9)]
)
def test_shard_sizes(text: Any, size: int) -> None:
    assert shard_bytes(text) == size


@pytest.mark.parametrize("text", ["", "big", "0GB", "-1GB", "1.2.3MB", "2TB"])
def test_wrong_shard_sizes(text: str) -> None:
    with pytest.raises(InputError, match="shard size"):
        shard_bytes(text)


MEASURE = """
import sys
from rgpt.commands.assemble import peak_memory
from rgpt.model import assemble
import rgpt.model.assemble_plan, transformers, open_clip, sentencepiece
import transformers.models.llama.modeling_llama, transformers.models.clip.modeling_clip
transformers.utils.logging.set_verbosity_error()
before = peak_memory()
assemble.assemble_parts(sys.argv[1], sys.argv[2], sys.argv[3], assemble.Options(max_shard_size="20MB"))
print(peak_memory() - before)
"""


@pytest.mark.parametrize("form", ["safetensors", pytest.param("bin", marks=pytest.mark.slow)])
def test_memory_stays_near_the_largest_shard(form: str, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip")
    torch.manual_seed(0)
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 12}
    model = LlamaForCausalLM(LlamaConfig(**{**LM, **wide, "num_key_value_heads": 8, "vocab_size": 1000}))
    model.save_pretrained(tmp_path / "llm", max_shard_size="20MB")
    make_tokenizer(placeholders=False).save_pretrained(tmp_path / "llm")
    if form == "bin":
        weights: dict[str, str] = {}
        for path in shards(tmp_path / "llm"):
            name = path.name.replace("model-", "pytorch_model-").replace("safetensors", "bin")
            torch.save(tensors := load_file(path), tmp_path / "llm" / name)
            weights |= dict.fromkeys(tensors, name)
            path.unlink()
        (tmp_path / "llm" / "model.safetensors.index.json").unlink()
        (tmp_path / "llm" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weights}))
    whole = sum(parameter.numel() * 4 for parameter in model.parameters())
    del model
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in ("clip", "llm", "out"))],
        cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    grown = int(run.stdout.split()[-1])
    print(f"model {whole / 1e6:.0f} MB, shards of 20 MB, memory grew by {grown / 1e6:.0f} MB")
    assert whole > 190e6 and 10e6 < grown < 0.4 * whole
    load(tmp_path / "out", device="cpu")

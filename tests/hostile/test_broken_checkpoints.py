"""Whatever is in a checkpoint's files: it opens, or one sentence says why not, and none of its code runs."""

from __future__ import annotations

import ast
import json
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rgpt.errors import InputError
from rgpt.hub import ATTENTION, check_attention
from rgpt.model import load
from rgpt.model.loading import TINY
from tests.hostile.mutations import break_file
from tests.model.test_bases import little_adapter

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """`tiny`, the same in several files with an index, and an adapter on it."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(TINY, folder / "model")
    model, processor = load(folder / "model", device="cpu")
    model.save_pretrained(folder / "sharded", max_shard_size="1MB")
    processor.save_pretrained(folder / "sharded")
    little_adapter(folder / "adapter", folder / "model")
    return {name: folder / name for name in ("model", "sharded", "adapter")}


@pytest.fixture
def copy(whole, tmp_path) -> Callable[[str], Path]:
    def make(kind: str) -> Path:
        shutil.rmtree(tmp_path / "all", ignore_errors=True)
        for name in {"model", kind}:
            shutil.copytree(whole[name], tmp_path / "all" / name)
        return tmp_path / "all" / kind

    return make


def opens(folder: Path) -> str:
    """What is wrong with a checkpoint, in one sentence; "" where it opens."""
    try:
        load(folder, device="cpu")
        return ""
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 700, str(error)
        return str(error)


FILES = {
    "model": {
        "config.json": 6, "model.safetensors": 4, "tokenizer.json": 2, "tokenizer_config.json": 1,
        "processor_config.json": 3, "generation_config.json": 1, "about.json": 1, "chat_template.jinja": 1,
    },
    "sharded": {"model.safetensors.index.json": 1},
    "adapter": {"adapter_config.json": 3, "adapter_model.safetensors": 2, "base.json": 1},
}  # fmt: skip


def broken_in(copy: Callable[[str], Path], kind: str, count: int, seed: int) -> int:
    """Break one file after the other; how many did not open any more."""
    draw, refused = random.Random(f"{kind} {seed}"), 0
    for _ in range(count):
        folder, one = copy(kind), draw.getrandbits(40)
        file = folder / draw.choices(list(FILES[kind]), list(FILES[kind].values()))[0]
        break_file(file, one)
        try:
            refused += bool(opens(folder))
        except BaseException as error:
            pytest.fail(f"{kind}/{file.name} broken by {one}: {type(error).__name__}: {error}")
    return refused


@pytest.mark.parametrize(("kind", "count"), [("model", 12), ("sharded", 3), ("adapter", 6)])
def test_a_broken_file_is_one_sentence(copy, kind, count) -> None:
    assert broken_in(copy, kind, count, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("model", 150), ("sharded", 15), ("adapter", 60)])
def test_many_broken_files_are_one_sentence(copy, kind, count) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert broken_in(copy, kind, count, 1) > count / 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_config", "num_hidden_layers", 10**9),
        ("text_config", "vocab_size", 10**9),
        ("text_config", "head_dim", 10**6),
        ("vision_config.backbone_config", "depths", [10**9] * 3),
    ],
)
def test_what_a_configuration_claims_takes_no_memory(copy, part, key, value) -> None:
    folder = copy("model")
    config = json.loads((folder / "config.json").read_text())
    inner: Any = config
    for name in part.split("."):
        inner = inner[name]
    inner[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert opens(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_no_code_of_a_checkpoint_runs_and_none_is_fetched(copy) -> None:
    folder = copy("model")
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Evil: pass\n")
    for name, keys in (
        ("config.json", ("AutoConfig", "AutoModel")),
        ("tokenizer_config.json", ("AutoTokenizer",)),
    ):
        value = json.loads((folder / name).read_text())
        value["auto_map"] = {key: "evil.Evil" for key in keys}
        (folder / name).write_text(json.dumps(value))
    opens(folder)
    assert not (folder / "ran").exists()

    # The name of a repository instead of an implementation: transformers would fetch and import it.
    for where in ({}, {"text_config": {}}):
        folder = copy("model")
        config = json.loads((folder / "config.json").read_text())
        (config["text_config"] if where else config)["attn_implementation"] = "owner/kernel"
        (folder / "config.json").write_text(json.dumps(config))
        assert "attn_implementation: expected one of" in opens(folder)
    for chosen in ("owner/kernel", {"text_config": "owner/kernel"}, "paged|owner/kernel"):
        with pytest.raises(InputError, match="attn_implementation"):
            load(TINY, device="cpu", attn_implementation=chosen)
    for chosen in (None, *ATTENTION, {"text_config": "sdpa"}):
        check_attention(chosen)


def test_a_pattern_of_an_adapter_is_matched_quickly(copy) -> None:
    for pattern in ("(a+)+$", "(.*)*x", ".*.*.*.*.*x", "(a|aa){9}", "[", 5, ["a", 5]):
        folder = copy("adapter")
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": pattern}))
        # Its digest is that of the base alone, so that the pattern is what is wrong.
        assert "target_modules" in opens(folder), pattern


def test_every_checkpoint_is_opened_in_one_place() -> None:
    """`rgpt.hub.open_pretrained` passes trust_remote_code=False; scripts open what this repository made."""
    found = []
    for room in ("rgpt", "app", "eval", "data_recipes"):
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    kind = getattr(node.func.value, "id", "")
                    if node.func.attr == "from_pretrained" and kind != "ChatSession":
                        found.append(file.relative_to(ROOT).as_posix())
    assert found == ["rgpt/hub.py"]

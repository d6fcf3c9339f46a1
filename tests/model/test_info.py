"""`rgpt info`: exact counts without weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from rgpt.cli import main
from rgpt.errors import InputError
from rgpt.model import RegionGPTForConditionalGeneration
from rgpt.model.sizes import check_length, find_config, measure
from tests.model.tiny_models import LM, make_config, make_model

ROOT = Path(__file__).parents[2]


def info(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["info", *arguments]) == 0
    return capsys.readouterr().out


def test_the_papers_model(capsys: pytest.CaptureFixture[str]) -> None:
    text = info(capsys, "paper", "--length", "2048")
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()}
    assert lines["vision_tower"].split()[2:] == ["304M", "frozen", "frozen"]
    assert "language model with its head: 6.74B" in text
    channels, width = 1024, 4096
    deconv, norm = channels * channels * 4 + channels, 2 * channels
    assert lines["refinement"].split()[1:] == [f"{2 * deconv + norm:,}", "8.39M", "trained", "trained"]
    connector = channels * width + width + width * width + width
    assert lines["connector"].split()[1] == f"{connector:,}"
    assert lines["language_model"].split()[3:] == ["frozen", "trained"]
    assert "576 tokens" in text and "24 x 24 cells" in text and "96 x 96" in text
    # 32 layers x 2 x 32 heads x 128 x 2 bytes x 2048 tokens = 1 GiB of keys and values
    assert lines["bf16"].split()[1:] == ["13.17", "GiB", "1.00", "GiB", "14.17", "GiB"]


def test_parts_add_up_for_every_kind(kind: str) -> None:
    for changes in (
        {},
        {"refinement": "residual", "region_projector": "linear"},
        {"refinement": "none"},
        {"region_geometry": True},
    ):
        config = make_config(kind, **changes)
        sizes = measure(config)
        model = RegionGPTForConditionalGeneration(config)
        assert sizes.parameters == sum(p.numel() for p in model.parameters())
        real = sum(2 * p.numel() for p in model.parameters())
        real += sum(b.numel() * b.element_size() for b in model.buffers())
        assert sizes.weights["bf16"] == real
        assert sizes.weights["4-bit"] < sizes.weights["8-bit"] < sizes.weights["bf16"]


def test_keys_are_those_of_a_real_cache() -> None:
    model = make_model().to(torch.bfloat16)
    ids = torch.arange(5, 12)[None].repeat(3, 1)
    cache = model(input_ids=ids, use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert measure(model.config).keys(length=7, batch=3) == held


def test_a_tied_head_counts_once() -> None:
    config = make_config(text_config=LlamaConfig(**LM, tie_word_embeddings=True))
    sizes = measure(config)
    assert sizes.parts["lm_head"] == 0
    assert sizes.parameters == sum(p.numel() for p in RegionGPTForConditionalGeneration(config).parameters())


def test_json_and_a_folder_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_config().save_pretrained(tmp_path)
    report: dict[str, Any] = json.loads(
        info(capsys, str(tmp_path), "--json", "--length", "100", "--batch", "2")
    )
    assert report["picture"] == {"pixels": 28, "tower_grid": 4, "refined_grid": 16, "tokens": 4}
    assert report["bytes"]["bf16"]["keys"] == measure(make_config()).keys(100, 2)
    assert report["trained"]["align"] == ["refinement", "connector"]


@pytest.mark.slow
def test_memory_stays_small() -> None:
    program = (
        "from rgpt.commands.assemble import peak_memory\nfrom rgpt.model.sizes import find_config, measure\n"
        "measure(find_config('tiny'))\nbefore = peak_memory()\nmeasure(find_config('paper'))\n"
        "print(peak_memory() - before)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
    )
    assert int(run.stdout.split()[-1]) < 100e6, "7B parameters must not be allocated"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "model"),
        (["./nowhere"], "there is no folder ./nowhere"),
        (["paper", "--length", "5000"], "--length is 5000 but the context holds 1 to 4096"),
        (["paper", "--length", "0"], "--length is 0"),
        (["paper", "--batch", "0"], "--batch is 0"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_another_model_is_named(tmp_path: Path) -> None:
    LlamaConfig(**LM).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'llama', not 'regiongpt'"):
        find_config(str(tmp_path))
    assert check_length(make_config(), None) == 512

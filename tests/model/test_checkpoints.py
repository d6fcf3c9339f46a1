"""Every row of docs/checkpoints.md, run again: one of each kind by default, all with `-m slow`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from rgpt.errors import InputError
from rgpt.fetch import fetch
from rgpt.model import load
from rgpt.model.assemble import Options, assemble_parts
from rgpt.model.photo_base import LANGUAGE_MODEL, NETWORK, language_folder, tower_folder
from scripts.checkpoint_kinds import HEADS, REFUSED, TEXT, TIMM, VISION, save_text, save_vision
from scripts.checkpoints import main, try_text, try_vision

DOCUMENT = Path(__file__).parents[2] / "docs" / "checkpoints.md"
QUICK = (
    "cohere", "gemma2", "gpt2", "gptj", "granite", "jamba", "mamba", "mistral",
    "altclip", "dinov2_with_registers", "hiera", "pixtral", "resnet", "sam", "yolos", "vit_mae",
    "ViTForImageClassification",
)  # fmt: skip
"""Multiplied, capped, other names, a bias in the head, divided, a state, none to take back, a window; other
names, registers, windowed tokens, one row a batch, a map, channels last, tokens behind, hidden patches, a
head."""


def rows(*tables: Any) -> list[Any]:
    names = [name for table in tables for name in table]
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def agrees(row: Any) -> None:
    assert bool(row.refused) == (row.name in REFUSED) and REFUSED.get(row.name, "") in row.refused
    assert row.works or row.refused, row.cells
    assert row.line() in DOCUMENT.read_text("utf-8").splitlines()


@pytest.mark.parametrize("name", rows(TEXT))
@torch.no_grad()
def test_a_language_model(name: str, folder: Path) -> None:
    agrees(try_text(name, folder))


@pytest.mark.parametrize("name", rows(VISION, HEADS, TIMM))
@torch.no_grad()
def test_a_tower(name: str, folder: Path) -> None:
    agrees(try_vision(name, folder))


def test_the_page_has_a_row_for_every_type_and_no_other() -> None:
    lines = [line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("| ")]
    told = [line.split(" | ")[0].removeprefix("| ") for line in lines if not line.startswith("| |")]
    assert told == [*VISION, *HEADS, *TIMM, *TEXT]
    assert (
        sum(name not in REFUSED for name in VISION) >= 30 and sum(name not in REFUSED for name in TEXT) >= 40
    )


def test_a_cell_that_fails_is_told_and_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head whose logits are a little off, in place of a model that comes out wrong."""
    with monkeypatch.context() as patch:
        patch.setattr("scripts.checkpoints._near", lambda ours, theirs: torch.equal(ours + 1, theirs))
        assert main(["--types", "gpt2"]) == 1
    assert "| gpt2 | yes | yes | no | yes | yes | yes |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, layer, words",
    [
        ("hgnet_v2", "last", "gives no last_hidden_state"),
        ("vit", 4, "takes layer 4 of its tower, which offers 4"),
        ("maskformer-swin", -1, "which offers 0"),
    ],
)
def test_a_layer_that_a_tower_does_not_have(
    name: str, layer: Any, words: str, folder: Path, tmp_path: Path
) -> None:
    save_vision(name, tmp_path / "tower")
    save_text("llama", tmp_path / "llm")
    with pytest.raises(InputError, match=words):
        assemble_parts(
            str(tmp_path / "tower"), str(tmp_path / "llm"), tmp_path / "out", Options(vision_layer=layer)
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@torch.no_grad()
def test_the_parts_of_photo_as_published(tmp_path: Path) -> None:
    """Real weights: SmolLM2's logits and EfficientNet's map are the published ones, bit for bit."""
    try:
        gguf, network = fetch(LANGUAGE_MODEL), fetch(NETWORK)
    except InputError as error:
        pytest.skip(f"the published parts are not to be had here: {error}")
    language_folder(gguf, tmp_path / "llm")
    tower_folder(network, tmp_path / "tower")
    assemble_parts(
        str(tmp_path / "tower"), str(tmp_path / "llm"), tmp_path / "out",
        Options(refinement="bilinear", merge_grid=7, chat_template="qwen"),
    )  # fmt: skip
    model = load(tmp_path / "out", device="cpu")[0].float().eval()
    theirs = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name).eval()
    ids = torch.arange(40)[None] * 97 + 300
    rows = theirs.config.vocab_size
    assert torch.equal(model(input_ids=ids).logits[..., :rows], theirs(input_ids=ids).logits)
    published = list(torch.load(network, map_location="cpu", weights_only=True).values())
    held = iter(published)  # the same order; a tower has no classifier
    for value in model.model.vision_tower.state_dict().values():
        assert any(torch.equal(value, each) for each in held if each.shape == value.shape)
    pixels = torch.randn(1, 3, 448, 448)
    tower = AutoModel.from_pretrained(tmp_path / "tower").eval()
    assert torch.equal(model.model.vision_features(pixels), tower(pixels).last_hidden_state)


@pytest.mark.parametrize("lost, words", [("pooler", ""), ("vit.layernorm.weight", "lacks 1 weights")])
def test_a_classifier_lacks_its_pooler_and_nothing_else(lost: str, words: str, tmp_path: Path) -> None:
    save_vision("ViTForImageClassification", tmp_path / "tower")
    save_text("llama", tmp_path / "llm")
    file = tmp_path / "tower" / "model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if key != lost}, file, {"format": "pt"})
    sources = str(tmp_path / "tower"), str(tmp_path / "llm")
    if words:
        with pytest.raises(InputError, match=words):
            assemble_parts(*sources, tmp_path / "out")
        return
    done = assemble_parts(*sources, tmp_path / "out")
    zeros = json.loads((tmp_path / "out" / "provenance.json").read_text())["zeros"]
    assert [name.rpartition(".pooler.")[2] for name in zeros] == ["dense.bias", "dense.weight"]
    assert not any("pooler" in name for name in done.fresh)

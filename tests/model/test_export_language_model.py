"""`rgpt export-lm`: a plain causal model with the same logits on embeddings, whatever its kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgpt import cli
from rgpt.errors import InputError
from rgpt.model.assemble import assemble_parts
from rgpt.model.export_language_model import export_language_model
from rgpt.model.loading import load
from rgpt.regions import Box
from scripts.checkpoint_kinds import save_text
from tests.model.checkpoints import make_clip
from tests.model.test_bases import little_adapter
from tests.model.tiny_models import make_picture
from tests.train.little import little_model

QUICK = ("gemma2", "granite", "cohere", "mistral", "gpt2", "gptj", "jamba")
"""One of each: capped, divided, multiplied, a window, other names, a bias in the head, a state."""
SLOW = ("granitemoe", "cohere2", "mixtral", "gpt_neox", "bloom", "opt", "phi")
KINDS = [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    make_clip(folder)
    return str(folder)


def embeddings(model: Any, processor: Any) -> torch.Tensor:
    """`[1, L, D]` of a question about a picture and a region, as an engine gets them."""
    batch = processor(text="<image>\nIs <region1> red?", images=make_picture(), regions=[Box(3, 3, 20, 20)])
    seen: list[torch.Tensor] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**batch)
    hook.remove()
    return seen[0]


def check_equal(source: Path | str, out: Path) -> None:
    model, processor = load(source, device="cpu")
    alone, report = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    given = embeddings(model, processor)
    with torch.no_grad():
        expected = model(inputs_embeds=given).logits
        assert torch.allclose(alone.eval()(inputs_embeds=given).logits, expected, atol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_logits_on_embeddings(kind: str, clip: str, tmp_path: Path) -> None:
    """Scaled, capped, with a bias in the head, tied or not, under names of its own."""
    save_text(kind, tmp_path / "llm")
    assemble_parts(clip, str(tmp_path / "llm"), tmp_path / "model")
    export_language_model(tmp_path / "model", tmp_path / "out")
    check_equal(tmp_path / "model", tmp_path / "out")


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    little_model(tmp_path / "base")
    adapter = little_adapter(tmp_path / "adapter", tmp_path / "base")
    export_language_model(adapter, tmp_path / "out")
    check_equal(adapter, tmp_path / "out")
    with pytest.raises(AssertionError):
        check_equal(tmp_path / "base", tmp_path / "out")


def test_the_command_writes_a_whole_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["export-lm", "--model", "tiny", "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    check_equal("tiny", out)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and "auto_map" not in config
    assert config["dtype"] == "float16", "as tiny is saved"
    model, processor = load("tiny", device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    ends = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert ends == model.generation_config.eos_token_id
    assert cli.main(["export-lm", "--model", "tiny", "--out", str(out)]) == 2
    assert "a new folder" in capsys.readouterr().err


def test_another_step_after_the_head_is_refused(
    clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_text("granite", tmp_path / "llm")
    assemble_parts(clip, str(tmp_path / "llm"), tmp_path / "model")
    monkeypatch.setattr("rgpt.model.modeling_regiongpt.finish_logits", lambda logits, config: logits)
    with pytest.raises(InputError, match="GraniteForCausalLM computes other logits"):
        export_language_model(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""Language models of every kind, saved by the library: the same logits, and chats past their windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.model.assemble import assemble_parts
from rgpt.model.loading import load
from rgpt.model.modeling_regiongpt import finish_logits
from rgpt.regions import Box
from tests.model.checkpoints import make_clip
from tests.model.tiny_models import make_tokenizer

SHAPE = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip
OLD_NAMES = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
WINDOW = {"sliding_window": 16}
SCALED = {"embedding_multiplier": 3.0, "logits_scaling": 4.0, "residual_multiplier": 0.5}
KINDS: dict[str, dict[str, Any]] = {
    "gemma2": {**SHAPE, **WINDOW, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "granite": {**SHAPE, **SCALED},
    "granitemoe": {**SHAPE, **SCALED, **EXPERTS},
    "cohere": {**SHAPE, "logit_scale": 0.25},
    "cohere2": {**SHAPE, **WINDOW, "logit_scale": 0.25},
    "mistral": {**SHAPE, **WINDOW},
    "mixtral": {**SHAPE, **EXPERTS},
    "jamba": {
        **SHAPE, "num_experts": 2, "mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1,
    },
    "gpt2": OLD_NAMES,
    "gptj": {**OLD_NAMES, "rotary_dim": 4},
    "gpt_neox": {key: SHAPE[key] for key in SHAPE if key not in ("num_key_value_heads", "head_dim")},
    "bloom": {"vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "opt": {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": SHAPE,
}  # fmt: skip
QUICK = ("gemma2", "granite", "cohere", "mistral", "gpt2", "gptj", "jamba")
"""One of each: capped, divided, multiplied, a window, other names, a bias in the head, a state."""


def save(kind: str, folder: Path, **changes: Any) -> Any:
    torch.manual_seed(3)
    config = CONFIG_MAPPING[kind](**KINDS[kind], bos_token_id=1, eos_token_id=2, pad_token_id=0, **changes)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # every weight has an effect
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    model.save_pretrained(folder)
    make_tokenizer(placeholders=False).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    make_clip(folder)
    return str(folder)


def kinds() -> list[Any]:
    return [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize("kind", kinds())
def test_logits_are_the_sources_and_three_turns_the_same_with_and_without_keys(
    kind: str, clip: str, tmp_path: Path
) -> None:
    source = save(kind, tmp_path / "llm")
    assemble_parts(clip, str(tmp_path / "llm"), tmp_path / "out")
    model, processor = load(str(tmp_path / "out"))[:2]
    model = model.float().eval()
    ids = torch.randint(3, 90, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = source(input_ids=ids).logits
        assert torch.allclose(model(input_ids=ids).logits[..., :100], expected, atol=1e-5)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    said = []
    for fresh in (False, True):
        session = ChatSession(model, processor)
        session.set_image(picture)
        session.add_region(Box(5, 5, 30, 30))
        session.add_region(Box(20, 20, 60, 50))
        answers: list[Any] = []
        for question in ("What is <region1>?", "What is beside <region2>?", "Is <region1> a dog?"):
            for ask in (session.ask, session.rank):
                if fresh:
                    session._keys.clear()
                options = {"max_new_tokens": 6} if ask == session.ask else {"names": ["dog", "cat", "a bus"]}
                answers.append(ask(question, **options))  # type: ignore[operator]
        said.append(answers)
    for kept, read_again in zip(*said, strict=True):
        assert kept == (pytest.approx(read_again, abs=1e-4) if isinstance(kept, dict) else read_again)


def test_a_state_that_nothing_can_be_taken_back_from_is_refused(clip: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CONFIG_MAPPING["mamba"](vocab_size=100, hidden_size=32, num_hidden_layers=2, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llm")
    make_tokenizer(placeholders=False).save_pretrained(tmp_path / "llm")
    with pytest.raises(InputError, match="keeps a state in place of keys and values"):
        assemble_parts(clip, str(tmp_path / "llm"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_step_after_the_head_that_is_not_known_is_refused(
    clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what `finish_logits` knows, Granite is a model with logits of its own."""
    save("granite", tmp_path / "llm")
    monkeypatch.setattr("rgpt.model.assemble_head.finish_logits", lambda logits, config: logits)
    with pytest.raises(InputError, match="does more after its head"):
        assemble_parts(clip, str(tmp_path / "llm"), tmp_path / "out")


def test_a_stray_key_in_a_configuration_changes_nothing_unseen(clip: str, tmp_path: Path) -> None:
    """A Llama does not scale its logits, whatever its config.json holds: refused, not scaled."""
    KINDS["llama"] = SHAPE
    save("llama", tmp_path / "llm", logit_scale=0.5)
    with pytest.raises(InputError, match="does more after its head"):
        assemble_parts(clip, str(tmp_path / "llm"), tmp_path / "out")


def test_finished_logits() -> None:
    config = CONFIG_MAPPING["gemma2"](**KINDS["gemma2"])
    logits = torch.tensor([-100.0, 0.0, 0.1, 100.0])
    assert torch.allclose(finish_logits(logits, config), torch.tensor([-2.0, 0.0, 0.0999, 2.0]), atol=1e-4)

"""What a language model does after its head is kept or refused; `test_checkpoints` runs every kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING

from rgpt.errors import InputError
from rgpt.model.assemble import assemble_parts
from rgpt.model.modeling_regiongpt import finish_logits
from scripts.checkpoint_kinds import TEXT, save_text
from tests.model.checkpoints import make_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    make_clip(folder)
    return str(folder)


def test_a_step_after_the_head_that_is_not_known_is_refused(
    clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what `finish_logits` knows, Granite is a model with logits of its own."""
    save_text("granite", tmp_path / "llm")
    monkeypatch.setattr("rgpt.model.assemble_head.finish_logits", lambda logits, config: logits)
    with pytest.raises(InputError, match="does more after its head"):
        assemble_parts(clip, str(tmp_path / "llm"), tmp_path / "out")


def test_a_stray_key_in_a_configuration_changes_nothing_unseen(clip: str, tmp_path: Path) -> None:
    """A Llama does not scale its logits, whatever its config.json holds: refused, not scaled."""
    save_text("llama", tmp_path / "llm", logit_scale=0.5)
    with pytest.raises(InputError, match="does more after its head"):
        assemble_parts(clip, str(tmp_path / "llm"), tmp_path / "out")


def test_finished_logits() -> None:
    config = CONFIG_MAPPING["gemma2"](**TEXT["gemma2"])
    logits = torch.tensor([-100.0, 0.0, 0.1, 100.0])
    assert torch.allclose(finish_logits(logits, config), torch.tensor([-2.0, 0.0, 0.0999, 2.0]), atol=1e-4)

"""LLaVA's own records, read from its JSON, become LLaVA's own tokens and labels (Vicuna's real tokenizer)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rgpt.data.dataset import TrainingSet
from rgpt.data.mixture import Draw
from rgpt.data.sample_files import SampleFile
from rgpt.model import RegionGPTProcessor
from rgpt.model.conversation import Conversation
from tests.model import test_conversation
from tests.model.tiny_models import make_picture

vicuna, golden = test_conversation.vicuna, test_conversation.golden  # fixtures


@pytest.mark.parametrize("number", [0, 1])
def test_llavas_records_become_llavas_labels(
    tmp_path: Path,
    vicuna: RegionGPTProcessor,
    golden: dict[str, Any],
    number: int,
) -> None:
    make_picture().save(tmp_path / "p.png")
    talk = golden["conversations"][number]
    record = {"id": 7, "image": "p.png", "conversations": talk}
    (tmp_path / "s.json").write_text(json.dumps([record]))
    example = TrainingSet([SampleFile(tmp_path / "s.json")], vicuna)[Draw(0, 0)]
    assert isinstance(example, Conversation), example
    words = example.input_ids != vicuna.image_token_id
    case = golden["v1"][number]
    wanted = [position for position, token in enumerate(case["input_ids"]) if token != -200]
    assert example.input_ids[words].tolist() == [case["input_ids"][position] for position in wanted]
    assert example.labels[words].tolist() == [case["labels"][position] for position in wanted]
    assert int((~words).sum()) == vicuna.image_tokens
    assert (example.labels[~words] == -100).all()

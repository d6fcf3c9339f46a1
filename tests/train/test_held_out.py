"""Answers during training: what the chat says is what the library generates, of adapted models too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rgpt.data.dataset import TrainingSet, messages_of
from rgpt.data.sample_files import SampleFile
from rgpt.regions import open_image
from rgpt.train.adapters import add_adapters
from rgpt.train.arguments import Lora
from rgpt.train.evaluation import Question, answers
from tests.model.tiny_models import make_model, make_processor
from tests.train.little import little_mix


@pytest.mark.parametrize("template", [None, "vicuna"])
@pytest.mark.parametrize("adapted", [False, True])
def test_held_out_answers_are_those_of_the_library(
    tmp_path: Path, template: str | None, adapted: bool
) -> None:
    model: Any = make_model(seed=2)
    file = SampleFile(little_mix(tmp_path, 6))
    rows = TrainingSet([file], make_processor(model.config), chat_template=template)
    if adapted:
        model = add_adapters(model, Lora()).eval()
    samples = [file[row] for row in range(6)]
    table = answers(model, rows, [Question(row) for row in range(6)], max_new_tokens=5)
    assert table is not None
    for sample, row in zip(samples, table, strict=True):
        batch = rows.processor.encode_chat(
            messages_of(sample)[:1],
            template,
            images=None if sample.image is None else [open_image(sample.image)],
            regions=list(sample.regions) or None,
            add_generation_prompt=True,
        )
        ids = model.generate(**batch, max_new_tokens=5, do_sample=False)[0, batch["input_ids"].shape[1] :]
        words = rows.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert row == {"question": sample.turns[0].question, "truth": sample.turns[0].answer, "answer": words}
    assert len({row["answer"] for row in table}) > 1

"""Whatever its rows hold, a training batch calls the same layers in the same order.

ZeRO-3 gathers a layer's weights on all ranks when it is called; one rank that calls another layer would wait
for ever. So text-only rows and pictures without regions pass refinement and connector with one empty cell.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rgpt.data.collator import Collator, model_inputs
from rgpt.data.dataset import TrainingSet
from rgpt.data.mixture import Draw
from rgpt.data.sample_files import SampleFile
from rgpt.train.hidden_tower import hide_tower
from rgpt.train.stages import STAGES, apply_stage
from tests.model.tiny_models import make_model, make_processor
from tests.train.little import KINDS, little_mix

VARIANTS: list[dict[str, Any]] = [
    {},
    {"region_projector": "linear"},
    {"refinement": "none"},
    {"region_geometry": True},
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> SampleFile:
    return SampleFile(little_mix(tmp_path_factory.mktemp("mix"), 8))


def batch_of(file: SampleFile, model: nn.Module, kind: str) -> dict[str, Any]:
    rows = TrainingSet([file], make_processor(model.config))
    chosen = range(len(file)) if kind == "all" else range(KINDS.index(kind), len(file), len(KINDS))
    return model_inputs(Collator(0)([rows[Draw(0, number)] for number in chosen]))


def calls(model: nn.Module, batch: dict[str, Any]) -> list[str]:
    """Names of the called modules, in order."""
    made: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: made.append(name))
        for name, module in model.named_modules()
    ]
    model(**batch).loss.backward()
    for hook in hooks:
        hook.remove()
    return made


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_kind_of_batch_calls_the_same_layers(
    file: SampleFile, changes: dict[str, Any], stage: str
) -> None:
    model = make_model(**changes)
    hide_tower(model)
    apply_stage(model, stage)
    traces = {kind: calls(model, batch_of(file, model, kind)) for kind in (*KINDS, "all")}
    assert all(trace == traces["all"] for trace in traces.values())
    assert any("connector" in name for name in traces["all"])
    assert not any("vision_tower" in name for name in traces["all"])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_trained_parameter_has_a_gradient(
    file: SampleFile, changes: dict[str, Any], kind: str, stage: str
) -> None:
    model = make_model(**changes)
    apply_stage(model, stage)
    model(**batch_of(file, model, kind)).loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
    connecting = [p.grad for name, p in trained.items() if "connector" in name]
    assert any(grad.any() for grad in connecting) is (kind != "text only")  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_the_contribution_is_zero(file: SampleFile, kind: str) -> None:
    model = make_model()
    batch = batch_of(file, model, kind)
    assert torch.equal(model.train()(**batch).loss, model.eval()(**batch).loss)


def test_text_costs_no_vision_pass(file: SampleFile) -> None:
    model = make_model()
    tower = hide_tower(model)
    passes: list[int] = []
    tower.tower.register_forward_pre_hook(lambda *_: passes.append(1))
    model.train()(**batch_of(file, model, "text only"))
    assert passes == []
    model(**batch_of(file, model, "picture only"))
    assert passes == [1]


def test_a_hidden_tower_moves_with_the_model_and_is_not_in_it(file: SampleFile) -> None:
    shown, model = make_model(), make_model()
    tower = hide_tower(model)
    assert hide_tower(model) is tower
    assert not any("vision_tower" in name for name in model.state_dict())
    batch = batch_of(file, shown, "all")
    assert torch.equal(shown(**batch).loss, model(**batch).loss)
    assert next(model.bfloat16().model.vision_tower.tower.parameters()).dtype == torch.bfloat16

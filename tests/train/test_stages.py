"""A stage trains exactly its parts: they change, everything else stays bit-equal, statistics included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rgpt.errors import InputError
from rgpt.regions import Box
from rgpt.train.stages import PARTS, STAGES, apply_stage, part_of, stage_table
from tests.model.tiny_models import KINDS, make_model, make_picture, make_processor

ALIGNED = {"refinement", "connector", "region_projector"}
TUNED = {*ALIGNED, "language_model", "lm_head"}
VARIANTS: dict[str, dict[str, Any]] = {
    "shared projector": {},
    "own projector": {"region_projector": "linear"},
    "tied head": {"tie_word_embeddings": True},
    "bilinear": {"refinement": "bilinear"},
}


def batch_for(model: nn.Module, kind: str = "clip+llama") -> Any:
    processor = make_processor(model.config, kind)
    batch = processor(
        text=["<image> what is <region1>? a cat", "<image> <region1> or <region2>?"],
        images=[make_picture(1), make_picture(2)],
        regions=[[Box(2, 2, 20, 20)], [Box(0, 0, 10, 30), Box(15, 5, 38, 25)]],
        return_tensors="pt",
        padding=True,
    )
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def one_step(model: nn.Module, stage: str, kind: str = "clip+llama") -> None:
    groups = apply_stage(model, stage)
    # No weight decay: a tensor that changes has had a gradient.
    optimizer = torch.optim.AdamW([p for group in groups.values() for p in group], lr=1e-2, weight_decay=0.0)
    model(**batch_for(model, kind)).loss.backward()
    optimizer.step()


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, BatchNorm's running statistics among them."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed_by(model: nn.Module, stage: str, kind: str = "clip+llama") -> set[str]:
    before = state_of(model)
    one_step(model, stage, kind)
    after = state_of(model)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("stage", "parts"), [("align", ALIGNED), ("tune", TUNED)])
def test_exactly_the_stages_parts_change(kind: str, stage: str, parts: set[str]) -> None:
    model = make_model(kind)
    changed = changed_by(model, stage, kind)
    assert changed == {name for name, _ in model.named_parameters() if part_of(name) in parts}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("stage", "parts"), [("align", ALIGNED), ("tune", TUNED)])
def test_exactly_the_stages_parts_change_in_every_variant(variant: str, stage: str, parts: set[str]) -> None:
    model = make_model(**VARIANTS[variant])
    changed = {part_of(name) for name in changed_by(model, stage)}
    here = {part_of(name) for name, _ in model.named_parameters(remove_duplicate=False)}
    assert changed == parts & here
    assert ("region_projector" in here) is (variant == "own projector")
    assert ("refinement" in here) is (variant != "bilinear")


def test_batchnorm_statistics_of_the_frozen_tower_stay() -> None:
    model = make_model("resnet+llama")
    names = [name for name in model.state_dict() if name.endswith(("running_mean", "running_var"))]
    assert names
    changed = changed_by(model, "tune", "resnet+llama")
    assert not changed & set(names)
    # The same step with the tower in training mode would have moved them: the test can fail.
    model.model.vision_tower.train()
    before = state_of(model)
    model(**batch_for(model, "resnet+llama"))
    assert any(not torch.equal(before[name], state_of(model)[name]) for name in names)


def test_the_stages_follow_each_other_in_either_order() -> None:
    """Freezing is set anew by every stage: nothing of the one before remains."""
    model = make_model()
    for stage, parts in (("tune", TUNED), ("align", ALIGNED), ("tune", TUNED)):
        model.zero_grad()
        apply_stage(model, stage)
        trainable = {part_of(name) for name, p in model.named_parameters() if p.requires_grad}
        assert trainable == parts - {"region_projector"}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", STAGES)
def test_groups_partition_the_trainable_parameters(variant: str, stage: str) -> None:
    model = make_model(**VARIANTS[variant])
    groups = apply_stage(model, stage)
    grouped = [id(p) for group in groups.values() for p in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    assert set(groups) <= set(STAGES[stage].trains) and all(groups.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_one_part(kind: str) -> None:
    model = make_model(kind)
    counted = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counted[part_of(name)] += parameter.numel()
    assert sum(counted.values()) == model.num_parameters()
    assert counted["vision_tower"] == sum(p.numel() for p in model.model.vision_tower.parameters())


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.vision_tower.encoder.layers.0.weight", "vision_tower"),
        ("model.connector.linear_1.bias", "connector"),
        ("lm_head.weight", "lm_head"),
        ("model.language_model.embed_tokens.weight", "language_model"),
    ],
)
def test_part_of(name: str, part: str) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize(
    "name", ["weight", "model.adapter.weight", "model.connectors.weight", "vision_tower.connector.w"]
)
def test_a_parameter_of_no_part_or_of_two_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"parameter {name} belongs to .*expected exactly one of"):
        part_of(name)


def test_an_unknown_part_in_the_model_is_refused() -> None:
    model = make_model()
    model.extra = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"parameter extra\.weight belongs to no part"):
        apply_stage(model, "align")


def test_an_unknown_stage_is_refused_before_anything_is_frozen() -> None:
    model = make_model()
    with pytest.raises(InputError, match="unknown stage 'pretrain': expected one of align, tune"):
        apply_stage(model, "pretrain")
    assert all(p.requires_grad for p in model.parameters())


def test_the_tower_trains_in_no_stage() -> None:
    assert all(
        "vision_tower" not in stage.trains and set(stage.trains) <= set(PARTS) for stage in STAGES.values()
    )
    assert all(name == stage.name for name, stage in STAGES.items())


@pytest.mark.parametrize("stage", STAGES)
def test_the_table_names_every_part_and_adds_up(stage: str) -> None:
    model = make_model(region_projector="linear", region_geometry=True)
    rows = [row.split() for row in stage_table(model, stage).splitlines()]
    assert rows[0][-1] == stage
    assert {row[0]: row[2] == "trained" for row in rows[1:-1]} == {
        part: part in STAGES[stage].trains for part in PARTS
    }
    counts = [int(row[1].replace(",", "")) for row in rows[1:]]
    assert sum(counts[:-1]) == counts[-1] == model.num_parameters()

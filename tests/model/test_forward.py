"""One forward pass: a batch is its rows, regions are what they say, losses and modes are right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from rgpt.errors import InputError
from rgpt.model import RegionGPTForConditionalGeneration, RegionGPTProcessor
from rgpt.regions import Box, Point, Polygon
from tests.model.tiny_models import PICTURE_SIZE, make_model, make_picture, make_processor

Built = tuple[RegionGPTForConditionalGeneration, RegionGPTProcessor]
LEFT, RIGHT, TOP = Box(1, 2, 15, 28), Box(22, 3, 39, 27), Polygon([[(2, 1), (38, 1), (20, 12)]])


def ask(*blocks: Any, answer: str | None = None) -> list[dict[str, Any]]:
    """A one-turn conversation from pictures and words."""
    content = [
        {"type": "image", "image": block}
        if isinstance(block, Image.Image)
        else {"type": "text", "text": block}
        for block in blocks
    ]
    turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
    return turns if answer is None else turns + [{"role": "assistant", "content": answer}]


UNLIKE = [
    (ask(make_picture(1), "What is <region1>?", answer="a cat"), [LEFT, RIGHT]),
    (ask("Only words, no picture at all.", answer="yes"), None),
    (
        ask(
            make_picture(2), make_picture(3, 30, 40), "Is <region2> like <region1> or <region2>?", answer="no"
        ),
        {1: LEFT, 2: (1, Point(10, 30)), 7: (1, Box(0, 0, 30, 40))},
    ),
    (ask(make_picture(4), "And?", answer="so"), None),
]
"""Rows of every sort: mentions and an unmentioned region, no picture, two pictures, a picture without
regions."""


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_batch_is_its_rows(built: Built, side: str) -> None:
    model, processor = built
    together = processor.encode_chat(
        [row for row, _ in UNLIKE], regions=[regions for _, regions in UNLIKE], padding_side=side
    )
    logits = model(**together).logits
    for number, (conversation, regions) in enumerate(UNLIKE):
        alone = processor.encode_chat(conversation, regions=regions)
        keep = together["attention_mask"][number].bool()
        assert torch.equal(together["input_ids"][number][keep], alone["input_ids"][0])
        torch.testing.assert_close(logits[number][keep], model(**alone).logits[0], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_batch_of_words_only(built: Built) -> None:
    model, processor = built
    batch = processor.encode_chat([ask("One."), ask("Two, and longer.")])
    assert "pixel_values" not in batch and "region_masks" not in batch
    plain = model.model.language_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    torch.testing.assert_close(model(**batch).logits, model.lm_head(plain.last_hidden_state))


@torch.no_grad()
def test_another_region_gives_other_logits_and_an_unmentioned_one_does_not(built: Built) -> None:
    model, processor = built
    conversation = ask(make_picture(1), "What is <region1>?")

    def logits(regions: list[Any]) -> torch.Tensor:
        return model(**processor.encode_chat(conversation, regions=regions)).logits

    assert (logits([LEFT]) - logits([RIGHT])).abs().max() > 1e-3
    torch.testing.assert_close(logits([LEFT]), logits([LEFT, RIGHT, TOP]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_permuted_regions_permute(built: Built) -> None:
    model, _ = built
    by_order = make_processor(model.config, _kind_of(model), region_mention="<region>")
    picture = make_picture(1)
    straight = by_order.encode_chat(ask(picture, "<region1> or <region2>?"), regions=[LEFT, RIGHT])
    swapped = by_order.encode_chat(ask(picture, "<region2> or <region1>?"), regions=[RIGHT, LEFT])
    torch.testing.assert_close(model(**straight).logits, model(**swapped).logits, atol=1e-5, rtol=1e-5)
    features = [
        model.get_image_features(batch["pixel_values"], batch["region_masks"], torch.tensor([0, 1]))
        for batch in (straight, swapped)
    ]
    torch.testing.assert_close(
        features[0].region_features, features[1].region_features.flip(0), atol=1e-5, rtol=1e-5
    )


def _kind_of(model: RegionGPTForConditionalGeneration) -> str:
    tower, text = model.config.vision_config.model_type, model.config.text_config.model_type
    return (
        {"clip_vision_model": "clip", "siglip_vision_model": "siglip", "dpt": "hybrid"}.get(tower, tower)
        + "+"
        + text
    )


@torch.no_grad()
def test_a_region_mentioned_twice_is_the_same_vector_twice(built: Built) -> None:
    model, processor = built
    batch = processor.encode_chat(ask(make_picture(1), "<region1>, I say <region1>!"), regions=[LEFT])
    assert batch["region_index"].tolist() == [0, 0] and batch["region_masks"].shape[1] == 1
    embeds = _embeddings(model, batch)[batch["input_ids"] == model.config.region_token_id]
    assert torch.equal(embeds[0], embeds[1])


def _embeddings(model: RegionGPTForConditionalGeneration, batch: Any) -> torch.Tensor:
    """What the language model is given for a batch."""
    seen = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model(**batch)
    hook.remove()
    return seen["inputs_embeds"]


@torch.no_grad()
def test_cached_tower_features_stand_for_pixels(built: Built) -> None:
    model, processor = built
    batch = processor.encode_chat([row for row, _ in UNLIKE], regions=[regions for _, regions in UNLIKE])
    expected = model(**batch).logits
    features = model.model.vision_features(batch.pop("pixel_values"))
    assert torch.equal(model(**batch, vision_features=features).logits, expected)
    refined = model.model.encode(vision_features=features)
    regions = {name: batch.pop(name) for name in ("region_masks", "region_index")}
    outputs = {"image": model.model.project(refined, **regions)}
    assert torch.equal(model(**batch, mm_encoder_outputs=outputs).logits, expected)


def test_the_loss_is_the_mean_over_supervised_tokens(built: Built) -> None:
    model, processor = built
    batch = processor.encode_chat(
        [row for row, _ in UNLIKE], regions=[regions for _, regions in UNLIKE], return_labels=True
    )
    out = model(**batch)
    labels = batch["labels"][:, 1:]
    logits = out.logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels, reduction="none", ignore_index=-100
    )
    torch.testing.assert_close(out.loss, losses.sum() / (labels >= 0).sum())
    summed = model(**batch, num_items_in_batch=torch.tensor(5))
    torch.testing.assert_close(summed.loss, losses.sum() / 5)


def test_gradients_reach_every_part_but_what_is_frozen(built: Built) -> None:
    model, processor = built
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    batch = processor.encode_chat(UNLIKE[0][0], regions=UNLIKE[0][1], return_labels=True)
    model(**batch).loss.backward()
    assert all(p.grad is None for p in model.model.vision_tower.parameters())
    for part in (model.model.refinement, model.model.connector, model.model.language_model.layers):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters() if p.ndim > 1)
    model.zero_grad(set_to_none=True)
    model.requires_grad_(True)


def test_a_frozen_tower_keeps_no_graph(built: Built) -> None:
    model, _ = built
    size = PICTURE_SIZE[_kind_of(model)]
    model.model.vision_tower.requires_grad_(False)
    model.enable_input_require_grads()  # as adapters and checkpointing do
    try:
        pixels = torch.randn(1, 3, size, size)
        assert not model.model.vision_features(pixels).requires_grad
        assert model.model.vision_features(pixels.requires_grad_()).requires_grad
        assert model.get_input_embeddings()(torch.tensor([[1]])).requires_grad
    finally:
        model.disable_input_require_grads()
        model.requires_grad_(True)


def test_regions_of_the_first_row_need_no_list() -> None:
    model = make_model()
    processor = make_processor(model.config)
    conversation, regions = UNLIKE[0]
    alone = processor.encode_chat(conversation, regions=regions)
    listed = processor.encode_chat([conversation], regions=[regions])
    assert all(torch.equal(alone[key], listed[key]) for key in alone)


@pytest.mark.parametrize("kind", ["resnet+llama", "hybrid+qwen2"])
def test_a_frozen_tower_stays_in_eval_mode(kind: str) -> None:
    model = make_model(kind)
    processor = make_processor(model.config, kind)
    batch = processor.encode_chat(UNLIKE[0][0], regions=UNLIKE[0][1])
    model.model.vision_tower.requires_grad_(False)
    before = {name: value.clone() for name, value in model.model.vision_tower.state_dict().items()}
    model.train()
    assert model.training and model.model.language_model.training and not model.model.vision_tower.training
    model(**batch)
    after = model.model.vision_tower.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    model.model.vision_tower.requires_grad_(True)
    assert model.train().model.vision_tower.training
    model(**batch)
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


@torch.no_grad()
def test_bfloat16_is_close(built: Built) -> None:
    model, processor = built
    batch = processor.encode_chat(UNLIKE[0][0], regions=UNLIKE[0][1])
    expected = model(**batch).logits.log_softmax(-1)
    half = make_model(_kind_of(model)).to(torch.bfloat16)
    logits = half(**batch).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.float().log_softmax(-1) - expected).abs().mean() < 0.2


@torch.no_grad()
def test_counts_that_differ_are_named(built: Built) -> None:
    model, processor = built
    batch = processor.encode_chat(ask(make_picture(1), "What is <region1>?"), regions=[LEFT])
    with pytest.raises(InputError, match="4 <image> tokens but 8 <image> features"):
        model(**{**batch, **{key: torch.cat([batch[key]] * 2) for key in ("pixel_values", "region_masks")}})
    with pytest.raises(InputError, match="1 <region> tokens but 3 <region> features"):
        model(**{**batch, "region_index": torch.tensor([0, 0, 0])})
    with pytest.raises(InputError, match="1 <region> tokens but 0 <region> features"):
        model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"])
    with pytest.raises(InputError, match="belong together"):
        model(**{key: value for key, value in batch.items() if key != "region_index"})
    with pytest.raises(InputError, match="without a picture"):
        model(**{key: value for key, value in batch.items() if key != "pixel_values"})
    with pytest.raises(InputError, match="exactly one"):
        model(pixel_values=batch["pixel_values"])
    with pytest.raises(InputError, match="not both"):
        model(**batch, mm_encoder_outputs={"image": model.get_image_features(batch["pixel_values"])})


def test_nothing_on_the_way_asks_the_device_for_a_number() -> None:
    # A host synchronisation (.item(), a shape that depends on data) would break the graph in two.
    model = make_model(vision_feature_layer=None)
    processor = make_processor(model.config)
    batch = processor.encode_chat(
        [row for row, _ in UNLIKE], regions=[regions for _, regions in UNLIKE], return_labels=True
    )
    batch.pop("attention_mask")  # the library's own mask making looks at it
    expected = model(**batch)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**batch).loss, expected.loss)
    torch._dynamo.reset()


@pytest.mark.gpu
def test_a_training_step_on_a_gpu_never_waits() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = make_model().cuda()
    processor = make_processor(model.config)
    batch = processor.encode_chat(
        [row for row, _ in UNLIKE], regions=[regions for _, regions in UNLIKE], return_labels=True
    ).to("cuda")
    expected = model(**batch).loss  # warm up: caches of the library may wait once
    del batch["attention_mask"]  # right padding is causal, and the library looks at the mask
    model(**batch).loss.backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = model(**batch).loss
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(expected) and torch.isfinite(loss)


def test_picture_sizes_of_the_fixtures_are_those_of_the_towers() -> None:
    for kind, size in PICTURE_SIZE.items():
        stated = make_model(kind).config.image_size
        assert stated in (None, size)

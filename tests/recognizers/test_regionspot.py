"""RegionSpot: exact checks against hand-run stages, parameter counts, the loss, frozen parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rgpt.recognizers.geometry import SAM_MEAN, SAM_STD
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.regionspot import (
    PAPER_PARAMETERS_PRO,
    VARIANTS,
    RegionSpot,
    RegionSpotHead,
    alignment_loss,
    build_head,
)
from rgpt.recognizers.token_cache import TokenCache, fingerprint
from rgpt.regions import Box, Mask, Point
from tests.recognizers.tiny_recognizers import make, picture, some_regions


@pytest.fixture(scope="module")
def spot() -> RegionSpot:
    return make("regionspot")  # type: ignore[return-value]


def region_set(*regions, width: int = 50, height: int = 40) -> RegionSet:
    return RegionSet(regions or tuple(some_regions()), height, width)


@pytest.mark.parametrize(
    ("variant", "expected"), [("lite", 24_226_304), ("pro", 38_853_376), ("pro336", 38_853_376)]
)
def test_trainable_parameters(variant: str, expected: int) -> None:
    with torch.device("meta"):
        head = build_head(variant)
    count = sum(p.numel() for p in head.parameters())
    tower = VARIANTS[variant][2]
    print(f"RegionSpot {variant} ({tower}): {count:,} trainable; paper {PAPER_PARAMETERS_PRO:,} for Pro")
    assert count == expected


@pytest.mark.parametrize(("depth", "millions"), [(1, 13.65), (6, 76.65)])
def test_parameters_by_depth(depth: int, millions: float) -> None:
    with torch.device("meta"):
        head = RegionSpotHead(1024, 768, depth=depth)
    assert sum(p.numel() for p in head.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("dense", [False, True])
def test_tokens_alone_are_those_of_the_whole_pass(spot: RegionSpot, dense: bool) -> None:
    """Two ways to the token: the stages up to it, and a hook in transformers' own whole SAM."""
    regions = region_set(*some_regions(), Point(15, 12))
    embedding = spot.prompter.encode_images([picture()])[0]
    spot.prompter.dense_masks = dense
    try:
        short, whole = spot.prompter(embedding, regions), spot.prompter(embedding, regions, masks=True)
    finally:
        spot.prompter.dense_masks = False
    torch.testing.assert_close(short.tokens, whole.tokens)
    assert short.low_res_masks.numel() == 0 and whole.low_res_masks.shape == (4, 32, 32)


def test_the_token_is_at_index_one(spot: RegionSpot) -> None:
    """The token equals SAM's stages run by hand; index 1 of the decoder transformer's output."""
    regions = region_set(Box(3, 4, 30, 28), Box(10, 10, 20, 39))
    model, geometry = spot.prompter.model, spot.prompter.geometry(40, 50)
    embedding = spot.prompter.encode_images([picture()])
    tokens = spot.prompter(embedding[0], regions, masks=True).tokens
    with torch.no_grad():
        pixels = geometry.pixels(picture(), SAM_MEAN, SAM_STD)[None]
        torch.testing.assert_close(model.vision_encoder(pixels).last_hidden_state, embedding)
        boxes = geometry.to_model(regions.as_boxes())[None]
        sparse, dense = model.prompt_encoder(None, None, boxes, None)
        decoder = model.mask_decoder
        start = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        start = torch.cat([start.expand(1, 2, -1, -1), sparse], 2)
        positions = model.get_image_wide_positional_embeddings()
        out, _ = decoder.transformer(
            point_embeddings=start,
            image_embeddings=(embedding + dense).repeat_interleave(2, 0),
            image_positional_embeddings=positions.repeat_interleave(2, 0),
            attention_similarity=None,
        )
    assert tokens.shape == (2, 32) and out.shape == (1, 2, 1 + 4 + 2, 32)
    torch.testing.assert_close(tokens, out[0, :, 1])
    assert (tokens - out[0, :, 0]).abs().max() > 1e-3  # index 0 is another token


def test_meta_layer_norm_epsilon(spot: RegionSpot) -> None:
    transformer = spot.prompter.model.mask_decoder.transformer
    assert transformer.layer_norm_final_attn.eps == 1e-5
    norms = [module for module in transformer.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * 4 + 1 and {norm.eps for norm in norms} == {1e-5}


def test_prompts_are_decoded_alone(spot: RegionSpot) -> None:
    """SAM's tokens do not depend on their neighbours; the joined scores do."""
    regions = some_regions()
    embedding = spot.prompter.encode_images([picture()])[0]
    together = spot.prompter(embedding, region_set(*regions)).tokens
    alone = torch.cat([spot.prompter(embedding, region_set(region)).tokens for region in regions])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    names = ("car", "tree", "dog")
    both = spot.recognize([picture()], [regions[:2]], names)[0].logits
    one = spot.recognize([picture()], [regions[:1]], names)[0].logits
    assert (both[0] - one[0]).abs().max() > 1e-4
    assert not spot.independent_regions


def test_clicks_and_mask_prompts(spot: RegionSpot) -> None:
    embedding = spot.prompter.encode_images([picture()])[0]
    click, box, mask = Point(15, 12), Box(8, 5, 30, 20), some_regions()[1]
    assert isinstance(mask, Mask)
    mixed = spot.prompter(embedding, region_set(click, box, mask)).tokens
    torch.testing.assert_close(
        mixed[1], mixed[2], atol=1e-4, rtol=1e-3
    )  # a mask is its box, as RegionSpot was trained
    assert (mixed[0] - mixed[1]).abs().max() > 1e-3
    spot.prompter.dense_masks = True
    try:
        dense = spot.prompter(embedding, region_set(mask, click, mask, box)).tokens
    finally:
        spot.prompter.dense_masks = False
    torch.testing.assert_close(dense[1], mixed[0], atol=1e-4, rtol=1e-3)  # order is kept across kinds
    torch.testing.assert_close(dense[3], mixed[1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(dense[0], dense[2])
    assert (dense[0] - mixed[2]).abs().max() > 1e-4  # the mask itself was seen


def test_sam_masks_come_back_in_the_pictures_pixels(spot: RegionSpot) -> None:
    state = spot.encode_images([picture()])[0]
    masks = spot.masks(state, region_set())
    assert masks.shape == (3, 40, 50) and masks.dtype == torch.bool
    assert spot.masks(state, RegionSet((), 40, 50)).shape == (0, 40, 50)
    # A mask that is a half plane on the canvas is one on the picture.
    low = torch.full((1, 32, 32), -1.0)
    low[:, :, :16] = 1.0  # left half of the 64 px canvas
    full = spot.prompter.full_masks(low, spot.prompter.geometry(40, 50))
    assert full[0, :, :24].all() and not full[0, :, 26:].any()


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    head = RegionSpotHead(48, 24, 32, feedforward=64).eval()
    tokens, memory = torch.randn(1, 3, 32), torch.randn(1, 17, 48)
    alone = head(tokens, torch.ones(1, 3, dtype=torch.bool), memory)
    padded = torch.cat([tokens, torch.randn(1, 4, 32) * 9], 1)
    valid = torch.tensor([[True] * 3 + [False] * 4])
    torch.testing.assert_close(head(padded, valid, memory)[:, :3], alone, atol=1e-5, rtol=1e-5)
    # The published way, repeated tokens instead of a mask, does change the others.
    repeated = torch.cat([tokens, tokens[:, :1].expand(-1, 4, -1)], 1)
    changed = head(repeated, torch.ones(1, 7, dtype=torch.bool), memory)[:, :3]
    assert (changed - alone).norm() / alone.norm() > 0.01


def attention(query: Tensor, keys: Tensor, module: torch.nn.MultiheadAttention) -> Tensor:
    weight, bias = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, keys, keys), weight, bias, strict=True))
    split = [x.unflatten(-1, (module.num_heads, -1)).transpose(0, 1) for x in (q, k, v)]
    shares = (split[0] @ split[1].mT / split[0].shape[-1] ** 0.5).softmax(-1)
    return module.out_proj((shares @ split[2]).transpose(0, 1).flatten(1))


def test_the_decoder_written_out() -> None:
    """Three post-norm blocks, ReLU, final norm: the formulas one by one, one picture."""
    torch.manual_seed(1)
    head = RegionSpotHead(48, 24, 32, feedforward=64).eval()
    tokens, memory = torch.randn(5, 32), torch.randn(17, 48)
    x = head.input_projection(tokens)
    for layer in head.decoder.layers:
        x = layer.norm1(x + attention(x, x, layer.self_attn))
        x = layer.norm2(x + attention(x, memory, layer.multihead_attn))
        x = layer.norm3(x + layer.linear2(torch.relu(layer.linear1(x))))
    expected = head.output_projection(head.decoder.norm(x))
    found = head(tokens[None], torch.ones(1, 5, dtype=torch.bool), memory[None])[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    first, second = (layer.linear1.weight for layer in head.decoder.layers[:2])
    assert not torch.equal(first, second)  # copies of one layer would start equal


def test_the_loss_written_out() -> None:
    torch.manual_seed(2)
    embedded, bank = torch.randn(2, 3, 8), F.normalize(torch.randn(5, 8), dim=-1)
    valid = torch.tensor([[True, True, True], [True, False, False]])
    targets = (torch.rand(2, 3, 5) > 0.7).float()
    total = 0.0
    for b, i in valid.nonzero().tolist():
        p = torch.sigmoid(3.0 * F.cosine_similarity(embedded[b, i][None], bank))
        for c in range(5):
            hit = targets[b, i, c] == 1
            pt, alpha = (p[c], 0.25) if hit else (1 - p[c], 0.75)
            total += float(-alpha * (1 - pt) ** 2 * torch.log(pt))
    found = alignment_loss(embedded, valid, bank, targets, 3.0)
    assert float(found) == pytest.approx(total / 3, rel=1e-5)
    moved = embedded.clone()
    moved[1, 1:] = 7.0  # padding
    torch.testing.assert_close(alignment_loss(moved, valid, bank, targets, 3.0), found)


def test_only_the_head_trains(spot: RegionSpot) -> None:
    before = {name: value.clone() for name, value in spot.state_dict().items()}
    trained = {name for name, p in spot.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("head.") for name in trained)
    spot.train()
    try:
        assert not any(module.training for module in spot.sam.module.modules())
        assert not any(module.training for module in spot.vision.module.modules())
        assert spot.head.training
        bank = spot.encode_vocabulary(spot.vocabulary(("car", "tree")))
        embedded, valid = spot.encode_regions(spot.encode_images([picture()]), [region_set()])
        optimizer = torch.optim.AdamW(spot.parameters(), 1e-2)
        spot.loss(embedded, valid, bank.weights, torch.ones(1, 3, 2)).backward()
        optimizer.step()
    finally:
        spot.eval()
    changed = {name for name, value in spot.state_dict().items() if not torch.equal(value, before[name])}
    spot.load_state_dict(before)
    assert changed == trained


def test_tokens_are_kept_for_the_very_pixels(spot: RegionSpot, tmp_path: Path) -> None:
    cache = TokenCache(tmp_path, fingerprint(spot.prompter))
    image, regions = picture(), region_set()
    embedding = spot.prompter.encode_images([image])[0]
    first = cache.get(image, regions, lambda: spot.prompter(embedding, regions).tokens)
    again = cache.get(image, regions, lambda: pytest.fail("computed twice"))
    assert torch.equal(first, again) and cache.computed == 1
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    others = [
        cache.path(flipped, regions),
        cache.path(image, region_set(*some_regions()[:2])),
        TokenCache(tmp_path, fingerprint(make("regionspot", seed=1).prompter)).path(image, regions),  # type: ignore[attr-defined]
    ]
    assert cache.path(image, regions) not in others


def test_masks_are_painted_in_blocks_alike(spot: RegionSpot, monkeypatch: pytest.MonkeyPatch) -> None:
    low, geometry = torch.randn(7, 32, 32), spot.prompter.geometry(40, 50)
    whole = spot.prompter.full_masks(low, geometry)
    monkeypatch.setattr("rgpt.recognizers.sam.MASK_BLOCK", 3)
    assert torch.equal(spot.prompter.full_masks(low, geometry), whole)

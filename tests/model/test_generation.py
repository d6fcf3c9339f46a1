"""`generate` in all its ways gives what a plain loop over forward passes gives, and encodes a picture
once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from rgpt.errors import InputError
from rgpt.model import RegionGPTForConditionalGeneration, RegionGPTProcessor
from rgpt.regions import Box, Point
from tests.model.test_forward import LEFT, RIGHT, Built, ask
from tests.model.tiny_models import make_model, make_picture, make_processor

ROWS = [
    (ask(make_picture(1), "What is <region1>?"), [LEFT]),
    (ask("No picture here."), None),
    (ask(make_picture(2), make_picture(3), "<region2>, <region1> and <region2>?"), {1: LEFT, 2: (1, RIGHT)}),
]
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8}


def prompt(processor: RegionGPTProcessor, rows: list[Any] = ROWS) -> Any:
    return processor.encode_chat(
        [row for row, _ in rows], regions=[regions for _, regions in rows], add_generation_prompt=True
    )


def answers(model: RegionGPTForConditionalGeneration, batch: Any, **options: Any) -> torch.Tensor:
    """The new tokens only, [rows, new]."""
    return model.generate(**batch, **{**GREEDY, **options})[:, batch["input_ids"].shape[1] :]


@torch.no_grad()
def plain_greedy(model: RegionGPTForConditionalGeneration, batch: Any, steps: int) -> list[int]:
    """Ten lines that know nothing of caches: one forward pass over everything for each token of one row."""
    batch, new = dict(batch), []
    for _ in range(steps):
        logits = model(**batch).logits[0, -1]
        logits[[model.config.image_token_id, model.config.region_token_id]] = -torch.inf
        new.append(int(logits.argmax()))
        batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([[new[-1]]])], 1)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        if new[-1] == model.config.text_config.eos_token_id:
            break
    return new


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_greedy_is_the_plain_loop(built: Built, row: int) -> None:
    model, processor = built
    batch = prompt(processor, [ROWS[row]])
    assert answers(model, batch)[0].tolist() == plain_greedy(model, batch, 8)


@pytest.mark.parametrize(
    "options",
    [{"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 1, "num_return_sequences": 1}],
    ids=["no cache", "static cache", "explicit"],
)
def test_the_cache_does_not_matter(built: Built, options: dict[str, Any]) -> None:
    model, processor = built
    batch = prompt(processor)
    assert torch.equal(answers(model, batch), answers(model, batch, **options))


@pytest.mark.parametrize("beams, returned", [(1, 1), (3, 1), (3, 3)])
def test_a_batch_of_unlike_rows_is_its_rows(built: Built, beams: int, returned: int) -> None:
    model, processor = built
    options = {"num_beams": beams, "num_return_sequences": returned}
    together = answers(model, prompt(processor), **options)
    for number, row in enumerate(ROWS):
        alone = answers(model, prompt(processor, [row]), **options)
        for mine, theirs in zip(together[number * returned : (number + 1) * returned], alone, strict=True):
            ends = [item.tolist() + [model.config.text_config.eos_token_id] for item in (mine, theirs)]
            assert _until_end(ends[0]) == _until_end(ends[1])


def _until_end(tokens: list[int], ends: tuple[int, ...] = (0, 2)) -> list[int]:
    return tokens[: min(tokens.index(end) for end in ends if end in tokens)]


def test_beams_read_the_pictures_and_regions_of_their_own_row(built: Built) -> None:
    # Repeated rows that differ in their region only: the copies of a row must not see its neighbour's.
    model, processor = built
    rows = [(ROWS[0][0], [region]) for region in (LEFT, RIGHT, Box(0, 0, 40, 30), Point(20, 15))]
    options = {"do_sample": True, "output_logits": True, "return_dict_in_generate": True}
    sampled = model.generate(**prompt(processor, rows), max_new_tokens=1, num_return_sequences=3, **options)
    with torch.no_grad():
        expected = model(**prompt(processor, rows)).logits[:, -1]
    torch.testing.assert_close(sampled.logits[0], expected.repeat_interleave(3, 0), atol=1e-4, rtol=1e-4)


def test_sampling_is_seeded(built: Built) -> None:
    model, processor = built
    batch = prompt(processor)

    def sample(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return answers(model, batch, do_sample=True, temperature=1.5, num_return_sequences=2)

    assert torch.equal(sample(1), sample(1))
    assert sample(1).shape != sample(2).shape or not torch.equal(sample(1), sample(2))


def test_placeholders_are_never_an_answer() -> None:
    model = make_model(seed=3)
    processor = make_processor(model.config)
    torch.nn.init.zeros_(model.lm_head.weight)
    with torch.no_grad():
        model.lm_head.weight[model.config.region_token_id :] = 5 * torch.randn(1, 32)
    new = answers(model, prompt(processor), do_sample=True, num_return_sequences=4)
    assert not torch.isin(
        new, torch.tensor([model.config.image_token_id, model.config.region_token_id])
    ).any()


@pytest.mark.parametrize("beams", [1, 3])
def test_a_picture_is_encoded_once(built: Built, beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = built
    calls = []
    original = model.model.vision_tower.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(model.model.vision_tower, "forward", counted)
    answers(model, prompt(processor), num_beams=beams, min_new_tokens=5)
    assert len(calls) == 1


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_precomputed_features_are_as_good_as_pixels(built: Built, beams: int) -> None:
    model, processor = built
    batch = prompt(processor)
    expected = answers(model, batch, num_beams=beams)
    inputs = {name: batch[name] for name in ("pixel_values", "region_masks", "region_index")}
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}

    features = {"image": model.get_image_features(**inputs)}
    for _ in range(2):  # the features of a session are used again: generate must not change them
        assert torch.equal(
            answers(model, {**text, "mm_encoder_outputs": features}, num_beams=beams), expected
        )
    tower = model.model.vision_features(inputs.pop("pixel_values"))
    assert torch.equal(
        answers(model, {**text, **inputs, "vision_features": tower}, num_beams=beams), expected
    )
    refined = model.model.encode(vision_features=tower)
    features = {"image": model.model.project(refined, **inputs)}
    assert torch.equal(answers(model, {**text, "mm_encoder_outputs": features}, num_beams=beams), expected)


def test_embeddings_in_place_of_ids(built: Built) -> None:
    model, processor = built
    batch = prompt(processor, ROWS[:1])
    expected = answers(model, batch)
    embeds = model.get_input_embeddings()(batch["input_ids"])
    given = {**{key: value for key, value in batch.items() if key != "input_ids"}, "inputs_embeds": embeds}
    assert torch.equal(model.generate(**given, **GREEDY), expected)
    beams = {**GREEDY, "num_beams": 3}
    assert torch.equal(model.generate(**given, **beams), answers(model, batch, num_beams=3))


@torch.no_grad()
def test_a_conversation_goes_on_from_its_cache(built: Built) -> None:
    model, processor = built
    picture = make_picture(1)
    first = ask(picture, "What is <region1>?")
    cache = DynamicCache(config=model.config.text_config)
    one = prompt(processor, [(first, [LEFT, RIGHT])])
    out = model.generate(**one, **GREEDY, past_key_values=cache)
    second = torch.cat([out, _text(processor, "And <region2>?\n", picture)], 1)
    both = {
        "input_ids": second,
        "attention_mask": torch.ones_like(second),
        "pixel_values": one["pixel_values"],
        "region_masks": one["region_masks"],
        "region_index": torch.tensor([0, 1]),
    }
    expected = model.generate(**both, **GREEDY)
    assert cache.get_seq_length() > one["input_ids"].shape[1]
    went_on = model.generate(**both, **GREEDY, past_key_values=cache)
    assert torch.equal(went_on, expected)


def _text(processor: RegionGPTProcessor, text: str, picture: Any) -> torch.Tensor:
    """The ids of a later turn, [1, n]."""
    turn = processor(images=picture, text="<image>" + text, regions=[LEFT, RIGHT])
    return turn["input_ids"][:, processor.image_tokens :]


@torch.no_grad()
def test_chunked_prefill_is_refused_with_regions(built: Built) -> None:
    model, processor = built
    with pytest.raises(InputError, match="prefill_chunk_size"):
        answers(model, prompt(processor), prefill_chunk_size=4)

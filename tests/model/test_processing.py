"""From pictures, regions and text to tensors; and everything that is refused, with both numbers in the
message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from rgpt.errors import InputError
from rgpt.model import RegionGPTProcessor, add_placeholders
from rgpt.model.pictures import as_picture
from rgpt.regions import Box, Mask, Point, region_weights
from rgpt.regions.square import to_pixels
from tests.model.tiny_models import make_config, make_picture, make_processor, make_tokenizer

A, B, C = Box(1, 2, 15, 28), Point(30, 20), Box(5, 5, 35, 25)


@pytest.fixture(scope="module")
def processor() -> RegionGPTProcessor:
    return make_processor(make_config())


def test_one_prompt(processor: RegionGPTProcessor) -> None:
    batch = processor(
        images=make_picture(), text="<image>\nWhat is <region2>, <region2> or <region1>?", regions=[A, B]
    )
    tokens = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert tokens[:5] == ["<image>"] * 4 + ["\n"] and tokens.count("<region>") == 3
    assert "".join(tokens[5:]) == "What is [2] <region>, [2] <region> or [1] <region>?"
    assert batch["pixel_values"].shape == (1, 3, 28, 28) and batch["pixel_values"].dtype == torch.float32
    assert batch["region_masks"].shape == (1, 2, 16, 16) and batch["region_masks"].dtype == torch.float32
    assert batch["region_index"].tolist() == [1, 1, 0]
    assert batch["attention_mask"].all()


def test_the_number_of_a_mention_can_be_left_to_order() -> None:
    processor = make_processor(make_config(), region_mention="<region>")
    batch = processor(images=make_picture(), text="<image><region7>?", regions={7: A})
    assert "".join(processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])[4:]) == "<region>?"


def test_several_pictures_and_rows(processor: RegionGPTProcessor) -> None:
    batch = processor(
        images=[[make_picture(1), make_picture(2)], None, [make_picture(3)]],
        text=["<image><image> <region1> <region3>", "words", "<image> <region2>"],
        regions=[{1: A, 2: (1, B), 3: (1, C)}, None, [A, C]],
    )
    assert batch["pixel_values"].shape[0] == 3
    masks, index = batch["region_masks"], batch["region_index"]
    assert masks.shape == (3, 2, 16, 16)
    assert index.tolist() == [0 * 2 + 0, 1 * 2 + 1, 2 * 2 + 1]
    assert masks[0, 1].abs().max() == 0 and (masks.flatten(2).sum(-1) > 0).sum() == 5
    for row, region in zip(masks.flatten(0, 1)[index], (A, C, C), strict=True):
        np.testing.assert_array_equal(row, region_weights(region, 30, 40, 16))


@pytest.mark.parametrize("images", ["flat", "nested", "arrays", "files", "bytes"])
def test_pictures_come_in_many_forms(processor: RegionGPTProcessor, images: str, tmp_path: Path) -> None:
    pictures = [make_picture(1), make_picture(2)]
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    forms: dict[str, Any] = {
        "flat": pictures,
        "nested": [[pictures[0]], [pictures[1]]],
        "arrays": [np.asarray(picture) for picture in pictures],
        "files": [str(paths[0]), paths[1]],
        "bytes": [path.read_bytes() for path in paths],
    }
    batch = processor(images=forms[images], text=["<image>a", "<image>b"])
    assert torch.equal(batch["pixel_values"], processor.pixel_values(pictures))


def test_regions_may_be_json(processor: RegionGPTProcessor) -> None:
    given = {1: {"box": [1, 2, 15, 28]}, 2: (0, {"point": [30, 20]})}
    picture, text = make_picture(), "<image><region1><region2>"
    assert torch.equal(
        processor(images=picture, text=text, regions=given)["region_masks"],
        processor(images=picture, text=text, regions=[A, B])["region_masks"],
    )


def test_the_picture_need_not_be_prepared_twice(processor: RegionGPTProcessor) -> None:
    options: dict[str, Any] = {"images": make_picture(), "text": "<image><region1>", "regions": [A]}
    full, light = processor(**options), processor(**options, return_pixel_values=False)
    assert set(full) - set(light) == {"pixel_values"}
    assert all(torch.equal(full[key], light[key]) for key in light)


@pytest.mark.parametrize("side, first", [("left", [0, 0]), ("right", None)])
def test_padding(processor: RegionGPTProcessor, side: str, first: list[int] | None) -> None:
    batch = processor(text=["abcd", "ab"], padding_side=side)
    assert batch["input_ids"].shape == (2, 4)
    expected = [0, 0, 1, 1] if side == "left" else [1, 1, 0, 0]
    assert batch["attention_mask"][1].tolist() == expected
    assert processor(text=["abcd", "ab"], padding="max_length", max_length=9)["input_ids"].shape == (2, 9)
    with pytest.raises(InputError, match="padding"):
        processor(text=["abcd", "ab"], padding=False)


def test_chats_that_wait_for_an_answer_are_padded_on_the_left(processor: RegionGPTProcessor) -> None:
    talks = [[{"role": "user", "content": text}] for text in ("abcd", "ab")]
    assert processor.encode_chat(talks, add_generation_prompt=True)["attention_mask"][1].tolist() == [
        0,
        0,
        1,
        1,
        1,
    ]
    assert processor.encode_chat(talks)["attention_mask"][1].tolist() == [1, 1, 1, 0, 0]


# ------------------------------------------------------------------------------------------ what people type


@pytest.mark.parametrize("typed", ["<image>", "<region>", "</s>", "<s>", "<pad>", "a<image><region>b"])
def test_control_tokens_typed_in_a_chat_are_words(processor: RegionGPTProcessor, typed: str) -> None:
    talk = [{"role": "user", "content": f"Say {typed}!"}, {"role": "assistant", "content": f"{typed} indeed"}]
    batch = processor.encode_chat(talk, return_labels=True)
    special = set(processor.tokenizer.all_special_ids)
    inside = [token for token in batch["input_ids"][0].tolist() if token in special]
    assert inside == [processor.tokenizer.eos_token_id]  # the template's own
    prompt = processor.apply_chat_template(talk)
    assert prompt.replace("< ", "<") == f"Say {typed}!\n{typed} indeed</s>"


def test_a_mention_in_the_words_of_the_assistant_is_a_word(processor: RegionGPTProcessor) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<region1> is red"}]
    batch = processor.encode_chat(talk)
    assert processor.region_token_id not in batch["input_ids"] and "region_index" not in batch
    assert "<region1> is red" in processor.apply_chat_template(talk)


def test_region_blocks_are_mentions(processor: RegionGPTProcessor) -> None:
    blocks = [
        {"type": "image", "image": make_picture()},
        {"type": "text", "text": "Is "},
        {"type": "region", "region": B},
        {"type": "text", "text": " in <region1>?"},
    ]
    by_block = processor.encode_chat([{"role": "user", "content": blocks}], regions=[A])
    by_text = processor.encode_chat(
        [{"role": "user", "content": [blocks[0], {"type": "text", "text": "Is <region2> in <region1>?"}]}],
        regions=[A, B],
    )
    assert all(torch.equal(by_block[key], by_text[key]) for key in by_text)


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "options, words",
    [
        ({"text": None}, ["needs text"]),
        ({"text": "<image>"}, ["1 <image>", "0 pictures"]),
        ({"text": "hi", "images": make_picture()}, ["0 <image>", "1 pictures"]),
        ({"text": "<image>", "images": [[make_picture(), make_picture()]]}, ["1 <image>", "2 pictures"]),
        ({"text": ["<image>", "<image>"], "images": [make_picture()]}, ["2 <image>", "1 pictures"]),
        ({"text": ["a", "b"], "images": [[make_picture()]]}, ["2 prompts", "1 lists"]),
        ({"text": "<image><region3>", "regions": [A, B]}, ["<region3>", "2 regions", "<region1>, <region2>"]),
        ({"text": "<image><region0>", "regions": [A, B]}, ["<region0>", "2 regions"]),
        ({"text": "<image><region1>"}, ["<region1>", "0 regions", "none"]),
        ({"text": "<image><region>", "regions": [A]}, ["bare <region>", "<region1>"]),
        ({"text": "<region1>", "regions": [A]}, ["<region1>", "picture 0", "0 pictures"]),
        ({"text": "<image><region1>", "regions": [(1, A)]}, ["picture 1", "1 pictures"]),
        ({"text": "<image>", "regions": A}, ["list"]),
        ({"text": "<image>", "regions": {0: A}}, ["numbered from 1"]),
        ({"text": ["a", "b"], "regions": [[A]]}, ["2 prompts", "1 regions"]),
        ({"text": "<image>", "regions": [Box(50, 50, 60, 60)]}, ["<region1>", "60"]),
        ({"text": "<image>", "regions": {2: Mask(np.ones((3, 4), bool))}}, ["<region2>", "4", "40"]),
        ({"text": "hi", "return_tensors": "np"}, ["'np'", "'pt'"]),
        ({"text": "x" * 513}, ["513 tokens", "512"]),
        ({"text": "xxxxx", "max_length": 4}, ["5 tokens", "4"]),
        (
            {"text": "xxx<image>", "max_length": 5, "truncation": True},
            ["7 tokens to 5", "picture or a region"],
        ),
    ],
    ids=lambda value: str(value.get("text"))[:20] if isinstance(value, dict) else "",
)
def test_refused(processor: RegionGPTProcessor, options: dict[str, Any], words: list[str]) -> None:
    options = dict(options)
    if "images" not in options and isinstance(options["text"], str) and "<image>" in options["text"]:
        options["images"] = None if words[0] == "1 <image>" else make_picture()
    with pytest.raises(InputError) as error:
        processor(**options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_cutting_text_is_allowed(processor: RegionGPTProcessor) -> None:
    batch = processor(images=make_picture(), text="<image>abc", max_length=6, truncation=True)
    assert processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])[4:] == ["a", "b"]


def test_a_template_that_drops_a_mention_is_refused(processor: RegionGPTProcessor) -> None:
    talk = [{"role": "user", "content": "<region1>"}, {"role": "user", "content": "again"}]
    with pytest.raises(InputError, match="mentions 1 regions but its chat template wrote 0"):
        processor.encode_chat(talk, "{{ messages[1].content }}", regions=[A])


def test_a_tokenizer_without_placeholders_is_refused() -> None:
    tokenizer = make_tokenizer()
    fresh = make_tokenizer()
    assert add_placeholders(fresh) == 0 and len(fresh) == len(tokenizer)
    with pytest.raises(InputError, match="no <spot> token"):
        RegionGPTProcessor(tokenizer, region_token="<spot>", region_mention="<spot>")
    with pytest.raises(InputError, match="exactly once"):
        RegionGPTProcessor(tokenizer, region_mention="region {number}")


# ------------------------------------------------------------------------------------------ pictures


def test_pictures_are_padded_with_the_mean_colour_and_never_cut() -> None:
    mean, std = (0.2, 0.4, 0.6), (0.5, 0.25, 0.125)
    white = Image.new("RGB", (40, 20), "white")
    pixels = to_pixels(white, 8, mean, std)
    assert pixels.shape == (3, 8, 8) and pixels.dtype == np.float32
    bright = [(1 - m) / s for m, s in zip(mean, std, strict=True)]
    np.testing.assert_allclose(pixels[:, 4, :], np.repeat(np.array(bright)[:, None], 8, 1), atol=0.02)
    assert np.abs(pixels[:, [0, 7], :]).max() < 0.05  # the mean colour, normalised, is zero


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (300, 2), (28, 28), (13001, 3), (3, 13001)])
def test_pictures_of_any_shape(size: tuple[int, int]) -> None:
    pixels = to_pixels(Image.new("RGB", size, "red"), 28, (0.5,) * 3, (0.5,) * 3)
    assert pixels.shape == (3, 28, 28) and np.isfinite(pixels).all()


def test_regions_lie_where_the_picture_lies() -> None:
    # A white box on black: the weights of the box must be the brightness of the prepared picture.
    picture = np.zeros((24, 48, 3), np.uint8)
    picture[6:18, 12:30] = 255
    pixels = to_pixels(Image.fromarray(picture), 16, (0.0,) * 3, (1.0,) * 3)[0]
    weights = region_weights(Box(12, 6, 30, 18), 24, 48, 16)
    np.testing.assert_allclose(pixels, weights, atol=0.2)  # bicubic resizing rings a little
    assert weights.sum() * 9 == pytest.approx(12 * 18)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_odd_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8"):
        as_picture(array)


def test_save_and_load(processor: RegionGPTProcessor, tmp_path: Path) -> None:
    ours = make_processor(
        make_config(), region_mention="<region>", image_mean=[0.1, 0.2, 0.3], template="vicuna"
    )
    ours.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, RegionGPTProcessor)
    assert again.to_dict() == ours.to_dict() and again.chat_template == ours.chat_template
    options: dict[str, Any] = {"images": make_picture(), "text": "<image><region1>", "regions": [A]}
    assert all(torch.equal(value, again(**options)[key]) for key, value in ours(**options).items())

"""Mentions, control tokens typed by a person, chat templates and the labels they mark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from rgpt.errors import InputError
from rgpt.model import RegionGPTProcessor, add_placeholders
from rgpt.model.conversation import (
    CHAT_TEMPLATES,
    Messages,
    chat_template,
    control_pattern,
    expand_mentions,
    neutralise,
)
from rgpt.regions import Box
from tests.model.tiny_models import make_config, make_picture, make_processor

CONTROL = control_pattern(["<image>", "<region>", "</s>", "<s>", "<|im_end|>", "[[a]", "[a]", "x"])
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is <region1>?"}]},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


REGIONS = [Box(1, 1, 9, 9)]


@pytest.mark.parametrize(
    "typed, harmless",
    [
        ("no tokens < here >", "no tokens < here >"),
        ("<image>", "< image>"),
        ("a<region>b</s>", "a< region>b< /s>"),
        ("<region1> stays", "<region1> stays"),
        ("<re<region>gion>", "<re< region>gion>"),
        ("<|im_end|><s>", "< |im_end|>< s>"),
        ("[[a]", "[ [ a]"),
        ("x", "x"),
    ],
)
def test_typed_control_tokens_become_words(typed: str, harmless: str) -> None:
    assert neutralise(typed, CONTROL) == harmless
    assert not CONTROL.search(harmless)


def test_mentions_are_expanded_in_reading_order() -> None:
    text, numbers = expand_mentions("<region2> by <region10>, <region2>; <region>", lambda n: f"#{n}")
    assert text == "#2 by #10, #2; <region>" and numbers == [2, 10, 2]


def test_a_conversation_made_ready() -> None:
    item = Messages(
        [
            {"role": "system", "content": "Look at <region3>."},
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": "a.png"},
                    {"type": "text", "text": "Is <region1> <image> "},
                    {"type": "region", "region": "R"},
                    {"type": "text", "text": " or "},
                    {"type": "region", "number": 9, "region": "S"},
                    {"type": "region", "number": 1},
                ],
            },
            {"role": "assistant", "content": "<region1> it is</s>"},
        ],
        CONTROL,
        lambda number: f"[{number}] <region>",
        given={1: "P", 3: "Q"},
    )
    assert item.mentions == [3, 1, 4, 9, 1]
    assert item.regions == {1: "P", 3: "Q", 4: "R", 9: "S"} and item.pictures == ["a.png"]
    texts = [block["text"] for block in item.messages[1]["content"] if block["type"] == "text"]
    assert "".join(texts) == "Is [1] <region> < image> [4] <region> or [9] <region>[1] <region>"
    assert item.messages[2]["content"] == "<region1> it is< /s>"


def test_a_control_token_cut_in_two_blocks_is_a_word() -> None:
    blocks = [{"type": "text", "text": text} for text in ("a <", "/s", "> <regi", "on1>")]
    item = Messages([{"role": "user", "content": blocks}], CONTROL, lambda number: f"#{number}")
    assert item.messages[0]["content"] == [{"type": "text", "text": "a < /s> #1"}] and item.mentions == [1]


def test_an_unknown_block_is_named() -> None:
    with pytest.raises(InputError, match="video"):
        Messages([{"role": "user", "content": [{"type": "video"}]}], CONTROL, str)


def test_a_number_given_twice_is_refused() -> None:
    blocks = [{"type": "region", "number": 2, "region": "R"}, {"type": "region", "number": 2, "region": "S"}]
    with pytest.raises(InputError, match="<region2> is given twice in one message"):
        Messages([{"role": "user", "content": blocks}], CONTROL, str)


def said(text: str, **regions: str) -> dict:
    return {"role": "user", "content": text, "regions": {int(n[1:]): region for n, region in regions.items()}}


def test_a_number_means_what_its_message_gives_it_else_the_conversation_else_the_message_before() -> None:
    block = [{"type": "region", "number": 1, "region": "B"}]
    messages = [
        said("<region1> <region2>", n1="A"),
        said("<region1>", n1="B"),
        said("<region1>"),
        said("<region1>", n1="B"),  # given again, unchanged: the same region
        {"role": "user", "content": block},
        said("<region3> <region3>", n3="C", n4="nobody mentions it"),
        said("<region3>", n3="D"),
        said("<region1> <region3>"),
    ]
    item = Messages(messages, CONTROL, str, {1: "A", 2: "S"})
    assert "".join(item.regions[key] for key in item.mentions) == "ASBABBCCDAD"
    assert list(item.regions.values()) == ["A", "S", "B", "C", "D"]
    assert all("regions" not in message for message in item.messages)


def test_a_block_without_a_number_takes_one_that_no_message_gave() -> None:
    block = [{"type": "region", "region": "B"}]
    messages = [{**said("", n1="A"), "content": block}, said("<region2>")]
    item = Messages(messages, CONTROL, str)
    assert "".join(item.regions[key] for key in item.mentions) == "BB"


def test_an_unknown_template_is_named() -> None:
    with pytest.raises(InputError, match="vicuna, llama-3, spatialrgpt, qwen, plain, lines"):
        chat_template("alpaca")


# As published: Vicuna and plain in LLaVA-1.5 (conv_vicuna_v1, conv_llava_plain), spatialrgpt in SpatialRGPT's
# conversation.py (llama_3), qwen and llama-3 in their makers' tokenizer configurations.
EXPECTED = {
    "lines": "<image>\nWhat is <region1>?\nA cat.</s>Sure?\nYes.</s>",
    "plain": "<s><image>A cat.\nYes.\n",
    "spatialrgpt": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision assistant. "
        "You are able to understand the visual content that the user provides, and assist the user with a "
        "variety of tasks using natural language.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is <region1>?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|end_of_text|>"
    ),
    "vicuna": (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. "
        "USER: <image>\nWhat is <region1>? ASSISTANT: "
        "A cat.</s>USER: Sure? ASSISTANT: Yes.</s>"
    ),
    "llama-3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is <region1>?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>"
    ),
    "qwen": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhat is <region1>?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
    ),
}
HEADERS = {
    "lines": "",
    "plain": "<image>",
    "spatialrgpt": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "vicuna": "ASSISTANT:",
    "llama-3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen": "<|im_start|>assistant\n",
}
LEARNED = {  # characters: the tiny tokenizer has no <|...|> tokens, there the end of a turn is spelt out
    "lines": "A cat.</s>Yes.</s>",
    "plain": "A cat.\nYes.\n",
    "vicuna": " A cat.</s> Yes.</s>",
    "llama-3": "A cat.<|eot_id|>Yes.<|eot_id|>",
    "spatialrgpt": "A cat.<|eot_id|>Yes.<|end_of_text|>",
    "qwen": "A cat.<|im_end|>Yes.<|im_end|>",
}


@pytest.fixture(params=CHAT_TEMPLATES)
def template(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def processor(template: str) -> RegionGPTProcessor:
    return make_processor(make_config(), template=template)


def test_what_each_template_writes(processor: RegionGPTProcessor, template: str) -> None:
    assert processor.apply_chat_template(TALK) == EXPECTED[template]
    assert processor.apply_chat_template([TALK, TALK]) == [EXPECTED[template]] * 2


def test_the_generation_prompt_is_what_an_answer_follows(
    processor: RegionGPTProcessor, template: str
) -> None:
    question = processor.apply_chat_template(TALK[:1], add_generation_prompt=True)
    assert question.endswith(HEADERS[template])
    assert EXPECTED[template].startswith(question)


def test_a_system_message_takes_the_place_of_the_default(
    processor: RegionGPTProcessor, template: str
) -> None:
    prompt = processor.apply_chat_template([{"role": "system", "content": "Be brief."}, *TALK])
    assert "helpful" not in prompt and (template == "plain" or "Be brief." in prompt)
    assert processor.apply_chat_template([{"role": "system", "content": ""}, *TALK]).count("helpful") == 0


def test_a_message_can_be_continued(processor: RegionGPTProcessor) -> None:
    prompt = processor.apply_chat_template(TALK[:2], continue_final_message=True)
    assert prompt.endswith("A cat.")


def test_a_processor_without_a_template_says_so(processor: RegionGPTProcessor) -> None:
    bare = RegionGPTProcessor(processor.tokenizer)
    with pytest.raises(InputError, match="no chat template"):
        bare.apply_chat_template(TALK)


def test_an_unknown_role_is_refused(processor: RegionGPTProcessor) -> None:
    with pytest.raises(Exception, match="tool"):
        processor.apply_chat_template([{"role": "tool", "content": "42"}])


def test_labels_are_the_words_of_the_assistant_and_their_end(
    processor: RegionGPTProcessor, template: str
) -> None:
    if template == "plain":  # leaves the user's words out, mentions too
        with pytest.raises(InputError, match="leaves messages out"):
            processor.encode_chat(TALK, images=make_picture(), regions=[Box(1, 1, 9, 9)])
    batch = processor.encode_chat(_bare(template), images=make_picture(), regions=REGIONS, return_labels=True)
    labels = batch["labels"][0]
    learned = labels[labels >= 0].tolist()
    assert learned == batch["input_ids"][0][labels >= 0].tolist()
    words = "".join(processor.tokenizer.convert_ids_to_tokens(learned))
    assert words == LEARNED[template]


def _bare(template: str) -> list[dict[str, Any]]:
    """TALK, without the mention that the template `plain` has no place for."""
    return [{**TALK[0], "content": TALK[0]["content"][:1]}, *TALK[1:]] if template == "plain" else TALK


def test_the_mask_of_the_assistant_is_where_the_labels_are(
    processor: RegionGPTProcessor, template: str
) -> None:
    batch = processor.apply_chat_template(
        [_bare(template), _bare(template)[:2]],
        images=[make_picture(), make_picture(1)],
        regions=[REGIONS] * 2,
        tokenize=True,
        return_dict=True,
        return_labels=True,
        return_assistant_tokens_mask=True,
    )
    assert (batch["assistant_masks"].bool() == (batch["labels"] >= 0)).all()
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


# ------------------------------------------------------------------------------------------ the real Vicuna


@pytest.fixture(scope="module")
def vicuna(shared_data: Path) -> RegionGPTProcessor:
    """Vicuna's tokenizer made fast: ids from its sentencepiece model, blanks as the slow one writes them."""
    sentencepiece = pytest.importorskip("sentencepiece")
    path = shared_data / "tokenizers" / "llama_tokenizer.model"
    if not path.is_file():
        pytest.skip("needs ../shared/data/tokenizers/llama_tokenizer.model")
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    vocabulary = {model.id_to_piece(number): number for number in range(model.get_piece_size())}
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=generate_merges(vocabulary),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    add_placeholders(fast)
    assert fast.convert_tokens_to_ids(["<image>", "<region>"]) == [32000, 32001]
    return RegionGPTProcessor(fast, merge_grid=2, refined_grid=16, chat_template=chat_template("vicuna"))


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> dict[str, Any]:
    path = shared_data / "llava" / "golden_prompts.json"
    if not path.is_file():
        pytest.skip("needs ../shared/data/llava/golden_prompts.json")
    return json.loads(path.read_text(encoding="utf-8"))


def _messages(words: list[str]) -> list[dict[str, Any]]:
    """Alternating user and assistant texts; `<image>\\n` at the head of one is a picture."""
    messages: list[dict[str, Any]] = []
    for number, text in enumerate(words):
        words = text.removeprefix("<image>").removeprefix("\n")
        blocks: list[dict[str, Any]] = [{"type": "text", "text": words}]
        if text.startswith("<image>"):
            blocks.insert(0, {"type": "image"})
        messages.append({"role": ("user", "assistant")[number % 2], "content": blocks})
    return messages


@pytest.mark.parametrize("template, number", [("v1", 0), ("v1", 1), ("plain", 0)])
def test_prompts_are_those_of_llava(
    vicuna: RegionGPTProcessor, golden: dict[str, Any], template: str, number: int
) -> None:
    case = golden[template][number]
    messages = _messages(case["after_multimodal"])
    # Id for id, label for label; LLaVA writes a picture as one -200, here it is 2 x 2 tokens.
    own = chat_template({"v1": "vicuna", "plain": "plain"}[template])
    batch = vicuna.encode_chat(messages, own, images=make_picture(), return_labels=True)
    ids = [token for token in batch["input_ids"][0].tolist() if token != vicuna.image_token_id]
    labels = [
        label
        for token, label in zip(batch["input_ids"][0].tolist(), batch["labels"][0].tolist(), strict=True)
        if token != vicuna.image_token_id
    ]
    without = [position for position, token in enumerate(case["input_ids"]) if token != -200]
    assert ids == [case["input_ids"][position] for position in without]
    assert labels == [case["labels"][position] for position in without]
    assert batch["input_ids"][0].tolist().index(vicuna.image_token_id) == case["input_ids"].index(-200)


def test_vicuna_learns_the_blank_before_an_answer(vicuna: RegionGPTProcessor) -> None:
    """LLaVA's preprocess_v1 masks up to the colon: of "ASSISTANT: 2</s>" it learns 29871, 29906, 2."""
    talk = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "2"}]
    batch = vicuna.encode_chat(talk, return_labels=True)
    assert batch["input_ids"][0][-4:].tolist() == [29901, 29871, 29906, 2]
    assert batch["labels"][0][-4:].tolist() == [-100, 29871, 29906, 2]


def test_vicuna_texts_are_those_of_llava(vicuna: RegionGPTProcessor, golden: dict[str, Any]) -> None:
    for expected, case in zip(golden["prompts"]["vicuna_v1"], golden["v1"], strict=True):
        messages = _messages(case["after_multimodal"])
        if (
            "\n<image>" not in expected["full"]
        ):  # the raw conversation has its picture last; LLaVA moves it first
            assert vicuna.apply_chat_template(messages).removeprefix("<s>") == expected["full"]
            question = vicuna.apply_chat_template(messages[:1], add_generation_prompt=True)
            assert question.removeprefix("<s>") == expected["question_only"]


def test_vicuna_reads_mentions_between_words(vicuna: RegionGPTProcessor) -> None:
    batch = vicuna(images=make_picture(), text="<image>\nWhat is <region1>?", regions=[Box(1, 1, 9, 9)])
    assert vicuna.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])[4:] == [
        "▁", "<0x0A>", "What", "▁is", "▁[", "1", "]", "▁", "<region>", "▁?",
    ]  # fmt: skip

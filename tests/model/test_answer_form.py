"""What ends an answer is the template's: learned, counted by likelihoods, and stopped at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.model import RegionGPTProcessor, add_placeholders
from rgpt.model.answer_form import AnswerForm
from rgpt.model.assemble_text import end_ids
from rgpt.model.conversation import CHAT_TEMPLATES, chat_template
from tests.model.tiny_models import LM, make_model, make_picture, make_tokenizer

TURNS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"]
TURNS += ["<|im_start|>", "<|im_end|>"]


def with_turns() -> PreTrainedTokenizerFast:
    """One token a character, and those of Llama 3 and Qwen; its end of text is none of theirs."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": TURNS})
    return tokenizer


def like_llama() -> PreTrainedTokenizerFast:
    """Blanks as Llama's sentencepiece writes them, a part of the word behind them or a token of their own."""
    letters = ["<unk>", "<s>", "</s>", "▁", "\n", *map(chr, range(33, 127))]
    pairs = [("▁", letter) for letter in map(chr, range(65, 123)) if letter.isalpha()]
    vocabulary = {token: number for number, token in enumerate([*letters, *map("".join, pairs)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": TURNS})
    add_placeholders(fast)
    return fast


TOKENIZERS = {"characters": with_turns, "llama": like_llama}


# What LLaVA's preprocess_v1 and preprocess_plain learn, and SpatialRGPT's get_prompt writes, token by token.
@pytest.mark.parametrize(
    ("template", "answer", "learned"),
    [
        ("vicuna", "2", ["▁", "2", "</s>"]),
        ("vicuna", "A 2", ["▁A", "▁", "2", "</s>"]),
        ("vicuna", "(x)", ["▁", "(", "x", ")", "</s>"]),
        ("plain", "A 2", ["▁A", "▁", "2", "\n"]),
        ("llama-3", "Hi", ["H", "i", "<|eot_id|>"]),
        ("spatialrgpt", "Hi", ["H", "i", "<|end_of_text|>"]),
        ("qwen", "Hi", ["H", "i", "<|im_end|>"]),
        ("lines", "Hi", ["H", "i", "</s>"]),  # no blank: the answer follows a line break
    ],
)
def test_what_is_learned_of_an_answer(template: str, answer: str, learned: list[str]) -> None:
    tokenizer = like_llama()
    form = AnswerForm.of(tokenizer, template)
    assert tokenizer.convert_ids_to_tokens([*form.ids(tokenizer, answer), *form.end]) == learned
    processor = RegionGPTProcessor(tokenizer, chat_template=chat_template(template))
    talk = [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": answer}]
    labels = processor.encode_chat(talk, images=make_picture(), return_labels=True)["labels"][0]
    assert tokenizer.convert_ids_to_tokens(labels[labels >= 0]) == learned


@pytest.mark.parametrize(
    ("template", "stops"),
    [
        ("vicuna", {"</s>"}),
        ("llama-3", {"<|eot_id|>"}),
        ("spatialrgpt", {"<|eot_id|>", "<|end_of_text|>"}),  # within a conversation, and at its end
        ("qwen", {"<|im_end|>"}),
        ("plain", {"\n"}),
        ("lines", {"</s>"}),
        ("{% for m in messages %}{{ m.content }}{{ '<|im_end|>\n' if m.role == 'assistant' }}{% endfor %}",
         {"<|im_end|>"}),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", {"</s>"}),  # says nothing: the tokenizer's
    ],
)  # fmt: skip
def test_where_an_answer_stops(template: str, stops: set[str]) -> None:
    tokenizer = with_turns()
    form = AnswerForm.of(tokenizer, template)
    assert set(tokenizer.convert_ids_to_tokens(list(form.stops))) == stops
    assert end_ids(tokenizer, template, None) == [*sorted(form.stops - {2}), 2]


def test_an_end_that_the_tokenizer_spells_out_is_refused() -> None:
    with pytest.raises(InputError, match=r"ends an answer with .* no token of its own.*--chat-template"):
        end_ids(make_tokenizer(), "qwen", 2)


def test_a_broken_template_is_told() -> None:
    with pytest.raises(InputError, match=r"the chat template cannot be written out \(.*no such\)"):
        AnswerForm.of(make_tokenizer(), "{{ raise_exception('no such') }}")


@pytest.fixture(scope="module")
def model() -> Any:
    made = make_model(text_config=type(make_model().config.text_config)(**{**LM, "vocab_size": 192}))
    made.generation_config.eos_token_id = 2
    return made


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", CHAT_TEMPLATES)
@torch.inference_mode()
def test_what_is_counted_is_what_is_learned(model: Any, kind: str, template: str) -> None:
    """`score` of an answer is minus the loss that training would have, summed, on the same conversation."""
    tokenizer = TOKENIZERS[kind]()
    model.config.image_token_id, model.config.region_token_id = tokenizer.convert_tokens_to_ids(
        ["<image>", "<region>"]
    )
    processor = RegionGPTProcessor.for_model(model.config, tokenizer, template, image_size=28)
    session = ChatSession(model, processor)
    session.set_image(make_picture())
    answers = ["2", "A cat.", "(2)", "two words"]
    scores = session.score(["How many?"] * len(answers), answers)
    for answer, score in zip(answers, scores, strict=True):
        ask = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}
        talk = [ask, {"role": "assistant", "content": answer}]
        batch = processor.encode_chat(talk, images=make_picture(), return_labels=True)
        labels = batch.pop("labels")[:, 1:]
        logs = model(**batch).logits[:, :-1].log_softmax(-1)
        counted = logs.gather(2, labels.clamp_min(0)[..., None])[..., 0][labels >= 0]
        assert score == pytest.approx(float(counted.sum()), abs=1e-4)
        ranked = session.rank("How many?", [answer])[answer]
        assert ranked == pytest.approx(float(counted.mean()), abs=1e-4)
    session.ask("How many?", choices=answers)
    assert session.turns[-1].usage.ended == "stop"

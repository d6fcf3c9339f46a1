"""Vicuna's sentencepiece tokenizer becomes a fast one without changing an id; placeholders; templates."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rgpt.errors import InputError
from rgpt.model import RegionGPTProcessor
from rgpt.model.assemble import assemble_parts
from rgpt.model.assemble_sources import Source
from rgpt.model.assemble_text import (
    choose_template,
    end_ids,
    fast_from_sentencepiece,
    load_tokenizer,
    with_placeholders,
)
from tests.model.checkpoints import make_clip, make_llm
from tests.model.tiny_models import make_picture, make_tokenizer

VICUNA = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "model_max_length": 4096,
    "legacy": False,
}


@pytest.fixture(scope="module")
def model_file(shared_data: Path) -> Path:
    return shared_data / "tokenizers" / "llama_tokenizer.model"


@pytest.fixture(scope="module")
def vicuna(model_file: Path) -> Any:
    return fast_from_sentencepiece(model_file, VICUNA)


def test_published_ids(vicuna: Any, shared_data: Path) -> None:
    for row in json.loads((shared_data / "tokenizers" / "llama_expected.json").read_text()):
        assert vicuna(row["text"])["input_ids"] == row["ids_with_bos"]
    for row in json.loads((shared_data / "tokenizers" / "llama_sentencepiece_more.json").read_text()):
        assert vicuna(row["text"], add_special_tokens=False)["input_ids"] == row["ids"]
        assert vicuna.convert_ids_to_tokens(row["ids"]) == row["pieces"]


def texts() -> list[str]:
    root = Path(__file__).parents[2]
    found = []
    for path in ("README.md", "docs/decisions.md", "app/static/canvas.js", "rgpt/model/projection.py"):
        whole = (root / path).read_text(encoding="utf-8")
        found += [whole, *whole.split("\n")]
    found += [" " * k + "x" for k in range(80)] + ["a" + " " * k + "b" for k in range(80)]
    rng = random.Random(0)
    letters = "abc  \n\t▁é<>/01日🙂ḱ\u0301\u3000\u200b"
    return found + ["".join(rng.choices(letters, k=rng.randrange(40))) for _ in range(3000)]


def test_sentencepiece_itself_agrees(vicuna: Any, model_file: Path) -> None:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    different = [t for t in texts() if vicuna(t, add_special_tokens=False)["input_ids"] != pieces.encode(t)]
    assert different == []
    assert len(vicuna) == pieces.get_piece_size() == 32000


def test_the_librarys_own_conversion_would_not_do(model_file: Path, tmp_path: Path, vicuna: Any) -> None:
    # Why this repository converts by itself. When this fails, transformers has been mended.
    (tmp_path / "tokenizer.model").write_bytes(model_file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(VICUNA))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "two  (blanks)"
    assert theirs(text)["input_ids"] != vicuna(text)["input_ids"]


def test_words_come_back(vicuna: Any) -> None:
    for text in ("a photo of a teddy bear.", "café 日本 🙂", "two  blanks\n and a line"):
        ids = vicuna(text)["input_ids"]
        assert vicuna.decode(ids, skip_special_tokens=True) == text
    assert (vicuna.bos_token, vicuna.eos_token, vicuna.unk_token) == ("<s>", "</s>", "<unk>")
    assert vicuna.model_max_length == 4096


def test_a_model_with_vicunas_tokenizer(model_file: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip")
    make_llm(tmp_path / "llm", vocab_size=32000)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "llm" / name).unlink(missing_ok=True)
    (tmp_path / "llm" / "tokenizer.model").write_bytes(model_file.read_bytes())
    (tmp_path / "llm" / "tokenizer_config.json").write_text(json.dumps(VICUNA))
    assemble_parts(str(tmp_path / "clip"), str(tmp_path / "llm"), tmp_path / "out")
    processor = RegionGPTProcessor.from_pretrained(tmp_path / "out")
    assert (processor.image_token_id, processor.region_token_id) == (32000, 32001)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]["vocab_size"] == 32064
    ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is <region1>?"}]}]
    batch = processor.encode_chat(
        ask, images=[make_picture()], regions=[{"box": [1, 1, 9, 9]}], add_generation_prompt=True
    )
    words = processor.tokenizer.decode(batch["input_ids"][0])
    assert words.startswith("<s> A chat between a curious user") and words.endswith(" ASSISTANT:")
    assert "questions. USER: <image>" in words and "What is [1] <region> ?" in words
    # Between placeholders the ids are those of each stretch alone, as LLaVA's training text has them.
    tail = batch["input_ids"][0].tolist()
    after = tail[tail.index(32001) + 1 :]
    assert after == processor.tokenizer("? ASSISTANT:", add_special_tokens=False)["input_ids"]


def test_a_tokenizer_json_is_taken_as_it_is(vicuna: Any, tmp_path: Path) -> None:
    vicuna.save_pretrained(tmp_path)
    again = load_tokenizer(Source("x", tmp_path))
    assert again("two  (blanks)")["input_ids"] == vicuna("two  (blanks)")["input_ids"]
    assert again.eos_token == "</s>"


def test_not_a_sentencepiece_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"tokenizer\.model is no sentencepiece model"):
        load_tokenizer(Source("x", tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="the tokenizer of x cannot be read"):
        load_tokenizer(Source("x", tmp_path))


def test_a_region_token_that_is_there_already() -> None:
    with pytest.raises(InputError, match=r"already has <region> \(id 101\).*--region-token"):
        with_placeholders(make_tokenizer(), "x", "<image>", "<region>")
    tokenizer = make_tokenizer()
    assert with_placeholders(tokenizer, "x", "<image>", "<rgpt_region>") == (100, 102)


@pytest.mark.parametrize(
    "special, expected",
    [
        (["<|im_start|>", "<|im_end|>"], "qwen"),
        (["<|start_header_id|>", "<|eot_id|>"], "llama-3"),
        ([], "vicuna"),
    ],
)
def test_templates_are_told_from_turn_tokens(special: list[str], expected: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    assert choose_template(Source("x", tmp_path), tokenizer, None) == expected
    ends = end_ids(tokenizer, expected, [2])
    assert ends == [2] if not special else ends == [2, tokenizer.convert_tokens_to_ids(special[1])]
    own = "{%- for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(own)
    assert choose_template(Source("x", tmp_path), tokenizer, None) == own
    assert choose_template(Source("x", tmp_path), tokenizer, "lines") == "lines"
    with pytest.raises(InputError, match="no chat template 'vicunna'"):
        choose_template(Source("x", tmp_path), tokenizer, "vicunna")


def test_an_unknown_family_must_name_its_template(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "<end>"
    with pytest.raises(InputError, match="--chat-template"):
        choose_template(Source("x", tmp_path), tokenizer, None)

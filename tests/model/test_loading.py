"""A saved folder opens through every door and gives the same numbers; a damaged one is refused with one
sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, LlamaConfig, pipeline

from rgpt.errors import InputError
from rgpt.model import RegionGPTForConditionalGeneration, RegionGPTModel, load
from rgpt.model import loading as loading_module
from rgpt.regions import Box
from tests.model.test_forward import Built, ask
from tests.model.tiny_models import make_model, make_picture, make_processor


@pytest.fixture
def folder(clip_llama: Built, tmp_path: Path) -> Path:
    model, processor = clip_llama
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def test_every_door_gives_bit_equal_logits(built: Built, tmp_path: Path) -> None:
    model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    batch = processor.encode_chat(ask(make_picture(), "What is <region1>?"), regions=[Box(1, 1, 20, 20)])
    with torch.no_grad():
        expected = model(**batch).logits
        doors = [
            AutoModelForImageTextToText.from_pretrained(tmp_path).eval(),
            RegionGPTForConditionalGeneration.from_pretrained(tmp_path).eval(),
            load(tmp_path, device="cpu")[0],
        ]
        for door in doors:
            assert all(
                torch.equal(value, door.state_dict()[name]) for name, value in model.state_dict().items()
            )
        # Weights straight from a memory-mapped file may lie at odd addresses, where kernels round
        # differently in the last bit; `load` moves them, a copy does too.
        assert torch.equal(doors[-1](**batch).logits, expected)
        assert all(torch.equal(copy.deepcopy(door)(**batch).logits, expected) for door in doors)
        body = copy.deepcopy(AutoModel.from_pretrained(tmp_path).eval())
        assert isinstance(body, RegionGPTModel)
        assert torch.equal(model.lm_head(body(**batch).last_hidden_state), expected)
    assert torch.equal(
        AutoProcessor.from_pretrained(tmp_path)(text="abc")["input_ids"], processor(text="abc")["input_ids"]
    )


@pytest.mark.parametrize("refinement", ["deconv", "residual", "bilinear", "none"])
@pytest.mark.parametrize("projector", ["shared", "linear"])
def test_every_variant_round_trips(refinement: str, projector: str, tmp_path: Path) -> None:
    model = make_model(refinement=refinement, region_projector=projector)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = RegionGPTForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    from tests.model.tiny_models import LM

    model = make_model(text_config=LlamaConfig(**LM, tie_word_embeddings=True))
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again = RegionGPTForConditionalGeneration.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.get_input_embeddings().weight


def test_load_sets_dtype_device_and_mode(folder: Path) -> None:
    model, processor = load(folder)
    assert not model.training
    assert model.dtype == torch.float32 or torch.cuda.is_available()
    half, _ = load(folder, dtype="bfloat16", device="cpu")
    assert half.dtype == torch.bfloat16 and next(half.parameters()).device.type == "cpu"
    assert processor.image_size == 28


def test_the_embedded_model_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(loading_module.PACKAGED, "tiny", tmp_path)
    with pytest.raises(InputError, match="train_tiny"):
        load("tiny")


def _rewrite(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_damaged_folders_are_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    weights = folder / "model.safetensors"
    tensors, whole = load_file(weights), weights.read_bytes()

    save_file(
        {k: v for k, v in tensors.items() if "refinement.norm.weight" not in k}, weights, {"format": "pt"}
    )
    with pytest.raises(InputError, match=r"lacks 1 weights, first model\.refinement\.norm\.weight"):
        load(folder)
    save_file({**tensors, "model.extra": torch.zeros(1)}, weights, {"format": "pt"})
    with pytest.raises(InputError, match=r"unknown 1 weights, first model\.extra"):
        load(folder)
    save_file({**tensors, "lm_head.weight": torch.zeros(3, 3)}, weights, {"format": "pt"})
    with pytest.raises(InputError, match=r"wrong shape for 1 weights, first lm_head\.weight"):
        load(folder)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=str(folder)):
        load(folder)
    weights.write_bytes(whole)
    _rewrite(folder / "processor_config.json", {"merge_grid": 3})
    with pytest.raises(InputError, match="merge_grid is 3 in the processor but 2 in the model"):
        load(folder)
    _rewrite(folder / "processor_config.json", {"merge_grid": 2})
    config = json.loads((folder / "config.json").read_text())
    _rewrite(folder / "config.json", {"region_token_id": config["region_token_id"] + 1})
    with pytest.raises(InputError, match="region_token_id"):
        load(folder)
    _rewrite(folder / "config.json", {"model_type": "llava"})
    with pytest.raises(InputError, match="'llava', not 'regiongpt'"):
        load(folder)
    with pytest.raises(InputError, match="nowhere"):
        load(folder / "nowhere")
    with pytest.raises(InputError, match=r"there is no .*config\.json"):
        load(tmp_path_factory.mktemp("empty"))


def test_a_processor_of_another_model_is_refused() -> None:
    processor = make_processor(make_model().config)
    other = make_model(refinement="none").config
    with pytest.raises(InputError, match="refined_grid is 16 in the processor but 4 in the model"):
        processor.check_model(other)


def test_the_pipeline_takes_regions(folder: Path) -> None:
    talk = pipeline("image-text-to-text", model=str(folder), device="cpu")
    model, processor = load(folder, device="cpu")
    blocks = [
        {"type": "image", "image": make_picture()},
        {"type": "text", "text": "What is "},
        {"type": "region", "region": {"box": [1, 1, 20, 20]}},
        {"type": "text", "text": "?"},
    ]
    chat = [{"role": "user", "content": blocks}]
    written = talk(text=chat, max_new_tokens=4, return_full_text=False)[0]["generated_text"]
    batch = processor.encode_chat(chat, add_generation_prompt=True)
    new = model.generate(**batch, max_new_tokens=4, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert written.strip() == processor.decode(new, skip_special_tokens=True)
    ready = talk(
        images=make_picture(),
        text="<image>What is [1] <region1>?",
        max_new_tokens=4,
        regions=[Box(1, 1, 9, 9)],
    )
    assert ready[0]["generated_text"]


def test_gradient_checkpointing_and_eager_attention(built: Built, tmp_path: Path) -> None:
    model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    batch = processor.encode_chat(
        ask(make_picture(), "What is <region1>?", answer="a cat"),
        regions=[Box(1, 1, 20, 20)],
        return_labels=True,
    )
    with torch.no_grad():
        expected = model(**batch).loss
    for attention in ("eager", "sdpa"):
        again, _ = load(tmp_path, device="cpu", attn_implementation=attention)
        assert again.config.text_config._attn_implementation == attention
        name = "activation_checkpointing_enable"
        getattr(again, name if hasattr(again, name) else "gradient_checkpointing_enable")()
        again.model.vision_tower.requires_grad_(False)
        again.train()
        loss = again(**batch).loss
        loss.backward()
        torch.testing.assert_close(loss.detach(), expected, atol=1e-5, rtol=1e-5)
        assert again.model.refinement.deconv_1.weight.grad.abs().max() > 0

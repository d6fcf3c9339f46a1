"""Every standard door of transformers opens an assembled folder, and what is behind it is the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    pipeline,
)

from rgpt.errors import InputError
from rgpt.model import RegionGPTConfig, RegionGPTForConditionalGeneration, RegionGPTProcessor, load
from rgpt.model.assemble import Options, assemble_llava
from rgpt.model.quantization import KEPT_WHOLE, keep_whole, quantization_config
from rgpt.regions import Box, Point
from tests.model.checkpoints import STRATEGY, make_llava
from tests.model.tiny_models import make_picture

Opened = tuple[Path, RegionGPTForConditionalGeneration, RegionGPTProcessor]


@pytest.fixture(scope="module", params=sorted(STRATEGY))
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp("doors")
    make_llava(folder / "llava", request.param)
    assemble_llava(str(folder / "llava"), folder / "out", Options(max_shard_size="40KB"))
    return folder / "out", *load(folder / "out", device="cpu")


def unlike_rows(processor: RegionGPTProcessor) -> Any:
    """Three prompts: two mentions, words only, two pictures."""
    texts = [
        "<image><region1> or <region2>?",
        "words",
        "<image><image>Is <region1> like <region2>, or <region1>?",
    ]
    regions = [[Box(0, 0, 20, 20), Point(20, 20)], None, {1: Box(2, 2, 9, 9), 2: (1, Box(5, 5, 30, 30))}]
    pictures = [make_picture(seed, 30 + seed, 40) for seed in range(3)]
    return processor(images=pictures, text=texts, regions=regions, padding_side="left")


GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0}


@torch.no_grad()
def test_auto_classes(opened: Opened) -> None:
    folder, model, processor = opened
    assert isinstance(AutoConfig.from_pretrained(folder), RegionGPTConfig)
    again, batch = AutoProcessor.from_pretrained(folder), unlike_rows(processor)
    assert isinstance(again, RegionGPTProcessor)
    assert all(torch.equal(value, unlike_rows(again)[name]) for name, value in batch.items())
    real = batch["attention_mask"].bool()  # what stands on padding differs: nothing reads it
    expected = model(**batch).logits[real]
    for attention in ("eager", "sdpa"):
        door = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation=attention).eval()
        torch.testing.assert_close(door(**batch).logits[real], expected, atol=1e-4, rtol=1e-4)


def test_device_map_auto(opened: Opened) -> None:
    folder, model, processor = opened
    mapped = AutoModelForImageTextToText.from_pretrained(folder, device_map="auto").eval()
    batch = unlike_rows(processor).to(mapped.device)
    assert torch.equal(
        mapped.generate(**batch, **GREEDY).cpu(), model.generate(**unlike_rows(processor), **GREEDY)
    )
    assert next(load(folder, device_map="auto")[0].parameters()).device == mapped.device


@torch.no_grad()
def test_parts_on_disk_are_brought_in_layer_by_layer(opened: Opened, tmp_path: Path) -> None:
    # What device_map does with too little memory; a layer of ours must not be torn apart.
    folder, model, processor = opened
    parts = {name: "cpu" for name, _ in model.model.named_children()}
    places = {f"model.{name}": place for name, place in parts.items()} | {"lm_head": "cpu"}
    places |= {"model.refinement": "disk", "model.connector": "disk", "model.language_model": "disk"}
    away = AutoModelForImageTextToText.from_pretrained(
        folder, device_map=places, offload_folder=tmp_path
    ).eval()
    batch = unlike_rows(processor)
    torch.testing.assert_close(away(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)
    assert {"Connector", "DeconvRefinement"} <= set(model._no_split_modules)


def test_saving_again_in_shards(opened: Opened, tmp_path: Path) -> None:
    _, model, processor = opened
    model.save_pretrained(tmp_path, max_shard_size="25KB")
    processor.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2 and not list(tmp_path.glob("*.bin"))
    again, batch = load(tmp_path, device="cpu")[0], unlike_rows(processor)
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert again.generation_config.suppress_tokens == model.generation_config.suppress_tokens


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_cpu(opened: Opened, dtype: torch.dtype) -> None:
    folder, model, processor = opened
    half = load(folder, dtype=dtype, device="cpu")[0]
    batch = unlike_rows(processor)
    with torch.no_grad():
        far = (half(**batch).logits.float() - model(**batch).logits).abs()[batch["attention_mask"].bool()]
    assert far.mean() < 0.2 * model(**batch).logits.std()
    assert half.generate(**batch, **GREEDY).shape[0] == 3


@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3, "top_k": 5},
        {"num_beams": 2, "do_sample": True},
    ],
    ids=str,
)
def test_ways_of_generating(opened: Opened, options: dict[str, Any]) -> None:
    _, model, processor = opened
    batch = unlike_rows(processor)
    settings = {**GREEDY, **options}
    torch.manual_seed(0)
    out = model.generate(**batch, **settings)
    assert out.shape[0] == 3 * settings.get("num_return_sequences", 1)
    assert not torch.isin(out[:, batch["input_ids"].shape[1] :], torch.tensor([100, 101])).any()
    if "do_sample" not in options and "num_beams" not in options:
        assert torch.equal(out, model.generate(**batch, **GREEDY))


def test_the_pipeline(opened: Opened) -> None:
    folder, model, processor = opened
    talk = pipeline("image-text-to-text", model=str(folder), device="cpu")
    chat = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": make_picture()},
                {"type": "text", "text": "What is "},
                {"type": "region", "region": {"box": [1, 1, 20, 20]}},
            ],
        }
    ]
    said = talk(text=chat, max_new_tokens=4, return_full_text=False)[0]["generated_text"]
    batch = processor.encode_chat(chat, add_generation_prompt=True)
    new = model.generate(**batch, max_new_tokens=4, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert said.strip() == processor.decode(new, skip_special_tokens=True).strip()


def test_gradient_checkpointing_gives_the_same_gradients(opened: Opened) -> None:
    folder, _, processor = opened
    batch = unlike_rows(processor)
    labels = torch.where(batch["attention_mask"] == 1, batch["input_ids"], -100)
    found = []
    for checkpointing in (False, True):
        model = load(folder, device="cpu")[0]
        model.model.vision_tower.requires_grad_(False)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        model(**batch, labels=labels).loss.backward()
        found.append(
            [model.model.connector.linear_1.weight.grad, model.model.refinement.deconv_2.weight.grad]
        )
    for plain, checked in zip(*found, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(plain, checked, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_torch_compile(tmp_path: Path) -> None:
    make_llava(tmp_path / "llava")
    assemble_llava(str(tmp_path / "llava"), tmp_path / "out")
    model, processor = load(tmp_path / "out", device="cpu")
    batch = unlike_rows(processor)
    compiled = torch.compile(model)
    torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["nobody/nothing", "./nowhere", "tiny-but-wrong", "a b"])
def test_a_model_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as refusal:
        load(name)
    assert name in str(refusal.value) and "\n" not in str(refusal.value)


# ------------------------------------------------------------------------------------------- quantisation


@pytest.mark.parametrize("bits", [8, 4])
@torch.no_grad()
def test_quantised_loading_keeps_the_parts_around_regions_whole(bits: int, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")  # its CPU kernels; not verified on a GPU
    make_llava(
        tmp_path / "llava",
        vision={"hidden_size": 64, "intermediate_size": 128},
        text={"hidden_size": 128, "intermediate_size": 256},
    )
    assemble_llava(str(tmp_path / "llava"), tmp_path / "out")
    whole, processor = load(tmp_path / "out", device="cpu")
    small, _ = load(tmp_path / "out", device="cpu", bits=bits)
    kinds = {name: type(module).__name__ for name, module in small.named_modules()}
    plain = {name for name, kind in kinds.items() if kind == "Linear"}
    assert plain == {"model.connector.linear_1", "model.connector.linear_2", "lm_head"}
    quantised = {8: "Linear8bitLt", 4: "Linear4bit"}[bits]
    assert kinds["model.language_model.layers.0.mlp.up_proj"] == quantised
    assert kinds["model.vision_tower.encoder.layers.0.mlp.fc1"] == quantised
    state = whole.state_dict()
    for name, value in small.state_dict().items():
        if name.startswith(tuple(f"model.{part}" for part in KEPT_WHOLE)):
            assert torch.equal(value.float(), state[name]), name
    batch = processor(images=make_picture(), text="<image><region1>?", regions=[Box(1, 1, 20, 20)])
    expected, logits = whole(**batch).logits, small(**batch).logits.float()
    correlation = torch.corrcoef(torch.stack([expected.flatten(), logits.flatten()]))[0, 1]
    assert correlation > {8: 0.98, 4: 0.5}[bits]
    assert small.generate(**batch, **GREEDY).shape[0] == 1


def test_a_callers_own_quantisation_keeps_them_too() -> None:
    kept = keep_whole(BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["mine"]))
    assert kept.llm_int8_skip_modules[0] == "mine"
    assert {"lm_head", "model.connector", "model.refinement"} <= set(kept.llm_int8_skip_modules)
    assert keep_whole(None) is None
    assert quantization_config(4).load_in_4bit and quantization_config(8).load_in_8bit


def test_other_numbers_of_bits(opened: Opened) -> None:
    with pytest.raises(InputError, match="bits is 3"):
        load(opened[0], bits=3)
    with pytest.raises(InputError, match="not both"):
        load(opened[0], bits=8, quantization_config=quantization_config(8))

"""LLaVA becomes a RegionGPT that is the same model: same ids, same logits, same answers, and then regions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from rgpt.model import RegionGPTForConditionalGeneration, RegionGPTProcessor, load
from rgpt.model.assemble import Options, assemble_llava
from rgpt.model.projection import pool_regions
from rgpt.regions import Box
from tests.model.checkpoints import STRATEGY, make_llava
from tests.model.tiny_models import make_picture

PROMPTS = [
    "<image>a cat?",
    "no picture, only words",
    "<image>and a much longer question here:",
    "<image><image>x",
]
Pair = tuple[LlavaForConditionalGeneration, RegionGPTForConditionalGeneration, RegionGPTProcessor]


@pytest.fixture(scope="module", params=sorted(STRATEGY))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("llava")
    llava = make_llava(folder / "llava", request.param, shard="40KB")
    assemble_llava(str(folder / "llava"), folder / "out", Options(max_shard_size="30KB"))
    assert len(list((folder / "out").glob("*.safetensors"))) > 3
    return llava, *load(folder / "out", device="cpu")


def batch_of(prompts: list[str], processor: RegionGPTProcessor, side: str = "left") -> Any:
    pictures = [make_picture(i) for i in range(sum(prompt.count("<image>") for prompt in prompts))]
    return processor(images=pictures, text=prompts, padding_side=side)


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS[:2], PROMPTS], ids=["one", "with text", "unlike"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_image_only_logits_are_llavas(pair: Pair, prompts: list[str], side: str) -> None:
    llava, model, processor = pair
    batch = batch_of(prompts, processor, side)
    theirs, ours = llava(**batch).logits, model(**batch).logits
    assert theirs.std() > 0.1, "a model that says the same whatever it sees would prove nothing"
    real = batch["attention_mask"].bool()
    assert (theirs - ours[..., : theirs.shape[-1]]).abs()[real].max() <= 1e-5


@pytest.mark.parametrize("prompts", [[prompt] for prompt in PROMPTS] + [PROMPTS], ids=str)
def test_greedy_answers_are_llavas_token_for_token(pair: Pair, prompts: list[str]) -> None:
    llava, model, processor = pair
    batch = batch_of(prompts, processor)
    # A RegionGPT never answers with a placeholder; random LLaVA weights might.
    options = {
        "max_new_tokens": 12,
        "do_sample": False,
        "suppress_tokens": model.generation_config.suppress_tokens,
        "pad_token_id": 0,
    }
    assert torch.equal(llava.generate(**batch, **options), model.generate(**batch, **options))


@torch.no_grad()
def test_the_picture_matters_to_both(pair: Pair) -> None:
    llava, model, processor = pair
    one, other = (processor(images=make_picture(seed), text=PROMPTS[0]) for seed in (1, 2))
    for net in (llava, model):
        assert (net(**one).logits[:, -1] - net(**other).logits[:, -1]).abs().max() > 1e-2


def test_prompts_get_the_ids_that_llava_gives(pair: Pair, tmp_path: Path) -> None:
    make_llava(tmp_path)
    theirs = AutoProcessor.from_pretrained(tmp_path)
    processor = pair[2]
    picture = make_picture(0, 28, 28)
    expected = theirs(images=picture, text=PROMPTS[2], return_tensors="pt")["input_ids"]
    assert torch.equal(processor(images=picture, text=PROMPTS[2])["input_ids"], expected)


def test_a_square_picture_gets_llavas_pixels(tmp_path: Path) -> None:
    make_llava(tmp_path / "llava")
    assemble_llava(str(tmp_path / "llava"), tmp_path / "out")
    picture = make_picture(0, 28, 28)  # square and of the tower's size: nothing to pad, crop or resize
    theirs = AutoProcessor.from_pretrained(tmp_path / "llava")(
        images=picture, text="<image>", return_tensors="pt"
    )
    ours = RegionGPTProcessor.from_pretrained(tmp_path / "out")(images=picture, text="<image>")
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_regions_start_as_llavas_own_vectors(pair: Pair) -> None:
    # Before any training: a region is the mean of LLaVA's patches under it, through LLaVA's projector.
    llava, model, processor = pair
    region = Box(0, 0, 40, 17)
    batch = processor(images=make_picture(), text="<image>What is <region1>?", regions=[region])
    hidden = llava.model.vision_tower(batch["pixel_values"], output_hidden_states=True).hidden_states[-2]
    patches = hidden[:, -16:].transpose(1, 2).unflatten(2, (4, 4))
    fine = patches.repeat_interleave(4, 2).repeat_interleave(4, 3)
    expected = llava.model.multi_modal_projector(pool_regions(fine, batch["region_masks"]))[0, 0]
    features = model.get_image_features(
        **{k: batch[k] for k in ("pixel_values", "region_masks", "region_index")}
    )
    torch.testing.assert_close(features.region_features[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_feature_layer": -1},
        {"vision_feature_layer": 1},
        {"multimodal_projector_bias": False},
        {"projector_hidden_act": "relu"},
        {"text": {"tie_word_embeddings": True}},
        {"text": {"vocab_size": 101}},  # not one free row: the embeddings must grow
        {"vision": {"hidden_act": "gelu"}},
    ],
    ids=str,
)
@torch.no_grad()
def test_every_shape_of_llava_is_kept(changes: dict[str, Any], tmp_path: Path) -> None:
    llava = make_llava(tmp_path / "llava", **changes)
    assemble_llava(str(tmp_path / "llava"), tmp_path / "out")
    model, processor = load(tmp_path / "out", device="cpu")
    batch = batch_of(PROMPTS, processor)
    theirs, ours = llava(**batch).logits, model(**batch).logits
    real = batch["attention_mask"].bool()
    assert (theirs - ours[..., : theirs.shape[-1]]).abs()[real].max() <= 1e-5


@torch.no_grad()
def test_older_names_on_disk_are_the_same_model(tmp_path: Path) -> None:
    # transformers 4.52 and later saved `model.language_model...`, earlier ones `language_model.model...`;
    # towers were saved with and without `vision_model.`, and with buffers that are computed today.
    from safetensors.torch import load_file, save_file

    llava = make_llava(tmp_path / "llava")
    file = tmp_path / "llava" / "model.safetensors"
    on_disk = load_file(file)
    assert any(key.startswith("language_model.model.") for key in on_disk)
    renamed = {}
    for key, value in on_disk.items():
        key = key.replace("language_model.lm_head.", "lm_head.").replace(
            "language_model.model.", "model.language_model."
        )
        key = key.replace("vision_tower.", "model.vision_tower.vision_model.").replace(
            "multi_modal", "model.multi_modal"
        )
        renamed[key] = value
    renamed["model.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)
    save_file(renamed, file, {"format": "pt"})
    assemble_llava(str(tmp_path / "llava"), tmp_path / "out")
    model, processor = load(tmp_path / "out", device="cpu")
    batch = batch_of(PROMPTS, processor)
    real = batch["attention_mask"].bool()
    assert (llava(**batch).logits - model(**batch).logits).abs()[real].max() <= 1e-5
    source = json.loads((tmp_path / "out" / "provenance.json").read_text())["sources"][0]
    assert list(source["ignored_keys"]) == ["model.vision_tower.vision_model.embeddings.position_ids"]


def test_provenance_names_sources_versions_and_new_layers(tmp_path: Path) -> None:
    make_llava(tmp_path / "llava", shard="40KB")
    done = assemble_llava(str(tmp_path / "llava"), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert record["way"] == "llava" and record["sources"][0]["id"] == str(tmp_path / "llava")
    assert {"rgpt", "torch", "transformers"} <= set(record["versions"]) and record["date"][:2] == "20"
    assert record["fresh"] == done.fresh and all(".refinement." in name for name in done.fresh)
    assert len(record["sources"][0]["files"]) > 1


def test_half_precision_stays_half(tmp_path: Path) -> None:
    make_llava(tmp_path / "llava").half().save_pretrained(tmp_path / "llava")
    assemble_llava(str(tmp_path / "llava"), tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assemble_llava(str(tmp_path / "llava"), tmp_path / "brain", Options(dtype="bfloat16"))
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "brain", dtype="auto")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}

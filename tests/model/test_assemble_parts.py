"""CLIP + Vicuna, open_clip and SpatialRGPT: weights arrive unchanged, and the region path is the formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel
from transformers.activations import ACT2FN

from rgpt.errors import InputError
from rgpt.model import RegionGPTConfig, RegionGPTForConditionalGeneration, load
from rgpt.model.assemble import Options, assemble_parts, assemble_spatialrgpt
from rgpt.model.assemble_openclip import open_clip_tower
from rgpt.model.conversation import chat_template
from rgpt.model.projection import fold_blocks
from rgpt.regions import Box, Point
from tests.model.checkpoints import as_pickle, make_clip, make_llm, make_spatialrgpt, rewrite
from tests.model.test_parts import plain_gelu, plain_merge, plain_pool, plain_refine
from tests.model.tiny_models import VIT, make_config, make_picture, make_tokenizer


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pytorch_model.bin"])
@torch.no_grad()
def test_clip_and_vicuna_arrive_unchanged(tmp_path: Path, pickled: bool) -> None:
    clip, llm = make_clip(tmp_path / "clip"), make_llm(tmp_path / "llm", hidden_size=48)
    if pickled:
        as_pickle(tmp_path / "clip")
        as_pickle(tmp_path / "llm")
    done = assemble_parts(str(tmp_path / "clip"), str(tmp_path / "llm"), tmp_path / "out")
    model, processor = load(tmp_path / "out", device="cpu")
    assert model.config.refinement == "deconv" and model.config.merge_grid == 4

    pixels = torch.randn(2, 3, 28, 28)
    theirs = clip.vision_model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert torch.equal(model.model.vision_features(pixels).flatten(2).transpose(1, 2), theirs)
    ids = processor(text=["only words here", "more"])
    ours = model(**ids).logits
    assert ours.shape[-1] == 128, "102 tokens, in steps of 64"
    real = ids["attention_mask"].bool()
    assert torch.equal(ours[..., :100][real], llm(**ids).logits[real])
    rows = model.get_input_embeddings().weight[100:]
    assert torch.unique(rows, dim=0).shape == rows.shape, "placeholders must be told apart by their embedding"

    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    ignored = record["sources"][0]["ignored_keys"]
    assert {"logit_scale", "visual_projection.weight"} <= set(ignored)
    used = sum(source["used_keys"] for source in record["sources"])
    assert used + len(record["fresh"]) == done.tensors == len(model.state_dict())


def test_the_seed_decides_new_layers(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip")
    make_llm(tmp_path / "llm")
    sources = str(tmp_path / "clip"), str(tmp_path / "llm")

    def fresh(name: str, seed: int) -> dict[str, Tensor]:
        done = assemble_parts(*sources, tmp_path / name, Options(seed=seed))
        state = load(tmp_path / name, device="cpu")[0].state_dict()
        assert {key.split(".")[1] for key in done.fresh} == {"refinement", "connector"}
        return {key: state[key] for key in done.fresh}

    one, again, other = fresh("a", 0), fresh("b", 0), fresh("c", 1)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["model.connector.linear_1.weight"], other["model.connector.linear_1.weight"])


# ---------------------------------------------------------------------------------------------- open_clip


@pytest.fixture
def open_clip_file(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A tiny open_clip model that is known by name, with its weights in a file: (name, model)."""
    name = f"tiny-{request.node.name.translate(str.maketrans('[]', '--'))}"
    quick = getattr(request, "param", False)
    settings = {
        "embed_dim": 8,
        "quick_gelu": quick,
        "vision_cfg": {"image_size": 28, "layers": 3, "width": 16, "head_width": 8, "patch_size": 7},
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / f"{name}.json").write_text(json.dumps(settings))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.manual_seed(5)
    model = open_clip.create_model(name).eval()
    for parameter in model.visual.parameters():
        nn.init.normal_(parameter, std=0.4)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return f"open_clip:{name}/{tmp_path / 'weights.pt'}", model


@pytest.mark.parametrize("open_clip_file", [False, True], indirect=True, ids=["gelu", "quick_gelu"])
@torch.no_grad()
def test_open_clip_towers_give_the_same_features(open_clip_file: Any, tmp_path: Path) -> None:
    name, theirs = open_clip_file
    make_llm(tmp_path / "llm")
    assemble_parts(name, str(tmp_path / "llm"), tmp_path / "out")
    model, processor = load(tmp_path / "out", device="cpu")
    activation = model.config.vision_config.hidden_act
    built = type(theirs.visual.transformer.resblocks[0].mlp.gelu).__name__
    assert activation == {"GELU": "gelu", "QuickGELU": "quick_gelu"}[built]
    seen = []
    hook = theirs.visual.transformer.resblocks[-2].register_forward_hook(lambda *args: seen.append(args[-1]))
    pixels = processor(images=make_picture(), text="<image>")["pixel_values"]
    theirs.encode_image(pixels)
    hook.remove()
    ours = model.model.vision_features(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, seen[0][:, 1:], atol=1e-5, rtol=1e-5)
    # The other activation would not pass: the test can fail.
    other = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[activation]
    for layer in model.model.vision_tower.encoder.layers:
        layer.mlp.activation_fn = ACT2FN[other]
    wrong = model.model.vision_features(pixels).flatten(2).transpose(1, 2)
    assert (wrong - seen[0][:, 1:]).abs().max() > 1e-3


def test_the_openai_tag_means_quick_gelu_whatever_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def spy(name: str, **options: Any) -> Any:
        asked.update(options)
        raise RuntimeError("no network here")

    monkeypatch.setattr(open_clip, "create_model", spy)
    for tag, quick in (("openai", True), ("laion2b_s32b_b82k", False)):
        with pytest.raises(InputError, match="no network here"):
            open_clip_tower(f"open_clip:ViT-L-14/{tag}")
        assert asked["force_quick_gelu"] is quick and asked["weights_only"] is True


@torch.no_grad()
def test_open_clip_and_transformers_towers_of_one_model_agree(open_clip_file: Any) -> None:
    config, weights, ignored, _ = open_clip_tower(open_clip_file[0])
    tower = CLIPVisionModel(config)
    names = {key.removeprefix("vision_model.") for key in tower.state_dict()}
    assert set(weights) == names and set(ignored) == {"proj"}


@pytest.mark.parametrize("name", ["open_clip:RN50/none.pt", "open_clip:ViT-L-14", "open_clip:no-such/openai"])
def test_other_open_clip_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"open_clip"):
        open_clip_tower(name)


def test_a_convolutional_open_clip_tower_is_refused(tmp_path: Path) -> None:
    from rgpt.model.assemble_openclip import tower_config

    with pytest.raises(InputError, match="not a plain ViT"):
        tower_config(nn.Conv2d(3, 3, 1), "open_clip:RN50/openai")


# ---------------------------------------------------------------------------------------------- SpatialRGPT


def plain_blocks(tokens: Tensor, side: int) -> Tensor:
    """[side * side, C] -> [n, 4C]: pad to even with zeros, then block columns, then block rows."""
    cells = torch.zeros(side + side % 2, side + side % 2, tokens.shape[-1])
    cells[:side, :side] = tokens.reshape(side, side, -1)
    half = len(cells) // 2
    blocks = [cells[2 * r : 2 * r + 2, 2 * c : 2 * c + 2] for c in range(half) for r in range(half)]
    return torch.stack([block.reshape(-1) for block in blocks])  # in a block: row by row


@pytest.mark.parametrize("side", [1, 2, 3, 4, 27])
def test_blocks_of_four_come_column_by_column(side: int) -> None:
    tokens = torch.randn(2, side * side, 3)
    torch.testing.assert_close(
        fold_blocks(tokens, side), torch.stack([plain_blocks(t, side) for t in tokens])
    )


@pytest.mark.parametrize("connector", ["mlp_downsample", "mlp2x_gelu"])
@torch.no_grad()
def test_spatialrgpt_is_the_formula(connector: str, tmp_path: Path) -> None:
    parts = make_spatialrgpt(tmp_path / "source", connector)
    assemble_spatialrgpt(str(tmp_path / "source"), tmp_path / "out")
    model, processor = load(tmp_path / "out", device="cpu")
    config = model.config
    assert (config.profile, config.vision_grid, config.merge_grid, config.refined_grid) == (
        "spatialrgpt", 7, 27, 28,
    )  # fmt: skip
    assert processor.image_tokens == config.image_tokens == (196 if connector == "mlp_downsample" else 729)
    regions = [Box(2, 3, 30, 20), Point(35, 25)]
    prompt = "<image>Is <region2> left of <region1>?"
    batch = processor(images=make_picture(), text=prompt, regions=regions)
    out = model.get_image_features(**{k: batch[k] for k in ("pixel_values", "region_masks", "region_index")})

    # From the source's own modules, step by step.
    hidden = parts["vision"](batch["pixel_values"], output_hidden_states=True).hidden_states[-2]
    names = ("deconv_1", "norm", "gelu", "deconv_2")
    theirs = nn.ModuleDict(zip(names, list(parts["regions"]["feature_refinement_module"])[:4], strict=True))
    refined = plain_refine(hidden.transpose(1, 2).unflatten(2, (7, 7)), theirs, "deconv")
    cells = plain_merge(refined[0], 27)
    layers = parts["connector"]["layers"]
    if connector == "mlp_downsample":
        cells = layers[1](plain_blocks(cells, 27))
    first, last = layers[-3], layers[-1]
    tokens = plain_gelu(cells @ first.weight.T + first.bias) @ last.weight.T + last.bias
    pooled = torch.stack([plain_pool(refined[0], batch["region_masks"][0, i]) for i in (1, 0)])
    vectors = parts["regions"]["rgb_projector"](pooled)
    assert (out.pooler_output[0] - tokens).abs().max() <= 1e-5
    assert (out.region_features - vectors).abs().max() <= 1e-5

    words = processor(text="only words")
    assert torch.equal(model(**words).logits[..., :100], parts["llm"](**words).logits)
    assert "<region>" in processor.tokenizer.get_vocab() and processor.mention(3) == "<region>"


def test_spatialrgpt_on_llama_3_keeps_the_words_it_was_trained_with(tmp_path: Path) -> None:
    make_spatialrgpt(tmp_path / "source")
    tokenizer = make_tokenizer(placeholders=False)
    turns = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": turns})
    tokenizer.save_pretrained(tmp_path / "source" / "llm")
    assemble_spatialrgpt(str(tmp_path / "source"), tmp_path / "out")
    _, processor = load(tmp_path / "out", device="cpu")
    assert processor.chat_template == chat_template("spatialrgpt")
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert set(processor.tokenizer.convert_ids_to_tokens(ends)) == {"<|eot_id|>", "<|end_of_text|>", "</s>"}


def test_spatialrgpt_accounts_for_every_key(tmp_path: Path) -> None:
    make_spatialrgpt(tmp_path / "source")
    assemble_spatialrgpt(str(tmp_path / "source"), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert record["fresh"] == []
    by_part = {source["part"].rsplit("/")[-1]: source for source in record["sources"]}
    assert by_part["region_extractor"]["used_keys"] == 8
    assert set(by_part["region_extractor"]["ignored_keys"]) == {
        "depth_projector.weight",
        "depth_projector.bias",
    }
    assert all("no depth" in why for why in by_part["region_extractor"]["ignored_keys"].values())


@pytest.mark.parametrize(
    "damage, words",
    [
        (
            lambda f: rewrite(f / "region_extractor/config.json", region_extractor_type="duplicate"),
            "duplicate",
        ),
        (lambda f: rewrite(f / "mm_projector/config.json", mm_projector_type="linear"), "linear"),
        (lambda f: (f / "mm_projector/config.json").unlink(), "no mm_projector/config.json"),
        (lambda f: rewrite(f / "config.json", s2=True), "several scales"),
        (
            lambda f: _change(f / "region_extractor/model.safetensors", drop="rgb_projector.bias"),
            "lacks 1 weights",
        ),
        (
            lambda f: _change(f / "region_extractor/model.safetensors", add="rgb_projector.scale"),
            "no place for",
        ),
        (
            lambda f: _change(f / "mm_projector/model.safetensors", drop="layers.1.weight"),
            "model.connector.norm",
        ),
    ],
)
def test_another_spatialrgpt_is_refused(damage: Any, words: str, tmp_path: Path) -> None:
    make_spatialrgpt(tmp_path / "source")
    damage(tmp_path / "source")
    with pytest.raises(InputError, match=words):
        assemble_spatialrgpt(str(tmp_path / "source"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def _change(path: Path, drop: str = "", add: str = "") -> None:
    from safetensors.torch import load_file, save_file

    tensors = {key: value for key, value in load_file(path).items() if key != drop}
    if add:
        tensors[add] = torch.zeros(3)
    save_file(tensors, path)


def test_a_connector_of_blocks_cannot_be_shared() -> None:
    with pytest.raises(InputError, match="region_projector"):
        RegionGPTConfig(connector="mlp_downsample", vision_config=VIT | {"model_type": "clip_vision_model"})


def test_a_connector_of_blocks_trains_and_answers() -> None:
    config = make_config(connector="mlp_downsample", region_projector="linear", merge_grid=3)
    model = RegionGPTForConditionalGeneration(config)
    assert config.image_tokens == 4
    row = torch.tensor([[config.image_token_id] * 4 + [9, config.region_token_id, 10]])
    given = {"pixel_values": torch.randn(1, 3, 28, 28), "region_masks": torch.ones(1, 1, 16, 16)}
    model(input_ids=row, region_index=torch.tensor([0]), labels=row, **given).loss.backward()
    assert model.model.connector.norm.weight.grad.abs().max() > 0
    model.train()
    model(input_ids=torch.tensor([[9, 10]]), labels=torch.tensor([[9, 10]])).loss.backward()  # words only

"""Folders as transformers and timm themselves write them: other names, other picture sizes, other layers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    ViTImageProcessor,
)
from transformers.modeling_outputs import BaseModelOutput

from rgpt.cli import main
from rgpt.errors import InputError
from rgpt.model import load
from rgpt.model.assemble import Options, assemble_llava, assemble_parts
from rgpt.model.assemble_library import ANTIALIASED
from tests.model.checkpoints import draw, make_chatml_llm, make_llava, make_llm, make_timm, make_tower
from tests.model.tiny_models import LM, VIT, make_picture, make_tokenizer

RENAMED = ["dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "deit", "beit", "ijepa", "vit_msn"]
SAME = ["clip_vision_model", "siglip_vision_model", "data2vec-vision"]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llm")
    make_llm(folder)
    return str(folder)


def names_in(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def vision_source(out: Path) -> dict[str, Any]:
    return json.loads((out / "provenance.json").read_text())["sources"][0]


def patches(hidden: Tensor, grid: int) -> Tensor:
    """[B, prefix + N, C] -> [B, C, h, w]"""
    return hidden[:, -(grid**2) :].transpose(1, 2).unflatten(2, (grid, grid))


# ------------------------------------------------------------------------------------------ published names


@pytest.mark.parametrize("kind", RENAMED + SAME)
@torch.no_grad()
def test_a_tower_as_the_library_saves_it(kind: str, llm: str, tmp_path: Path) -> None:
    made = make_tower(tmp_path / "tower", kind)
    on_disk = names_in(tmp_path / "tower")
    assert (on_disk != set(made.state_dict())) == (kind in RENAMED), "the library's names have changed again"
    theirs, told = AutoModel.from_pretrained(tmp_path / "tower", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]

    assemble_parts(str(tmp_path / "tower"), llm, tmp_path / "out")
    model, processor = load(tmp_path / "out", device="cpu")
    tower = model.model.vision_tower.state_dict()
    assert all(torch.equal(value, tower[key]) for key, value in theirs.state_dict().items())
    pixels = torch.randn(2, 3, 28, 28)
    hidden = theirs.eval()(pixels, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(model.model.vision_features(pixels), patches(hidden, 4))
    processor(images=make_picture(), text="<image>")

    source = vision_source(tmp_path / "out")
    assert source["used_keys"] == len(on_disk) and source["ignored_keys"] == {}
    assert bool(source["renamed_by_transformers"]) == (kind in RENAMED)

    model.save_pretrained(tmp_path / "again")  # the library renames once more, and back
    processor.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again", device="cpu")[0].state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())


def test_the_account_says_what_became_of_a_name(llm: str, tmp_path: Path) -> None:
    make_tower(tmp_path / "tower", "dinov2")
    assemble_parts(str(tmp_path / "tower"), llm, tmp_path / "out")
    old = "encoder.layer.*.attention.attention.query.weight"
    new = "model.vision_tower.encoder.layer.*.attention.q_proj.weight"
    assert vision_source(tmp_path / "out")["renamed_by_transformers"][new] == [old]


@torch.no_grad()
def test_a_classifiers_head_is_left_out_by_name(llm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Dinov2ForImageClassification(Dinov2Config(**VIT, num_labels=3)).eval()
    draw(whole)
    whole.save_pretrained(tmp_path / "tower")
    ViTImageProcessor().save_pretrained(tmp_path / "tower")
    assemble_parts(str(tmp_path / "tower"), llm, tmp_path / "out")
    model, _ = load(tmp_path / "out", device="cpu")
    pixels = torch.randn(1, 3, 28, 28)
    hidden = whole.dinov2(pixels, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(model.model.vision_features(pixels), patches(hidden, 4))
    reason = "belongs to the Dinov2ForImageClassification around the tower"
    ignored = vision_source(tmp_path / "out")["ignored_keys"]
    assert ignored == {"classifier.weight": reason, "classifier.bias": reason}


def test_a_surplus_or_missing_weight_is_still_refused(llm: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make_tower(tmp_path / "tower", "dinov2")
    file = tmp_path / "tower" / "model.safetensors"
    tensors = load_file(file)
    for change, words in (
        ({"encoder.layer.7.norm1.weight": torch.zeros(16)}, r"no place for, first encoder\.layer\.7"),
        ({"encoder.layer.0.attention.q_proj.bias": torch.zeros(16)}, "which are the same weight"),
        ({"layernorm.weight": None}, r"lacks 1 weights, .*layernorm\.weight"),
        ({"layernorm.weight": torch.zeros(3)}, r"layernorm\.weight has the shape \[3\]"),
    ):
        changed = {key: value for key, value in {**tensors, **change}.items() if value is not None}
        save_file(changed, file, {"format": "pt"})
        with pytest.raises(InputError, match=words):
            assemble_parts(str(tmp_path / "tower"), llm, tmp_path / "out")


@torch.no_grad()
def test_weights_that_the_library_joins(tmp_path: Path) -> None:
    # Experts are published one by one and joined while they are loaded: several keys make one weight.
    torch.manual_seed(0)
    theirs = MixtralForCausalLM(MixtralConfig(**LM, num_local_experts=3, num_experts_per_tok=2)).eval()
    theirs.save_pretrained(tmp_path / "llm")
    make_tokenizer(placeholders=False).save_pretrained(tmp_path / "llm")
    on_disk = names_in(tmp_path / "llm")
    assert len(on_disk) > len(theirs.state_dict())
    make_tower(tmp_path / "tower", "dinov2")
    assemble_parts(str(tmp_path / "tower"), str(tmp_path / "llm"), tmp_path / "out")
    model, processor = load(tmp_path / "out", device="cpu")
    batch = processor(text="only words")
    assert torch.equal(model(**batch).logits, theirs(**batch).logits)
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert record["sources"][1]["used_keys"] == len(on_disk)


# ------------------------------------------------------------------------------------------------------ timm


@pytest.mark.parametrize("layer", [None, "last", -3])
@torch.no_grad()
def test_timms_convolutions(layer: Any, llm: str, tmp_path: Path) -> None:
    theirs = make_timm(tmp_path / "tower", "tf_efficientnet_lite0")
    options = Options(image_size=96, vision_layer=layer, refinement="bilinear")
    assemble_parts(str(tmp_path / "tower"), llm, tmp_path / "out", options)
    model, processor = load(tmp_path / "out", device="cpu")
    assert processor.image_mean == list(theirs.pretrained_cfg["mean"]) and processor.image_size == 96
    pixels = processor(images=make_picture(), text="<image>")["pixel_values"]
    last, stages = theirs.forward_intermediates(pixels)
    expected = last if layer == "last" else stages[layer or -2]
    assert torch.equal(model.model.vision_features(pixels), expected)
    source = vision_source(tmp_path / "out")
    assert set(source["ignored_keys"]) == {"classifier.weight", "classifier.bias"}
    assert source["used_keys"] + 2 == len(names_in(tmp_path / "tower")) and source["resized_keys"] == []


SMALL_VIT = {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3}


@pytest.mark.parametrize("size", [None, 96])
@pytest.mark.parametrize("layer", [None, "last"])
@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "vit_medium_patch16_reg4_gap_256"])
@torch.no_grad()
def test_timms_transformers(
    architecture: str, layer: Any, size: int | None, llm: str, tmp_path: Path
) -> None:
    theirs = make_timm(tmp_path / "tower", architecture, **SMALL_VIT)
    assemble_parts(
        str(tmp_path / "tower"), llm, tmp_path / "out", Options(vision_layer=layer, image_size=size)
    )
    model, processor = load(tmp_path / "out", device="cpu")
    if size:
        theirs.set_input_size(img_size=(size, size))
    pixels = processor(images=make_picture(), text="<image>")["pixel_values"]
    assert pixels.shape[-1] == (size or 64)
    last, maps = theirs.forward_intermediates(pixels)
    expected = maps[-2] if layer is None else patches(last, (size or 64) // 16)
    assert torch.equal(model.model.vision_features(pixels), expected)
    assert vision_source(tmp_path / "out")["resized_keys"] == (["timm_model.pos_embed"] if size else [])


# ----------------------------------------------------------------------------------------------- picture size


@pytest.mark.parametrize("size", [14, 21, 28, 42])
@pytest.mark.parametrize("kind", RENAMED + ["clip_vision_model", "siglip_vision_model"])
@torch.no_grad()
def test_another_picture_size_is_the_towers_own_interpolation(
    kind: str, size: int, llm: str, tmp_path: Path
) -> None:
    theirs = make_tower(tmp_path / "tower", kind)
    assemble_parts(
        str(tmp_path / "tower"), llm, tmp_path / "out", Options(image_size=size, refinement="bilinear")
    )
    model, processor = load(tmp_path / "out", device="cpu")
    assert model.config.image_size == processor.image_size == size and model.config.vision_grid == size // 7
    pixels = torch.randn(2, 3, size, size)
    if kind in ANTIALIASED and size < 28:  # its own would be another: see below
        resized = vision_source(tmp_path / "out")["resized_keys"]
        assert resized and "position_embedding" in resized[0]
        return
    takes = theirs.embeddings.forward.__code__.co_varnames  # the others interpolate unasked
    asked = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
    expected = theirs(pixels, output_hidden_states=True, **asked).hidden_states[-2]
    assert torch.equal(model.model.vision_features(pixels), patches(expected, size // 7))
    resized = vision_source(tmp_path / "out")["resized_keys"]
    positions = [key for key in theirs.state_dict() if "position_embedding" in key]
    assert resized == ([] if size == 28 else positions)


@pytest.mark.parametrize(
    ("kind", "shrunk"),
    [
        # Cubic weights (a = -0.5) at 1/4, 1/4, 3/4 and 5/4 of the distance, over their sum: .8671875 twice,
        # .2265625, -.0703125, as open_clip's resize_pos_embed has them; of 1, 2, 4, 8 and of 8, 4, 2, 1.
        ("clip_vision_model", [2.9453125 / 1.890625, 10.7890625 / 1.890625]),
        ("siglip_vision_model", [2.9453125 / 1.890625, 10.7890625 / 1.890625]),
        # Half way between two, and the farther ones: .59375, -.09375 (a = -0.75), as in DINOv2's own code.
        ("dinov2", [0.59375 * 3 - 0.09375 * 5, 0.59375 * 12 - 0.09375 * 10]),
    ],
)
@torch.no_grad()
def test_positions_that_shrink_are_those_of_the_publishers_code(
    kind: str, shrunk: list[float], llm: str, tmp_path: Path
) -> None:
    theirs = make_tower(tmp_path / "tower", kind)
    (name,) = [key for key in theirs.state_dict() if "position_embedding" in key]
    positions = theirs.state_dict()[name].flatten(end_dim=-2)  # 4 x 4 cells, perhaps a class token before
    columns = torch.tensor([1.0, 2.0, 4.0, 8.0]).repeat(4)[:, None].expand(16, positions.shape[-1])
    positions[-16:] = columns
    theirs.save_pretrained(tmp_path / "tower")
    assemble_parts(str(tmp_path / "tower"), llm, tmp_path / "out", Options(image_size=14))
    model, _ = load(tmp_path / "out", device="cpu")
    found = model.model.vision_tower.state_dict()[name].flatten(end_dim=-2)[-4:, 0]
    assert found.tolist() == pytest.approx(shrunk * 2, abs=1e-5)


@pytest.mark.parametrize("size", [48, 96])
@torch.no_grad()
def test_windows_and_convolutions_read_any_size(size: int, llm: str, tmp_path: Path) -> None:
    swin = {"embed_dim": 8, "depths": [1, 2], "num_attention_heads": [1, 2], "window_size": 4}
    theirs = make_tower(tmp_path / "tower", "swin", image_size=64, patch_size=4, **swin)
    options = Options(image_size=size, vision_layer="last")
    assemble_parts(str(tmp_path / "tower"), llm, tmp_path / "out", options)
    model, _ = load(tmp_path / "out", device="cpu")
    pixels = torch.randn(1, 3, size, size)
    expected = patches(theirs(pixels).last_hidden_state, size // 8)
    torch.testing.assert_close(model.model.vision_features(pixels), expected)


@pytest.mark.parametrize(
    "kind, changes, size, words",
    [
        ("dinov2", {}, 30, "--image-size 30 does not divide into the patches of .*, 7 pixels wide"),
        ("clip_vision_model", {}, 32, "such as 35"),
        ("resnet", {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}, 38, "4 pixels wide"),
        ("beit", {"use_relative_position_bias": True}, 42, "no way to interpolate its .*relative_position"),
    ],
)
def test_sizes_that_a_tower_cannot_read(
    kind: str, changes: dict[str, Any], size: int, words: str, llm: str, tmp_path: Path
) -> None:
    make_tower(tmp_path / "tower", kind, **changes)
    with pytest.raises(InputError, match=words):
        assemble_parts(str(tmp_path / "tower"), llm, tmp_path / "out", Options(image_size=size))
    assert not (tmp_path / "out").exists()


def test_the_command(llm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tower(tmp_path / "tower", "dinov2")
    start = ["assemble", "--vision", str(tmp_path / "tower"), "--llm", llm, "--out", str(tmp_path / "out")]
    options = "--image-size 42 --merge-grid 3 --vision-layer last --refinement bilinear"
    assert main([*start, *options.split()]) == 0
    config = load(tmp_path / "out", device="cpu")[0].config
    assert (config.vision_feature_layer, config.vision_grid, config.image_tokens) == (None, 6, 9)
    for wrong, words in (
        (["--image-size", "0"], "--image-size is 0"),
        (["--vision-layer", "first"], "--vision-layer is 'first'"),
        (["--vision-layer", "9"], "takes layer 9 of its tower, which offers 4"),
    ):
        assert main([*start[:-1], str(tmp_path / "other"), *wrong]) == 2
        assert words in capsys.readouterr().err
    make_llava(tmp_path / "llava")
    with pytest.raises(InputError, match="--image-size goes with --vision"):
        assemble_llava(str(tmp_path / "llava"), tmp_path / "other", Options(image_size=42))


# ---------------------------------------------------------------------------------------- a tower of our own


class StripesConfig(PreTrainedConfig):
    model_type = "stripes"
    image_size: int = 28
    channels: int = 12


class Stripes(PreTrainedModel):
    """Two towers as one, channels side by side: a map, and no layers to choose from."""

    config_class = StripesConfig
    main_input_name = "pixel_values"

    def __init__(self, config: StripesConfig) -> None:
        super().__init__(config)
        self.stem = nn.Conv2d(3, config.channels, 7, 7)
        self.tower = AutoModel.from_config(Dinov2Config(**{**VIT, "image_size": config.image_size}))
        self.post_init()

    def forward(self, pixel_values: Tensor, return_dict: bool = True) -> BaseModelOutput:
        fine = patches(self.tower(pixel_values).last_hidden_state, pixel_values.shape[-1] // 7)
        return BaseModelOutput(last_hidden_state=torch.cat([self.stem(pixel_values), fine], dim=1))


@pytest.fixture
def stripes() -> Iterator[None]:
    AutoConfig.register("stripes", StripesConfig)
    AutoModel.register(StripesConfig, Stripes)
    yield
    CONFIG_MAPPING._extra_content.pop("stripes")
    AutoModel._model_mapping._extra_content.pop(StripesConfig)


@pytest.mark.parametrize("size", [28, 42])
@torch.no_grad()
def test_a_tower_of_ours_that_offers_no_layers(size: int, stripes: None, llm: str, tmp_path: Path) -> None:
    theirs = Stripes(StripesConfig()).eval()
    draw(theirs)
    theirs.save_pretrained(tmp_path / "tower")
    ViTImageProcessor().save_pretrained(tmp_path / "tower")
    assemble_parts(str(tmp_path / "tower"), llm, tmp_path / "out", Options(image_size=size))
    model, processor = load(tmp_path / "out", device="cpu")
    assert model.config.vision_feature_layer is None and processor.image_size == size
    assert model.config.vision_hidden_size == 12 + 16
    pixels = torch.randn(1, 3, size, size)
    assert torch.equal(model.model.vision_features(pixels), theirs(pixels).last_hidden_state)


# -------------------------------------------------------------------------------------------- language model


@torch.no_grad()
def test_a_small_tied_llama_that_speaks_chatml(tmp_path: Path) -> None:
    theirs = make_chatml_llm(tmp_path / "llm")
    rows = theirs.config.vocab_size
    make_tower(tmp_path / "tower", "dinov2")
    assemble_parts(str(tmp_path / "tower"), str(tmp_path / "llm"), tmp_path / "out", Options(merge_grid=2))
    model, processor = load(tmp_path / "out", device="cpu")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert (processor.image_token_id, processor.region_token_id) == (rows, rows + 1)
    tokenizer = processor.tokenizer
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>") == 2

    words = processor(text="What is this?")
    assert torch.equal(model(**words).logits[..., :rows], theirs(**words).logits)

    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is <region1>?"}]}
    said = {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]}
    given = {"images": [make_picture()], "regions": [{"box": [1, 1, 9, 9]}]}
    prompt = processor.encode_chat([asked], add_generation_prompt=True, **given)
    ids = prompt["input_ids"][0].tolist()
    text = tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert ids.count(1) == 3 and ids.count(processor.image_token_id) == 4
    batch = processor.encode_chat([asked, said], return_labels=True, **given)
    learned = batch["labels"][0][batch["labels"][0] != -100].tolist()
    assert tokenizer.decode(learned) == "A dog.<|im_end|>"

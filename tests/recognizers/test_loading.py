"""Recognizers from pretrained parts and from folders, and what is refused in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, SamModel

from rgpt.errors import InputError
from rgpt.recognizers import load_recognizer, open_recognizer, save_recognizer
from rgpt.recognizers.clip import ClipRecognizer
from rgpt.recognizers.clip_towers import load_clip
from rgpt.recognizers.regionclip import RegionClip
from rgpt.recognizers.rovit_detector import DetectorConfig, RoVitDetector, load_detector, save_detector
from rgpt.recognizers.sam import sam_config
from tests.recognizers.tiny_recognizers import SAM, VISION, make, picture, some_regions

NAMES = ("dog", "cat", "tree")
WORDS = ["<|startoftext|>", "<|endoftext|>", "a", "d", "o", "g", "c", "t", "r", "e"]


@pytest.fixture(scope="module")
def hf_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP of transformers as a hub folder has it: both towers, scale, tokenizer."""
    folder = tmp_path_factory.mktemp("clip")
    vocabulary = {word: i for i, word in enumerate([*WORDS, *(f"{word}</w>" for word in WORDS[2:])])}
    text = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": len(vocabulary), "projection_dim": 24, "max_position_embeddings": 12,
        "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_a_clip_of_transformers_is_that_clip(hf_clip: Path, tmp_path: Path) -> None:
    """Pictures, texts and scale are CLIPModel's own, also after being saved as a recognizer."""
    reference = CLIPModel.from_pretrained(hf_clip).eval()
    vision, text, scale, _ = load_clip(str(hf_clip))
    pixels = torch.randn(2, 3, 32, 32)
    ids = CLIPTokenizer.from_pretrained(hf_clip)(["dog", "cat"], padding=True, return_tensors="pt")
    both = reference(**ids, pixel_values=pixels)
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(vision.embed(pixels), dim=-1), both.image_embeds)
    torch.testing.assert_close(unit(text.encode(["dog", "cat"]), dim=-1), both.text_embeds)
    assert scale == pytest.approx(float(reference.logit_scale.exp()))
    opened = open_recognizer(f"clip-pooled@{hf_clip}")
    save_recognizer(opened, tmp_path)
    found = [r.recognize([picture()], [some_regions()], NAMES)[0].logits for r in (opened, again(tmp_path))]
    torch.testing.assert_close(*found)


def again(folder: Path) -> ClipRecognizer:
    made = load_recognizer(folder)
    assert isinstance(made, ClipRecognizer)
    return made


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip-crop", "clip-masked-crop"])
def test_tokens_are_those_before_the_last_norm(name: str) -> None:
    """Class token first: norm and projection of it are the picture's embedding, in both libraries."""
    tower = make(name).tower  # type: ignore[union-attr]
    pixels = torch.randn(2, 3, 32, 32)
    tokens = tower.tokens(pixels)
    assert tokens.shape == (2, 1 + 16, tower.width)
    if name == "clip-crop":
        first = tower.model.visual_projection(tower.model.vision_model.post_layernorm(tokens[:, 0]))
    else:
        first = tower.model.ln_post(tokens[:, 0]) @ tower.model.proj
    torch.testing.assert_close(first, tower.embed(pixels))
    assert tower.dense(pixels).shape == (2, 24, 4, 4)


@pytest.fixture(scope="module")
def open_clip_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small ResNet CLIP registered with open_clip, and a file of its weights."""
    folder = tmp_path_factory.mktemp("open_clip")
    settings = {
        "embed_dim": 24,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 64},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        "quick_gelu": True,
    }
    (folder / "rgpt-tiny-rn.json").write_text(json.dumps(settings))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    weights = open_clip.create_model("rgpt-tiny-rn").state_dict()
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "weights.safetensors")
    return f"open_clip:rgpt-tiny-rn/{folder / 'weights.safetensors'}"


@torch.no_grad()
def test_regionclip_starts_from_a_clip_of_open_clip(open_clip_name: str, tmp_path: Path) -> None:
    made = RegionClip.from_pretrained_clip(open_clip_name, short_side=64, longest_side=128)
    reference = open_clip.create_model("rgpt-tiny-rn", pretrained=open_clip_name.partition("/")[2]).eval()
    texts = open_clip.SimpleTokenizer(context_length=16)(["dog", "a cat"])
    torch.testing.assert_close(made.text.encode(["dog", "a cat"]), reference.encode_text(texts))
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(made.visual(pixels), reference.visual(pixels))
    save_recognizer(made, tmp_path)
    loaded = load_recognizer(tmp_path)  # the text tower's activation, too
    found = [r.recognize([picture()], [some_regions()], NAMES)[0].logits for r in (made, loaded)]
    torch.testing.assert_close(*found)


def test_another_kind_of_checkpoint_is_refused(tmp_path: Path) -> None:
    """transformers would load it with a warning, its weights random."""
    SamModel(sam_config(SAM)).save_pretrained(tmp_path / "sam")
    with pytest.raises(InputError, match=r"CLIP .*sam.*: expected a transformers CLIP .*type sam"):
        open_recognizer(f"clip-crop@{tmp_path / 'sam'}")


def test_a_name_and_a_folder_that_do_not_fit(tmp_path: Path) -> None:
    save_recognizer(make("rovit"), tmp_path)
    for name in ("clip-crop", "regionspot"):
        with pytest.raises(InputError, match="got a rovit; name the other one"):
            open_recognizer(f"{name}@{tmp_path}")
    (tmp_path / "recognizer.json").write_text("[1]")
    with pytest.raises(InputError, match="save it again"):
        open_recognizer(f"clip-crop@{tmp_path}")


def test_a_device_that_is_none(tmp_path: Path) -> None:
    save_recognizer(make("rovit"), tmp_path)
    with pytest.raises(InputError, match="device 'abacus': expected one that torch can use here"):
        open_recognizer(str(tmp_path), "abacus")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    made = RoVitDetector(make("rovit"), DetectorConfig(channels=16, fully_connected=16))  # type: ignore[arg-type]
    save_detector(made, folder)
    return folder


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("detector.safetensors", b"torn"),
        ("detector.safetensors", None),
        ("detector.json", b"{"),
        ("detector.json", b'{"chanels": 3}'),
        ("detector.json", b'{"channels": 8, "fully_connected": 16}'),
    ],
)
def test_half_a_detector_is_one_sentence(
    detector: Path, tmp_path: Path, file: str, content: bytes | None
) -> None:
    folder = Path(shutil.copytree(detector, tmp_path / "copy"))
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=r"^detector .*: expected settings and weights .*; save it again\.$"):
        load_detector(folder)


def test_a_whole_detector_loads(detector: Path) -> None:
    made = load_detector(detector)
    assert not made.training and made.propose([]) == [] and len(made.propose([picture()])[0])

"""Tiny random checkpoints in the true layouts on disk, written by transformers' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTImageProcessor,
)

from tests.model.tiny_models import LM, VIT, make_tokenizer

TOWERS = {"clip+llama": CLIPVisionConfig, "siglip+qwen2": SiglipVisionConfig}
TEXTS = {"clip+llama": LlamaConfig, "siglip+qwen2": Qwen2Config}
STRATEGY = {"clip+llama": "default", "siglip+qwen2": "full"}


def loud(model: nn.Module) -> None:
    """Weights large enough that a random model's answers depend on what it sees."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.shape[0] != LM["vocab_size"]:
            nn.init.normal_(module.weight, std=0.3 if "vision" in name or "projector" in name else 0.2)


def make_llava(
    folder: Path,
    kind: str = "clip+llama",
    *,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    shard: str = "5GB",
    **changes: Any,
) -> LlavaForConditionalGeneration:
    """Model, tokenizer (with <image>) and image processor in `folder`; returns the model, in eval mode."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(placeholders=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    settings = {
        "vision_config": TOWERS[kind](**{**VIT, **(vision or {})}),
        "text_config": TEXTS[kind](**{**LM, **(text or {})}),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "image_seq_length": 16,
        "vision_feature_select_strategy": STRATEGY[kind],
        **changes,
    }
    model = LlavaForConditionalGeneration(LlavaConfig(**settings)).eval()
    loud(model)
    model.save_pretrained(folder, max_shard_size=shard)
    size = settings["vision_config"].image_size
    pictures: Any = CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    if kind.startswith("siglip"):
        pictures = SiglipImageProcessor(size={"height": size, "width": size})
    LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=settings["vision_config"].patch_size,
        vision_feature_select_strategy=settings["vision_feature_select_strategy"],
        num_additional_image_tokens=1 if kind.startswith("clip") else 0,
    ).save_pretrained(folder)
    return model


def make_clip(folder: Path, **changes: Any) -> CLIPModel:
    """A whole CLIP, both sides, as on the hub."""
    torch.manual_seed(1)
    text = {key: VIT[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")}
    config = CLIPConfig(
        vision_config={**VIT, **changes}, text_config={**text, "vocab_size": 60, "num_hidden_layers": 1}
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    size = model.config.vision_config.image_size
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)
    return model


def make_llm(folder: Path, shard: str = "5GB", **changes: Any) -> LlamaForCausalLM:
    """A Llama with 100 tokens: no room for placeholders, like Vicuna."""
    torch.manual_seed(2)
    model = LlamaForCausalLM(LlamaConfig(**{**LM, "vocab_size": 100, **changes})).eval()
    model.save_pretrained(folder, max_shard_size=shard)
    make_tokenizer(placeholders=False).save_pretrained(folder)
    return model


def as_pickle(folder: Path) -> None:
    """`model.safetensors` -> `pytorch_model.bin`, the only form in which CLIP-L and Vicuna lie on the hub."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def make_spatialrgpt(folder: Path, connector: str = "mlp_downsample") -> dict[str, Any]:
    """The four parts in their folders; returns them as modules."""
    torch.manual_seed(3)
    channels, width = VIT["hidden_size"], LM["hidden_size"]
    vision: PreTrainedModel = SiglipVisionModel(SiglipVisionConfig(**{**VIT, "patch_size": 4})).eval()
    loud(vision)
    vision.save_pretrained(folder / "vision_tower")
    SiglipImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder / "vision_tower")
    llm = make_llm(folder / "llm", max_position_embeddings=1024)

    if connector == "mlp_downsample":
        layers: list[nn.Module] = [nn.Identity(), nn.LayerNorm(4 * channels), nn.Linear(4 * channels, width)]
    else:
        layers = [nn.Linear(channels, width)]
    mm_projector = nn.ModuleDict({"layers": nn.Sequential(*layers, nn.GELU(), nn.Linear(width, width))})
    norm = nn.LayerNorm(channels, eps=1e-6)
    refine = [nn.ConvTranspose2d(channels, channels, 2, 2) for _ in range(2)]
    regions = nn.ModuleDict(
        {
            "feature_refinement_module": nn.Sequential(refine[0], norm, nn.GELU(), refine[1], nn.GELU()),
            "rgb_projector": nn.Linear(channels, width),
            "depth_projector": nn.Linear(channels, width),
        }
    )
    parts = {
        "mm_projector": (mm_projector, {"model_type": "v2l_projector", "mm_projector_type": connector}),
        "region_extractor": (
            regions,
            {"model_type": "region_extractor", "region_extractor_type": "regiongpt"},
        ),
    }
    for name, (module, config) in parts.items():
        (folder / name).mkdir()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
        save_file(
            {k: v.contiguous() for k, v in module.state_dict().items()}, folder / name / "model.safetensors"
        )
        (folder / name / "config.json").write_text(json.dumps(config))
    top = {
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaModel"],
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "cls_patch",
        "enable_region": True,
        "enable_depth": True,
    }
    (folder / "config.json").write_text(json.dumps(top))
    return {"vision": vision, "llm": llm, "connector": mm_projector, "regions": regions}


def rewrite(path: Path, **changes: Any) -> None:
    """Change top-level keys of a JSON file; `None` removes one."""
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def make_tower(folder: Path, kind: str, **changes: Any) -> PreTrainedModel:
    """A tower by its model type, saved by transformers itself (under the names that it publishes)."""
    torch.manual_seed(4)
    # AutoModel builds what `from_pretrained` opens; every weight is drawn, position embeddings included.
    model = AutoModel.from_config(CONFIG_MAPPING[kind](**{**VIT, **changes})).eval()
    draw(model)
    model.save_pretrained(folder)
    size = getattr(model.config, "image_size", VIT["image_size"])
    ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return model


def make_timm(folder: Path, architecture: str, **arguments: Any) -> Any:
    """A timm classifier in the layout of the hub, saved by timm itself."""
    torch.manual_seed(5)
    model = timm.create_model(architecture, num_classes=5, **arguments).eval()
    save_for_hf(model, folder, safe_serialization=True)
    return model


def draw(model: nn.Module) -> None:
    """Every weight at random, so that no two are equal and none is without effect."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)


def make_chatml_llm(folder: Path) -> LlamaForCausalLM:
    """Llama with tied embeddings, a byte-level BPE and ChatML without generation marks, like SmolLM2."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = ["What is this? A dog.", "system user assistant", "You are a helpful assistant."]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(words, trainer)
    rows = tokenizer.get_vocab_size()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.chat_template = (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant named Small<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    torch.manual_seed(6)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = LlamaConfig(**{**LM, **ids, "vocab_size": rows, "tie_word_embeddings": True})
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return model

"""Tiny checkpoints with random weights, one of every type, saved by transformers and timm themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
)

from rgpt.model import add_placeholders

Settings = dict[str, Any]
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

# ------------------------------------------------------------------------------------------- language models

SHAPE: Settings = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip
ONE_HEAD_SIZE = {key: SHAPE[key] for key in SHAPE if key not in ("num_key_value_heads", "head_dim")}
OLD_NAMES: Settings = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED = {**QWEN_EXPERTS, "shared_expert_intermediate_size": 16}
WINDOW = {"sliding_window": 16}
QWEN_WINDOW = {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}
SCALED = {"embedding_multiplier": 3.0, "logits_scaling": 4.0, "residual_multiplier": 0.5}
TEXT: Mapping[str, Settings] = {
    "arcee": SHAPE,
    "bamba": {
        **SHAPE, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1,
        "attn_layer_indices": [1],
    },
    "biogpt": SHAPE,
    "bloom": {"vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "codegen": {**OLD_NAMES, "rotary_dim": 4},
    "cohere": {**SHAPE, "logit_scale": 0.25},
    "cohere2": {**SHAPE, **WINDOW, "logit_scale": 0.25},
    "deepseek_v3": {
        **SHAPE, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1,
        "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8, "first_k_dense_replace": 1, "num_key_value_heads": 4,
    },
    "ernie4_5": SHAPE,
    "exaone4": {**SHAPE, **WINDOW, "sliding_window_pattern": 2},
    "falcon": {key: SHAPE[key] for key in ONE_HEAD_SIZE if key != "intermediate_size"},
    "falcon_h1": {
        **SHAPE, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4,
        "mamba_n_groups": 1,
    },
    "gemma": SHAPE,
    "gemma2": {**SHAPE, **WINDOW, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {**SHAPE, **WINDOW, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    "glm": SHAPE,
    "glm4": SHAPE,
    "gpt2": OLD_NAMES,
    "gpt_bigcode": OLD_NAMES,
    "gpt_neo": {
        "vocab_size": 100, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 16,
        "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 512,
    },
    "gpt_neox": ONE_HEAD_SIZE,
    "gpt_oss": {**SHAPE, **WINDOW, **EXPERTS},
    "gptj": {**OLD_NAMES, "rotary_dim": 4},
    "granite": {**SHAPE, **SCALED},
    "granitemoe": {**SHAPE, **SCALED, **EXPERTS},
    "helium": SHAPE,
    "hunyuan_v1_dense": SHAPE,
    "jamba": {
        **SHAPE, "num_experts": 2, "mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1,
    },
    "lfm2": {**SHAPE, "layer_types": ["conv", "full_attention"], "block_ff_dim": 48},
    "llama": SHAPE,
    "mamba": {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "mamba2": {
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "num_heads": 8,
        "head_dim": 8, "n_groups": 1,
    },
    "minimax": {
        **SHAPE, "num_local_experts": 2, "num_experts_per_tok": 1,
        "layer_types": ["full_attention", "linear_attention"],
    },
    "mistral": {**SHAPE, **WINDOW},
    "mixtral": {**SHAPE, **EXPERTS},
    "mpt": {"vocab_size": 100, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
    "nemotron": SHAPE,
    "olmo": SHAPE,
    "olmo2": SHAPE,
    "olmo3": {**SHAPE, **WINDOW},
    "olmoe": {**SHAPE, "num_experts": 4, "num_experts_per_tok": 2},
    "opt": {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "persimmon": SHAPE,
    "phi": SHAPE,
    "phi3": {**SHAPE, **WINDOW},
    "qwen2": {**SHAPE, **QWEN_WINDOW},
    "qwen2_moe": {**SHAPE, **SHARED},
    "qwen3": {**SHAPE, **QWEN_WINDOW},
    "qwen3_moe": {**SHAPE, **QWEN_EXPERTS},
    "qwen3_next": {
        **SHAPE, **SHARED, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
        "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
    "rwkv": {
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32,
        "context_length": 512,
    },
    "seed_oss": SHAPE,
    "smollm3": SHAPE,
    "stablelm": SHAPE,
    "starcoder2": {**SHAPE, **WINDOW},
    "xglm": {"vocab_size": 100, "d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
}  # fmt: skip

# --------------------------------------------------------------------------------------------- vision towers

VIT: Settings = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
WORDS: Settings = {key: VIT[key] for key in list(VIT)[:4]} | {"vocab_size": 60}
TWO_SIDES: Settings = {"vision_config": VIT, "text_config": WORDS}
SWIN: Settings = {
    "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 4, "image_size": 64,
    "patch_size": 4,
}  # fmt: skip
STAGES: Settings = {"hidden_sizes": [8, 12, 16], "depths": [1, 1, 1], "image_size": 64}
PYRAMID: Settings = {
    "image_size": 128, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16],
    "num_attention_heads": [1, 1, 2, 2], "mlp_ratios": [2, 2, 2, 2],
}  # fmt: skip
SAM: Settings = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
    "output_channels": 12, "mlp_dim": 32, "window_size": 4, "global_attn_indexes": [1],
}  # fmt: skip
SAM2: Settings = {
    "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [64, 64],
    "patch_kernel_size": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3], "query_stride": [2, 2],
    "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 2, 4, 8],
    "blocks_per_stage": [1, 1, 2, 1], "window_size_per_stage": [4, 4, 4, 2], "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [4, 4],
}  # fmt: skip
QWEN_VL: Settings = {
    "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 8,
    "out_hidden_size": 16,
}  # fmt: skip
SMALL = {"depth_multiplier": 0.25, "image_size": 128}
VISION: Mapping[str, Settings] = {
    "aimv2_vision_model": VIT,
    "altclip": TWO_SIDES,
    "beit": VIT,
    "bit": {**STAGES, "hidden_sizes": [8, 16, 32], "embedding_size": 8, "num_groups": 4},
    "chinese_clip": TWO_SIDES,
    "clip": TWO_SIDES,
    "clip_vision_model": VIT,
    "clipseg": TWO_SIDES,
    "convnext": {**STAGES, "num_stages": 3},
    "convnextv2": {**STAGES, "num_stages": 3},
    "data2vec-vision": VIT,
    "deit": VIT,
    "detr": {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "num_queries": 16, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
        "backbone_config": {
            "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1],
            "out_features": ["stage2"],
        },
    },
    "dinov2": VIT,
    "dinov2_with_registers": VIT,
    "dinov3_convnext": STAGES,
    "dinov3_vit": {**VIT, "num_register_tokens": 2},
    "donut-swin": SWIN,
    "dpt": {**VIT, "backbone_out_indices": [0, 1, 2], "neck_hidden_sizes": [8, 8, 8, 8]},
    "efficientnet": {
        "width_coefficient": 0.1, "depth_coefficient": 0.1, "image_size": 128, "hidden_dim": 128,
    },
    "focalnet": {
        "embed_dim": 8, "depths": [1, 1, 1], "focal_levels": [1, 1, 1], "focal_windows": [3, 3, 3],
        "image_size": 64, "hidden_sizes": [8, 16, 32],
    },
    "glm4v_vision": {**QWEN_VL, "image_size": 32},
    "groupvit": {
        "vision_config": {
            **VIT, "depths": [1, 1, 1], "num_group_tokens": [4, 4, 0], "num_output_groups": [4, 4, 0],
        },
        "text_config": WORDS,
    },
    "hgnet_v2": {
        "embedding_size": 8, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 12, 16],
        "stage_in_channels": [4, 8, 8, 12], "stage_mid_channels": [4, 4, 4, 4],
        "stage_out_channels": [8, 8, 12, 16], "stage_num_blocks": [1, 1, 1, 1],
        "stem_channels": [3, 4, 4], "stage_numb_of_layers": [1, 1, 1, 1],
    },
    "hiera": {
        "embed_dim": 8, "image_size": [64, 64], "depths": [1, 1, 1], "num_heads": [1, 2, 2],
        "num_query_pool": 2, "masked_unit_size": [4, 4], "masked_unit_attention": [True, False, False],
    },
    "idefics3_vision": VIT,
    "ijepa": VIT,
    "internvl_vision": VIT,
    "maskformer-swin": SWIN,
    "metaclip_2": TWO_SIDES,
    "mlcd": VIT,
    "mobilenet_v1": SMALL,
    "mobilenet_v2": SMALL,
    "mobilevit": {
        "hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32],
        "num_attention_heads": 2, "image_size": 128,
    },
    "owlv2": TWO_SIDES,
    "owlvit": TWO_SIDES,
    "pixio": VIT,
    "pixtral": {**VIT, "head_dim": 8},
    "poolformer": {**STAGES, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]},
    "pvt": PYRAMID,
    "pvt_v2": PYRAMID,
    "qwen2_5_vl_vision": QWEN_VL,
    "regnet": {
        "embedding_size": 8, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "groups_width": 4,
    },
    "resnet": {**STAGES, "embedding_size": 8, "layer_type": "basic"},
    "sam": {
        "vision_config": SAM,
        "prompt_encoder_config": {
            "hidden_size": 12, "image_size": 64, "patch_size": 8, "mask_input_channels": 4,
        },
        "mask_decoder_config": {
            "hidden_size": 12, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 8,
            "attention_downsample_rate": 1,
        },
    },
    "sam2_hiera_det_model": SAM2,
    "sam2_vision_model": {
        "backbone_config": SAM2, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 16,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    },
    "sam3_vit_model": {**VIT, "window_size": 2, "global_attn_indexes": [1], "pretrain_image_size": 32},
    "sam_vision_model": SAM,
    "sapiens2": VIT,
    "segformer": PYRAMID,
    "siglip": TWO_SIDES,
    "siglip2": {"vision_config": {**VIT, "num_patches": 16}, "text_config": WORDS},
    "siglip_vision_model": VIT,
    "swiftformer": {"image_size": 128, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 16, 24]},
    "swin": SWIN,
    "swinv2": SWIN,
    "tipsv2_vision_model": VIT,
    "videomae": VIT,
    "vit": VIT,
    "vit_mae": VIT,
    "vit_msn": VIT,
    "vitdet": {**VIT, "window_block_indices": [0]},
    "yolos": {**VIT, "image_size": [32, 32], "num_detection_tokens": 5},
}  # fmt: skip
HEADS: Mapping[str, str] = {
    "BeitForMaskedImageModeling": "beit",
    "CLIPForImageClassification": "clip",
    "ConvNextForImageClassification": "convnext",
    "DeiTForImageClassificationWithTeacher": "deit",
    "DPTForDepthEstimation": "dpt",
    "Dinov2ForImageClassification": "dinov2",
    "MobileNetV2ForImageClassification": "mobilenet_v2",
    "ResNetForImageClassification": "resnet",
    "SegformerForSemanticSegmentation": "segformer",
    "SiglipForImageClassification": "siglip",
    "SwinForImageClassification": "swin",
    "Swinv2ForMaskedImageModeling": "swinv2",
    "ViTForImageClassification": "vit",
}
"""Models around a tower, whole as people publish them, and the type of their configuration."""
TIMM: Mapping[str, Settings] = {
    "timm/convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 12, 16]},
    "timm/eva02_tiny_patch14_224": {"img_size": 56, "depth": 3, "embed_dim": 48, "num_heads": 3},
    "timm/resnet18": {},
    "timm/vit_tiny_patch16_224": {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3},
}
"""timm's own layout of the hub, by timm's names."""

REFUSED: Mapping[str, str] = {
    "bamba": "gives other logits with its cache",
    "falcon_h1": "does more after its head",
    "mamba": "keeps a state in place of keys",
    "mamba2": "keeps a state in place of keys",
    "minimax": "keeps a state in place of keys",
    "rwkv": "keeps a state in place of keys",
    "detr": "answers with queries",
    "glm4v_vision": "needs grid_thw beside the picture",
    "groupvit": "builds no model of type 'groupvit_vision_model'",
    "qwen2_5_vl_vision": "needs grid_thw beside the picture",
    "siglip2": "needs pixel_attention_mask and spatial_shapes beside the picture",
    "videomae": "reads single square pictures",
    "vit_mae": "draws random numbers",
    "yolos": "gives 22 tokens, which is no square of patches",
}
"""What cannot be assembled, and words of the sentence that says why."""


def make_tokenizer(placeholders: bool = True) -> PreTrainedTokenizerFast:
    """One token a character, specials 0 to 2, placeholders added at the end."""
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "\n", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(
        models.WordLevel({token: number for number, token in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    if placeholders:
        add_placeholders(fast)
    return fast


def draw(model: nn.Module, scale: float = 1.0) -> None:
    """Every weight at random, none without effect: matrices by their width, vectors a little off."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim > 1 and parameter.numel():
                parameter.copy_(noise * scale * (parameter.numel() / parameter.shape[0]) ** -0.5)
            else:
                parameter.add_(0.1 * noise)


def save_text(kind: str, folder: Path, **changes: Any) -> PreTrainedModel:
    """A causal language model of 100 tokens with its tokenizer; returned in eval mode."""
    torch.manual_seed(3)
    config = CONFIG_MAPPING[kind](**{**TEXT[kind], **IDS, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    draw(model)
    model.save_pretrained(folder)
    make_tokenizer(placeholders=False).save_pretrained(folder)
    return model


def save_vision(name: str, folder: Path) -> Any:
    """A tower, a model around one, or a network of timm, with its picture settings; in eval mode."""
    torch.manual_seed(4)
    if name in TIMM:
        import timm
        from timm.models import save_for_hf

        network = timm.create_model(name.removeprefix("timm/"), num_classes=5, **TIMM[name])
        draw(network)
        save_for_hf(network, folder, safe_serialization=True)
        return network.eval()
    kind = HEADS.get(name, name)
    config = CONFIG_MAPPING[kind](**VISION[kind])
    model = (getattr(transformers, name)(config) if name in HEADS else AutoModel.from_config(config)).eval()
    # Its gates and depthwise filters let hardly anything through weights of the usual size.
    draw(model, 4.0 if kind == "efficientnet" else 1.0)
    model.save_pretrained(folder)
    side = getattr(getattr(config, "vision_config", config), "image_size", None) or 64
    side = side[0] if isinstance(side, (list, tuple)) else side
    ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return model

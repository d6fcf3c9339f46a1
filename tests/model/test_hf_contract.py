"""What this room leans on inside transformers. When an upgrade breaks a hook, the name of the hook fails
here."""

from __future__ import annotations

import inspect

import pytest
import torch
import transformers
from transformers import GenerationMixin, PreTrainedModel, ProcessorMixin
from transformers.configuration_utils import SubConfigSpec
from transformers.generation import utils as generation_utils
from transformers.loss.loss_utils import LOSS_MAPPING
from transformers.utils.chat_template_utils import render_jinja_template

from rgpt.model import RegionGPTConfig, RegionGPTForConditionalGeneration, RegionGPTModel
from rgpt.model.generation import RegionGenerationMixin
from tests.model.tiny_models import make_model, make_tokenizer


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "_prepare_multimodal_encoder_kwargs_for_generation",
        "_expand_multimodal_outputs",
        "prepare_inputs_for_generation",
        "_prefill",
    ],
)
def test_hooks_of_generate_are_still_there(name: str) -> None:
    theirs = parameters(getattr(GenerationMixin, name))
    ours = parameters(getattr(RegionGenerationMixin, name))
    missing = [item for item in ours if item not in theirs and item not in ("kwargs",)]
    assert not missing, (
        f"transformers {transformers.__version__} renamed {missing} of {name}: it has {theirs}"
    )


def test_generate_still_calls_the_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name in (
        "_prepare_multimodal_encoder_kwargs_for_generation",
        "_expand_multimodal_outputs",
        "prepare_inputs_for_generation",
        "_prefill",
    ):
        original = getattr(RegionGenerationMixin, name)

        def spy(self, *args, _name=name, _original=original, **kwargs):  # type: ignore[no-untyped-def]
            called.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(RegionGenerationMixin, name, spy)
    model = make_model()
    ids = torch.tensor([[model.config.image_token_id] * 4 + [9, model.config.region_token_id, 10]])
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=torch.randn(1, 3, 28, 28),
        region_masks=torch.ones(1, 1, 16, 16),
        region_index=torch.tensor([0]),
        num_beams=2,
        max_new_tokens=2,
    )
    assert len(set(called)) == 4, (
        f"generate no longer calls one of its hooks; it called {sorted(set(called))}"
    )


def test_what_to_encode_is_still_read_from_a_signature() -> None:
    names = parameters(RegionGPTModel.get_image_features)
    assert names[1:5] == ["pixel_values", "region_masks", "region_index", "vision_features"]
    assert "mm_encoder_outputs" in parameters(RegionGPTForConditionalGeneration.forward)
    assert "mm_encoder_outputs" in generation_utils.MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL
    assert "pixel_values" in generation_utils.MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL


def test_the_loss_is_still_chosen_by_class_name() -> None:
    model = make_model()
    assert model.loss_function is LOSS_MAPPING["ForCausalLM"]
    assert "num_items_in_batch" in parameters(model.loss_function)


def test_fresh_layers_are_still_initialised_one_by_one() -> None:
    model = make_model(refinement="residual")
    assert model.model.refinement.deconv_2.weight.abs().max() == 0
    assert hasattr(PreTrainedModel, "_init_weights")


def test_templates_still_report_the_words_of_the_assistant() -> None:
    template = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    texts, spans = render_jinja_template(
        conversations=[[{"role": "assistant", "content": "hello"}]],
        chat_template=template,
        return_assistant_tokens_mask=True,
    )
    assert texts == ["hello"] and [tuple(span) for span in spans[0]] == [(0, 5)]


def test_processors_are_still_made_from_the_names_in_their_constructor() -> None:
    from rgpt.model import RegionGPTProcessor

    assert RegionGPTProcessor.get_attributes() == ["tokenizer"]
    for name in ("get_attributes", "to_dict", "from_args_and_dict", "_resolve_chat_template"):
        assert hasattr(ProcessorMixin, name), name


def test_tokenizers_still_know_characters_and_added_tokens() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.is_fast
    encoded = tokenizer("ab<region>", add_special_tokens=False, return_offsets_mapping=True)
    assert [tuple(offset) for offset in encoded["offset_mapping"]] == [(0, 1), (1, 2), (2, 10)]
    assert {"<image>", "<region>"} <= {
        t.content for t in tokenizer.added_tokens_decoder.values() if t.special
    }


def test_sub_configurations_are_still_made_from_their_specification() -> None:
    assert parameters(SubConfigSpec)[:3] == ["config_class", "model_type", "init_kwargs"]
    assert set(RegionGPTConfig.sub_configs) == {"vision_config", "text_config"}

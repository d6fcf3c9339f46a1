"""What this room leans on inside transformers. When an upgrade breaks a hook, the name of the hook fails
here."""

from __future__ import annotations

import inspect

import pytest
import torch
import transformers
from transformers import GenerationMixin, PreTrainedModel, ProcessorMixin
from transformers.loss.loss_utils import LOSS_MAPPING
from transformers.utils.chat_template_utils import render_jinja_template

from rgpt.model import RegionGPTForConditionalGeneration, RegionGPTModel
from rgpt.model.generation import RegionGenerationMixin
from tests.model.tiny_models import make_model, make_tokenizer


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "_expand_inputs_for_generation",
        "prepare_inputs_for_generation",
        "_prefill",
    ],
)
def test_hooks_of_generate_are_still_there(name: str) -> None:
    theirs = parameters(getattr(GenerationMixin, name))
    ours = parameters(getattr(RegionGenerationMixin, name))
    missing = [item for item in ours if item not in theirs and item not in ("self", "kwargs")]
    assert not missing, (
        f"transformers {transformers.__version__} renamed {missing} of {name}: it has {theirs}"
    )


def test_generate_still_calls_the_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name in (
        "_expand_inputs_for_generation",
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
    assert len(set(called)) == 3, (
        f"generate no longer calls one of its hooks; it called {sorted(set(called))}"
    )


def test_features_made_beforehand_still_reach_the_first_step() -> None:
    # generate() forwards model arguments that stand in this signature, and refuses others.
    assert "mm_encoder_outputs" in parameters(RegionGPTForConditionalGeneration.forward)
    # Where the library encodes pictures itself, it reads this signature to know what belongs to them.
    names = parameters(RegionGPTModel.get_image_features)
    assert names[1:5] == ["pixel_values", "region_masks", "region_index", "vision_features"]


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
    for name in ("get_attributes", "to_dict", "from_args_and_dict"):
        assert hasattr(ProcessorMixin, name), name


def test_tokenizers_still_know_characters_and_added_tokens() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.is_fast
    encoded = tokenizer("ab<region>", add_special_tokens=False, return_offsets_mapping=True)
    assert [tuple(offset) for offset in encoded["offset_mapping"]] == [(0, 1), (1, 2), (2, 10)]
    assert {"<image>", "<region>"} <= {
        t.content for t in tokenizer.added_tokens_decoder.values() if t.special
    }


def test_sub_configurations_still_follow_their_parent() -> None:
    config = make_model().config
    assert set(config.sub_configs) == {"vision_config", "text_config"}
    config._attn_implementation = "eager"
    assert config.text_config._attn_implementation == config.vision_config._attn_implementation == "eager"

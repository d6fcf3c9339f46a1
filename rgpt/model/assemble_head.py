"""Whether a language model's logits are what `finish_logits` makes of them, and where its weights go.

A causal language model is a body, a linear head, and in some families a step after the head. Body and head
are taken over as modules; the step is in no weight: whoever drops it gets other likelihoods, and no error.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from rgpt.errors import InputError
from rgpt.model.modeling_regiongpt import finish_logits

OWN_CACHE = ("minimax",)
"""Families that take a cache of their own kind only."""
WRONG_CACHE = ("bamba",)
"""Families that do not go on from a cache as in one pass, in transformers 5.23 (docs/decisions.md)."""


@dataclass
class _Hidden(MoeModelOutputWithPast):
    """What heads read of a body's output, in any family."""

    cross_attentions: Any = None


class _Given(nn.Module):
    """A body that returns the embeddings it is given."""

    @property
    def decoder(self) -> _Given:  # some heads call the decoder inside the body
        return self

    def forward(self, *_ids: Any, inputs_embeds: Tensor, **_kwargs: Any) -> _Hidden:
        return _Hidden(last_hidden_state=inputs_embeds)


def check_head(model: PreTrainedModel, label: str) -> bool:
    """Whether the head of a causal language model has a bias.

    The model's own forward runs once on random hidden states, with a head of a few rows and without its body,
    and must give what `finish_logits` gives.

    Args:
        model: on the meta device; it is taken apart.

    Raises:
        InputError: the head is not one linear layer as wide as the model, or logits are computed otherwise.
    """
    config, head, table = model.config, model.get_output_embeddings(), model.get_input_embeddings()
    width = int(config.hidden_size)
    if config.model_type in OWN_CACHE or "past_key_values" not in signature(model.forward).parameters:
        raise InputError(
            f"{label} ({config.model_type}) keeps a state in place of keys and values, so that nothing it "
            "read can be taken back, as a conversation needs: choose another language model."
        )
    if config.model_type in WRONG_CACHE:
        raise InputError(
            f"{label} ({config.model_type}) gives other logits with its cache than in one pass, by a fault "
            "in transformers, so that a conversation would come out wrong: choose another language model."
        )
    if not isinstance(head, nn.Linear) or head.in_features != width:
        raise InputError(
            f"the head of {label} ({config.model_type}) is no linear layer of {width} columns, which "
            "RegionGPT needs: choose another language model."
        )
    if table is None or int(table.weight.shape[-1]) != width:
        raise InputError(
            f"{label} ({config.model_type}) embeds words in another width than its {width}: image and region "
            "vectors have no place there; choose another language model."
        )
    bias = head.bias is not None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        small = nn.Linear(width, 8, bias=bias)
        hidden = torch.randn(1, 3, width)
        try:
            model.set_output_embeddings(small)
            setattr(model, model.base_model_prefix, _Given())
            theirs = model(inputs_embeds=hidden, use_cache=False).logits
            same = torch.allclose(theirs.float(), finish_logits(small(hidden), config), atol=1e-5)
        except Exception:  # every model has its own way to need more than hidden states
            same = False
    if not same:
        raise InputError(
            f"{label} ({config.model_type}) does more after its head than RegionGPT knows of, so that its "
            "likelihoods would come out wrong: choose another language model."
        )
    return bias


def text_prefixes(model: PreTrainedModel) -> list[tuple[str, str]]:
    """(name in a causal language model, name in a RegionGPT), of its body and its head."""
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is head]
    return [(f"{model.base_model_prefix}.", "model.language_model."), *((f"{n}.", "lm_head.") for n in names)]

"""A tiny model whose *weights* make it say one text, whatever it is asked: everything around it is real."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import decoders

from tests.model.tiny_models import make_model, make_processor

SURE = 10.0
"""Of its next word, at any temperature that a test may set."""


def make_parrot(says: str = "blue dog.", *, endless: bool = False) -> tuple[Any, Any]:
    """(model, processor) of a parrot; see `teach`."""
    model = make_model()
    processor = make_processor(model.config)
    processor.tokenizer.backend_tokenizer.decoder = decoders.Fuse()  # no blanks between its characters
    teach(model, processor, says, endless=endless)
    return model, processor


@torch.no_grad()
def teach(model: Any, processor: Any, says: str, *, endless: bool = False) -> None:
    """Set the weights so that every answer is `says`, one character a token; endless: over and over.

    The layers add nothing to the embeddings, and each character's embedding points at the next character. So
    no character may come twice, and none may be the last one of a prompt (a line break, in the plain one).
    """
    language, head = model.model.language_model, model.lm_head.weight
    ids = processor.tokenizer(says, add_special_tokens=False)["input_ids"]
    assert len(set(ids)) == len(ids) == len(says) < language.config.hidden_size
    for layer in language.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    language.embed_tokens.weight.zero_()
    language.embed_tokens.weight[:, 0] = 1
    head.zero_()
    for place, token in enumerate(ids, 1):
        language.embed_tokens.weight[token] = torch.eye(head.shape[1])[place]
        head[token, place - 1] = SURE
    head[ids[0] if endless else processor.tokenizer.eos_token_id, len(ids)] = SURE

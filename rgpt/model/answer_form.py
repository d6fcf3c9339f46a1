"""How a chat template writes an answer: what likelihoods count, and where generation stops.

Both follow the template and not the tokenizer: Llama 3 ends a turn with <|eot_id|> whatever its tokenizer
calls the end of a text, Vicuna says a blank first, LLaVA's plain ends with a line break. What training labels
(`{% generation %}`), what `rank` and `score` count and what ends an answer are therefore the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from rgpt.errors import InputError
from rgpt.model.conversation import chat_template

WORDS = "\ue000"
"""Stands for an answer's words while its surroundings are looked at; of private use, so in no template."""


@dataclass(frozen=True)
class AnswerForm:
    """Args:
    prompt: a question as the template writes it, up to where the model begins to speak; and its ids.
    lead: what the model says before its words: Vicuna's blank.
    end: ids that end the last answer, learned and counted like its words.
    stops: single ids behind which an answer goes on no further: of the last one, and of one that another
        question follows, where the template tells them apart.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    lead: str
    end: tuple[int, ...]
    stops: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any, template: str) -> AnswerForm:
        """The form of a template, a name of one of ours or Jinja text. Raises InputError for a broken one."""
        text = chat_template(template)
        ask, say = {"role": "user", "content": "?"}, {"role": "assistant", "content": WORDS}
        prompt = _render(tokenizer, text, [ask], True)
        said, _, after = _render(tokenizer, text, [ask, say]).rpartition(WORDS)
        if not said.startswith(prompt):  # a prompt to go on from that no answer ever followed
            prompt = said
        end = _end(tokenizer, said, after)
        later = _render(tokenizer, text, [ask, say, ask])
        follows = _end(tokenizer, said, later[later.find(WORDS) + 1 :])
        single = list(end[:1]) if len(end) == 1 else []
        if len(follows) == 1 and follows[0] in _special(tokenizer):  # else the words of the next question
            single += follows
        lead, ids = said[len(prompt) :], tuple(_ids(tokenizer, prompt))
        return cls(prompt, ids, lead, end, frozenset(single or [tokenizer.eos_token_id]))

    def ids(self, tokenizer: Any, answer: str) -> list[int]:
        """Ids of an answer's words as they follow a question; `end` is not among them."""
        whole, count = _ids(tokenizer, self.prompt + self.lead + answer), len(self.prompt_ids)
        # A token that joins a question to its answer never follows the prompt: then the words alone.
        return whole[count:] if whole[:count] == list(self.prompt_ids) else _ids(tokenizer, answer)

    def stops_of(self, model: Any) -> set[int]:
        """Ids at which a model's answer ends: the template's, and the model's own (`generation_config`)."""
        own = model.generation_config.eos_token_id
        return {*self.stops, *(own if isinstance(own, (list, tuple)) else [own] if own is not None else [])}


def _render(tokenizer: Any, template: str, messages: list[dict[str, str]], prompt: bool = False) -> str:
    try:
        rendered, _ = render_jinja_template(
            conversations=[messages],
            chat_template=template,
            add_generation_prompt=prompt,
            **tokenizer.special_tokens_map,
        )
    except TemplateError as error:
        raise InputError(f"the chat template cannot be written out ({error}): repair it.") from error
    return rendered[0]


def _end(tokenizer: Any, said: str, after: str) -> tuple[int, ...]:
    """Ids of what stands behind the words, up to the first special token: what follows it is layout."""
    words, whole = (_ids(tokenizer, text) for text in (said + "a", said + "a" + after))
    special, found = _special(tokenizer), list[int]()
    for token in whole[len(words) :] if whole[: len(words)] == words else []:
        found.append(token)
        if token in special:
            break
    return tuple(found) or (tokenizer.eos_token_id,)


def _special(tokenizer: Any) -> set[int]:
    marked = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return marked | set(tokenizer.all_special_ids)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

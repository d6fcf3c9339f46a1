"""A conversation on its way to the model: messages, their prompt, its tokens.

A *mention* is `<region1>`, `<region2>` ... in a prompt, 1-based, anywhere and any number of times ([P]
table 1). It becomes the processor's `region_mention`, which holds one `<region>` token. How the number
reaches the language model is not stated by the paper; written before the token is our default [D].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rgpt.errors import InputError
from rgpt.prompts import MENTION
from rgpt.regions import Region, region_from_json

Key = int | tuple[int, int]
"""Which region a mention means: its number, or (number, message) where a message gives the number a region
of its own."""

IGNORED = -100
"""The label of a position that nothing is learned from."""


def number_of(key: Key) -> int:
    return key if isinstance(key, int) else key[0]


@dataclass
class Conversation:
    """One tokenised conversation with its regions: what training packs, the processor pads and a chat goes
    on from.

    Args:
        input_ids: `[L]` int64; every picture is T image ids, every mention of a region one `<region>` id.
        labels: `[L]` int64, -100 where nothing is learned.
        slots: where its M mentions stand, in reading order.
        mentions: which of the R regions each of them means.
        weights: `[R, G, G]` float32, the share of every refined cell that a region covers.
        places: of each region, which picture it lies on.
        pictures: of each picture `[3, S, S]` pixels or `[C, h, w]` tower features; None where the model has
            it already.
        cached: whether the pictures are features.
        cut: whether its end was cut off to fit.
    """

    input_ids: Tensor
    labels: Tensor
    slots: list[int] = field(default_factory=list)
    mentions: list[int] = field(default_factory=list)
    weights: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1))
    places: list[int] = field(default_factory=list)
    pictures: list[Tensor | None] = field(default_factory=list)
    cached: bool = False
    cut: bool = False

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def ids(self) -> list[int]:
        return self.input_ids.tolist()

    @cached_property
    def mentioned(self) -> list[bytes]:
        """Something comparable for the region of every mention: the tokens of two regions are the same."""
        return [self.weights[row].numpy().tobytes() for row in self.mentions]

    def about(self, last: Sequence[Tensor]) -> Conversation:
        """The same words about other regions of its picture: `last`, `[G, G]` each, in its last mentions."""
        kept = self.mentions[: len(self.mentions) - len(last)]
        weights = torch.stack([*self.weights[kept], *last]) if self.mentions else self.weights
        return replace(
            self,
            weights=weights,
            mentions=list(range(len(weights))),
            places=[0] * len(weights),
        )


CHAT_TEMPLATES = ("vicuna", "llama-3", "spatialrgpt", "qwen", "plain", "lines")


@cache
def chat_template(name: str) -> str:
    """The Jinja text of a chat template of this package, one of CHAT_TEMPLATES; such text itself is
    left as it is."""
    if "{" in name:
        return name
    if name not in CHAT_TEMPLATES:
        raise InputError(f"there is no chat template {name!r}: choose one of {', '.join(CHAT_TEMPLATES)}.")
    return (Path(__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def control_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches any control token, the longest first."""
    ordered = sorted({token for token in tokens if len(token) > 1}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or "(?!)")


def neutralise(text: str, control: re.Pattern[str]) -> str:
    """A blank after the first character of every control token: a typed `<image>` becomes `< image>`.

    Words stay readable and no tokenizer setting is needed; a blank parts characters and never joins a token.
    """
    while control.search(text):  # the tail of a token may be a token itself
        text = control.sub(lambda match: match.group()[0] + " " + match.group()[1:], text)
    return text


def expand_mentions(text: str, mention: Callable[[int], str]) -> tuple[str, list[int]]:
    """Every `<regionN>` replaced by `mention(N)`, and the numbers in reading order."""
    numbers: list[int] = []

    def replace(match: re.Match[str]) -> str:
        numbers.append(int(match.group(1)))
        return mention(numbers[-1])

    return MENTION.sub(replace, text), numbers


class Messages:
    """The messages of a conversation made ready for its template.

    Text blocks of the user and the system: control tokens neutralised, mentions expanded. Text of the
    assistant: neutralised only; a `<region1>` there is a word that the model wrote, not a placeholder.

    A number belongs to its message: it means the region that the message itself gives, else that of the whole
    conversation, else that of the last message before it.

    Args:
        given: `{number: region}` of the whole conversation.

    Attributes:
        messages: for the template; blocks are `{"type": "image"}` and `{"type": "text", "text": ...}` only.
        mentions: what every mention means, in reading order: a key of `regions`.
        pictures: what the image blocks carry, in reading order.
        regions: the given ones, and those of the messages.
    """

    def __init__(
        self,
        conversation: Sequence[dict[str, Any]],
        control: re.Pattern[str],
        mention: Callable[[int], str],
        given: Mapping[int, Any] | None = None,
    ) -> None:
        self.mentions: list[Key] = []
        self.pictures: list[Any] = []
        self._given = dict(given or {})
        self.regions: dict[Key, Any] = dict(self._given.items())
        self._control, self._mention = control, mention
        self._highest = max(given or [0])
        self._own: dict[int, Any] = {}  # of the message being read
        self._latest: dict[int, Key] = {}  # of every number the key of the last message that gave it
        self._index = 0
        self.messages = []
        for self._index, message in enumerate(conversation):
            self._own = numbered_regions(message.get("regions"))
            self._highest = max([self._highest, *self._own])  # a block without a number takes a new one
            self.messages.append(self._message({k: v for k, v in message.items() if k != "regions"}))

    def _meant(self, number: int) -> Key:
        """What a mention in the message being read means; a region given again, unchanged, is the same."""
        if number not in self._own:
            return number if number in self._given else self._latest.get(number, number)
        region = self._own[number]
        for key in (number, self._latest.get(number, number)):
            if key in self.regions and self.regions[key] == region:
                return key
        # The first to give a number also gives it to the messages that do not: a block before its mentions.
        key = number if number not in self.regions else (number, self._index)
        self.regions[key] = region
        self._latest[number] = key
        return key

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content") or ""
        if isinstance(content, str):
            return {**message, "content": self._text(content, message["role"])}
        return {**message, "content": [self._block(block, message["role"]) for block in _joined(content)]}

    def _text(self, text: str, role: str) -> str:
        text = neutralise(text, self._control)
        if role == "assistant":
            return text
        text, numbers = expand_mentions(text, self._mention)
        self.mentions += map(self._meant, numbers)
        return text

    def _block(self, block: dict[str, Any], role: str) -> dict[str, str]:
        kind = block.get("type")
        if kind == "text":
            return {"type": "text", "text": self._text(block["text"], role)}
        if kind == "image":
            self.pictures += [
                block[key] for key in ("image", "url", "path", "base64") if block.get(key) is not None
            ]
            return {"type": "image"}
        if kind == "region":
            number = block.get("number")
            if number is None:
                number = self._highest + 1
            self._highest = max(self._highest, number)
            region = block.get("region")
            if region is not None and self._own.setdefault(number, region) != region:
                raise InputError(f"<region{number}> is given twice in one message: give each number once.")
            self.mentions.append(self._meant(number))
            return {"type": "text", "text": self._mention(number)}
        raise InputError(f"a content block has type {kind!r}: it must be 'text', 'image' or 'region'.")


def _joined(blocks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring text blocks as one: a control token cut in two would be whole again in the prompt."""
    joined: list[dict[str, Any]] = []
    for block in blocks:
        if block.get("type") == "text" and joined and joined[-1].get("type") == "text":
            joined[-1] = {"type": "text", "text": joined[-1]["text"] + block["text"]}
        else:
            joined.append(block)
    return joined


def numbered_regions(regions: Any) -> dict[int, Any]:
    """`{number: region}` from a list (numbered from 1), a mapping or nothing."""
    if regions is None:
        return {}
    if isinstance(regions, Mapping):
        if any(not isinstance(number, int) or number < 1 for number in regions):
            raise InputError(f"regions are numbered from 1, not {', '.join(map(str, regions))}.")
        return dict(regions)
    if not isinstance(regions, Sequence) or isinstance(regions, str):
        raise InputError("regions must be a list or {number: region}; put one region into a list.")
    return dict(enumerate(regions, start=1))


def place_region(number: int, region: Any, pictures: int) -> tuple[int, Region]:
    """(picture of the conversation, region value), from what the caller gave."""
    picture_index = 0
    if isinstance(region, tuple) and len(region) == 2 and isinstance(region[0], int):
        picture_index, region = region
    if isinstance(region, Mapping):
        region = region_from_json(dict(region))
    if not 0 <= picture_index < pictures:
        raise InputError(
            f"<region{number}> lies on picture {picture_index} (counted from 0) but the prompt has "
            f"{pictures} pictures: give the picture or another index."
        )
    return picture_index, region

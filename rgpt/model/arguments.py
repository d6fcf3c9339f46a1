"""What callers of the processor may write short, made whole: one conversation for a list, one picture for
many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rgpt.errors import InputError


def one_each(values: Any, count: int, what: str) -> list[Any]:
    if values is None:
        return [None] * count
    if not isinstance(values, Sequence) or len(values) != count:
        given = len(values) if isinstance(values, Sequence) else "no list of them"
        raise InputError(
            f"there are {count} prompts but {given} {what}: give one list (or None) for each prompt."
        )
    return list(values)


def as_conversations(conversation: Any) -> tuple[list[Any], bool]:
    """A list of conversations, and whether only one was given."""
    if not conversation:
        raise InputError("the conversation is empty: give at least one message.")
    single = isinstance(conversation[0], Mapping)
    return ([conversation] if single else list(conversation)), single


def image_blocks(conversation: Sequence[Mapping[str, Any]]) -> int:
    """How many pictures a conversation's messages show."""
    contents = [message.get("content") for message in conversation]
    return sum(
        block.get("type") == "image" for blocks in contents if isinstance(blocks, list) for block in blocks
    )


def deal_pictures(images: Any, counts: list[int], image_token: str) -> list[list[Any]]:
    """One list of pictures a prompt, from one picture, a flat list or a list of lists."""
    if images is None:
        images = []
    if not isinstance(images, (list, tuple)):
        images = [images]
    if images and all(item is None or isinstance(item, (list, tuple)) for item in images):
        return [list(item or []) for item in one_each(images, len(counts), "lists of pictures")]
    if len(images) != sum(counts):
        raise InputError(
            f"the text has {sum(counts)} {image_token} but {len(images)} pictures were given: "
            "give one for each."
        )
    rest = iter(images)
    return [[next(rest) for _ in range(count)] for count in counts]

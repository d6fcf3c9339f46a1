"""One row of text with the pictures and regions that it refers to, checked before anything is computed.

Callers may write the common case short (one picture, a list of regions); here it becomes one shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from rgpt.errors import InputError
from rgpt.model.pictures import as_picture
from rgpt.regions import region_from_json

Key = int | tuple[int, int]
"""Which region a mention means: its number, or (number, message) where a message gives the number a region
of its own."""


def number_of(key: Key) -> int:
    return key if isinstance(key, int) else key[0]


@dataclass
class Sample:
    """`text` holds one `<image>` a picture and one `<region>` a mention.

    `regions` maps what a mention means to (picture of this sample, region); `learned` are the character spans
    of the assistant's words.
    """

    text: str
    mentions: list[Key]
    pictures: list[Image.Image]
    regions: dict[Key, tuple[int, Any]]
    learned: list[tuple[int, int]]

    @classmethod
    def checked(
        cls,
        text: str,
        mentions: Sequence[Key],
        pictures: Sequence[Any],
        regions: Mapping[Key, Any],
        learned: Sequence[tuple[int, int]] = (),
        *,
        image_token: str,
        region_token: str,
    ) -> Sample:
        """Raises InputError when text, pictures and regions do not fit; a region may go unmentioned."""
        wanted = text.count(image_token)
        if wanted != len(pictures):
            raise InputError(
                f"the prompt has {wanted} {image_token} but {len(pictures)} pictures were given: "
                "give one picture for each."
            )
        if text.count(region_token) != len(mentions):
            raise InputError(
                f"the conversation mentions {len(mentions)} regions but its chat template wrote "
                f"{text.count(region_token)}: it leaves messages out."
            )
        for key in mentions:
            if key not in regions:
                numbers = sorted(set(map(number_of, regions)))
                known = ", ".join(f"<region{number}>" for number in numbers) or "none"
                raise InputError(
                    f"the prompt mentions <region{number_of(key)}> but there are {len(numbers)} regions "
                    f"({known}): draw that region or change the number."
                )
        placed = {key: place_region(number_of(key), item, len(pictures)) for key, item in regions.items()}
        return cls(text, list(mentions), [as_picture(item) for item in pictures], placed, list(learned))


def place_region(number: int, region: Any, pictures: int) -> tuple[int, Any]:
    """(picture of the sample, region value), from what the caller gave."""
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

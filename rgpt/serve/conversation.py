"""Messages of a request → earlier turns, the question, and the one picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rgpt.prompts import mention, mentioned
from rgpt.serve.errors import ApiError
from rgpt.serve.protocol import ImagePart, Message, RegionParam


@dataclass(frozen=True)
class Asked:
    """What a request asks: `(question, answer)` of the earlier turns, the question, the one picture.

    `picture_param` is where the picture's URL stood in the request. Turns are counted from 0, the question's
    is the last.
    """

    turns: tuple[tuple[str, str], ...]
    question: str
    picture_url: str | None
    picture_param: str | None
    mentions: tuple[tuple[int, str, int], ...]
    """Every number that the texts mention, with the field and the turn it stands in."""
    given: tuple[tuple[int, str, Sequence[RegionParam]], ...] = ()
    """The regions that turns have of their own: (turn, field, regions)."""


def read_conversation(messages: Sequence[Message], max_text: int) -> Asked:
    """Put messages into turns.

    System and developer texts stand before the next user text, as the chat templates write them. Messages of
    one role in a row are one message of several lines. The same picture may be sent again with every turn.

    Raises:
        ApiError: 400: the last message is not a user's, an answer comes before any question, there are two
            pictures, or more than `max_text` characters.
    """
    turns: list[tuple[str, str]] = []
    open_question: list[str] = []
    pictures: dict[str, str] = {}
    mentions: list[tuple[int, str, int]] = []
    given: list[tuple[int, str, Sequence[RegionParam]]] = []
    length = 0
    for index, message in enumerate(messages):
        where = f"messages[{index}].content"
        texts = []
        if isinstance(message.content, str):
            texts.append(message.content)
        for part_index, part in enumerate(message.content if isinstance(message.content, list) else []):
            if isinstance(part, ImagePart):
                param = f"{where}[{part_index}].image_url.url"
                if message.role != "user":
                    raise ApiError(
                        "invalid_value",
                        f"A {message.role} message holds a picture: only users send them.",
                        param=param,
                    )
                pictures.setdefault(part.image_url.url, param)
            else:
                texts.append(part.text)
        text = "\n".join(texts)
        length += len(text)
        if length > max_text:
            raise ApiError(
                "string_above_max_length",
                f"The messages have more than {max_text} characters: shorten them.",
                param=where,
            )
        if message.role == "assistant":
            if open_question:
                turns.append(("\n".join(open_question), text))
                open_question = []
            elif turns:
                turns[-1] = (turns[-1][0], f"{turns[-1][1]}\n{text}")
            else:
                raise ApiError(
                    "invalid_value", "The first message is an assistant's: begin with a user's.", param=where
                )
            continue
        if message.role == "user" and not text.strip() and not texts_follow(messages, index):
            raise ApiError("invalid_value", "A user message has no text: ask something.", param=where)
        mentions += [(number, where, len(turns)) for number in dict.fromkeys(mentioned(text))]
        if message.regions:
            given.append((len(turns), f"messages[{index}].regions", message.regions))
        if text:
            open_question.append(text)
    if messages[-1].role != "user":
        raise ApiError(
            "invalid_value",
            f"The last message is of the role {messages[-1].role}: end with a user's.",
            param=f"messages[{len(messages) - 1}].role",
        )
    if len(pictures) > 1:
        raise ApiError(
            "too_many_images",
            f"The messages hold {len(pictures)} different pictures, but this model reads one picture a "
            "conversation: ask about the other one in a conversation of its own.",
            param=list(pictures.values())[1],
        )
    picture_url, picture_param = next(iter(pictures.items()), (None, None))
    question = "\n".join(open_question)
    return Asked(tuple(turns), question, picture_url, picture_param, tuple(mentions), tuple(given))


def texts_follow(messages: Sequence[Message], index: int) -> bool:
    """Whether the next message is also a user's: a picture may come in a message of its own before it."""
    return index + 1 < len(messages) and messages[index + 1].role == "user"


def check_mentions(
    asked: Asked, known: Collection[int], own: Mapping[int, Collection[int]] | None = None
) -> None:
    """Raises ApiError `unknown_region` for a mention of a region that is not given.

    Args:
        known: the numbers that all turns know.
        own: by turn, the numbers that it has besides.
    """
    for number, where, turn in asked.mentions:
        numbers = {*known, *(own or {}).get(turn, ())}
        if number not in numbers:
            given = ", ".join(map(mention, sorted(numbers))) or "none"
            raise ApiError(
                "unknown_region",
                f"The text mentions {mention(number)} but the regions given are: {given}.",
                param=where,
            )

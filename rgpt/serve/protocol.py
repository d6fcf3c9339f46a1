"""The form of requests and responses: OpenAI chat completions with a field `regions`."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from rgpt.chat.pieces import Token
from rgpt.serve.choices import Said, logprobs_json
from rgpt.serve.errors import ApiError, from_validation

KINDS = ("box", "mask", "rle", "polygon", "point", "points")
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
_PAIR = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_RING = {"type": "array", "items": _PAIR, "minItems": 3}
# Read by rgpt.regions, whose sentences are better than those of a union of lists.
Rings = Annotated[
    list[Any], WithJsonSchema({"anyOf": [_RING, {"type": "array", "items": _RING, "minItems": 1}]})
]
Counts = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]})
]


class Neutral:
    """Marks a field of OpenAI's API for which there is nothing here: null and `values` are taken, as they ask
    for nothing; whatever else is refused, since an answer without it would not be what was asked for."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"enum": [None, *self.values]}

    def _check(self, given: Any) -> None:
        # Python takes True for 1 and False for 0, JSON does not.
        if given is None or any(
            isinstance(given, bool) is isinstance(value, bool) and given == value for value in self.values
        ):
            return
        taken = " or ".join(["null", *map(json.dumps, self.values)])
        raise PydanticCustomError(
            "not_neutral",
            "{sentence}",
            {
                "sentence": f"expected {taken}, got {json.dumps(given)[:60]}; leave it out, this server "
                "cannot do what it asks for"
            },
        )


UNREAD = AfterValidator(lambda given: None)
"""Of a field that changes no answer: its form is checked, and nothing is kept of it."""


class MaskParam(BaseModel):
    """A COCO mask in run-length encoding; `size` is (height, width) and must be the picture's."""

    model_config = ConfigDict(extra="forbid")
    size: Annotated[
        list[Annotated[int, Field(strict=True, ge=1, le=2**31)]], Field(min_length=2, max_length=2)
    ]
    counts: Counts


class RegionParam(BaseModel):
    """Exactly one of box, mask, polygon, point, points, in pixels of the upright picture.

    x right, y down, half-open. `rle` is another name for `mask`; `points` are several clicks on one thing.
    """

    model_config = ConfigDict(extra="forbid")
    id: Annotated[str, Field(pattern=r"^region[1-9][0-9]{0,8}$")] | None = Field(
        None, description="`region1` is what `<region1>` mentions; default: by position, from 1."
    )
    image: Annotated[int, Field(strict=True, ge=0)] = Field(0, description="Which picture; there is one.")
    box: Annotated[list[Number], Field(min_length=4, max_length=4)] | None = None
    mask: MaskParam | None = None
    rle: MaskParam | None = None
    polygon: Rings | None = None
    point: Pair | None = None
    points: Annotated[list[Pair], Field(min_length=1, max_length=1000, fail_fast=True)] | None = None
    normalized: Annotated[bool, Field(strict=True)] = Field(
        False, description="Coordinates are shares of the picture's width and height."
    )

    _kind: str = PrivateAttr("")

    @property
    def kind(self) -> str:
        return self._kind

    @model_validator(mode="after")
    def _exactly_one(self) -> RegionParam:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of {', '.join(KINDS)}, got {' and '.join(given) or 'none'}"
            )
        self._kind, self.rle = given[0], self.rle or self.mask
        if self.normalized and self.rle is not None:
            raise ValueError("a mask has no coordinates to be normalized")
        return self


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    url: str
    detail: str | None = None


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl


class RefusalPart(BaseModel):
    """How an assistant's message is sent back in which it declined to answer."""

    type: Literal["refusal"]
    text: str = Field(alias="refusal")


def _part_tag(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>" if kind in ("text", "image_url", "refusal") else None


def list_tag(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<str>"


# Tags in angle brackets: they turn up in the location of an error and must not be taken for fields.
Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[ImagePart, Tag("<image_url>")]
    | Annotated[RefusalPart, Tag("<refusal>")],
    Discriminator(
        _part_tag,
        custom_error_type="part",
        custom_error_message="expected a part of type text or image_url",
    ),
]
Parts = Annotated[list[Part], Field(max_length=64, fail_fast=True)]
Content = Annotated[Annotated[str, Tag("<str>")] | Annotated[Parts, Tag("<list>")], Discriminator(list_tag)]
Stops = Annotated[
    Annotated[str, Tag("<str>")] | Annotated[Annotated[list[str], Field(max_length=4)], Tag("<list>")],
    Discriminator(list_tag),
]


Regions = Annotated[list[RegionParam], Field(max_length=1000, fail_fast=True)]


class Message(BaseModel):
    """A message. What clients add to it and OpenAI's API does not define is passed over."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    name: Annotated[str | None, UNREAD] = None
    refusal: str | None = Field(None, description="What an assistant said instead of `content`.")
    tool_calls: Annotated[Any, Neutral([])] = None
    function_call: Annotated[Any, Neutral()] = None
    audio: Annotated[Any, Neutral()] = None
    regions: Regions | None = Field(
        None, description="What the numbers mean in this turn, where it is not what the request's say."
    )

    @model_validator(mode="after")
    def _content(self) -> Message:
        if self.content is None and self.role == "assistant":
            self.content = self.refusal
        if self.content is None and self.role != "assistant":
            raise ValueError("content is missing")
        if self.regions and self.role != "user":
            raise ValueError(f"a message of the role {self.role} has regions: only users give them")
        return self


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    name: Annotated[str, Field(max_length=64)] | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description="Answers keep the schema in any case.")


class ResponseFormat(BaseModel):
    """Free text, any JSON object, or JSON of a schema."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_given(self) -> ResponseFormat:
        if (self.type == "json_schema") is not (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type json_schema")
        return self


def without_nulls(value: Any) -> Any:
    """An object without the fields that are null."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if item is not None}


class ChatRequest(BaseModel):
    """A chat completion: the fields of OpenAI's API (those of its client 3.57), and `regions`.

    Null is as good as left out, whatever the field. Unknown fields are refused, as are values that ask for
    what the server cannot do.
    """

    model_config = ConfigDict(extra="forbid")
    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000, fail_fast=True)]
    regions: Regions | None = Field(
        None, description="What `<region1>`, `<region2>` … mean, in every message without regions of its own."
    )
    stream: Annotated[bool, Field(strict=True)] | None = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(strict=True, ge=1, le=2**31)] | None = None
    stop: Stops | None = None
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | None = None

    n: Annotated[int, Field(strict=True, ge=1, le=8)] | None = None
    logprobs: Annotated[bool, Field(strict=True)] | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None

    frequency_penalty: Annotated[Any, Neutral(0)] = None
    presence_penalty: Annotated[Any, Neutral(0)] = None
    logit_bias: Annotated[Any, Neutral({})] = None
    modalities: Annotated[Any, Neutral(["text"])] = None
    verbosity: Annotated[Any, Neutral("medium")] = None
    reasoning_effort: Annotated[Any, Neutral("none")] = None
    tools: Annotated[Any, Neutral([])] = None
    tool_choice: Annotated[Any, Neutral("none", "auto")] = None
    functions: Annotated[Any, Neutral([])] = None
    function_call: Annotated[Any, Neutral("none", "auto")] = None
    audio: Annotated[Any, Neutral()] = None
    prediction: Annotated[Any, Neutral()] = None
    web_search_options: Annotated[Any, Neutral()] = None
    moderation: Annotated[Any, Neutral()] = None
    # About the request, or about tools that are not there: no value changes the answer.
    parallel_tool_calls: bool | None = None
    user: Annotated[str | None, UNREAD] = None
    safety_identifier: Annotated[str | None, UNREAD] = None
    metadata: Annotated[dict[str, Any] | None, UNREAD] = None
    store: bool | None = None
    service_tier: Annotated[str | None, UNREAD] = None
    prompt_cache_key: Annotated[str | None, UNREAD] = None
    prompt_cache_retention: Annotated[str | None, UNREAD] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, UNREAD] = None

    _nulls = model_validator(mode="before")(without_nulls)

    @model_validator(mode="after")
    def _options(self) -> ChatRequest:
        wanted = self.stream_options
        if wanted is not None and not self.stream and (wanted.include_usage or wanted.include_obfuscation):
            raise ApiError("invalid_value", "stream_options needs stream to be true.", param="stream_options")
        if self.top_logprobs and not self.logprobs:
            raise ApiError("invalid_value", "top_logprobs needs logprobs to be true.", param="top_logprobs")
        return self

    @property
    def stops(self) -> list[str]:
        """Stop strings, without empty ones, which would stop before the first word."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]

    @property
    def schema_asked(self) -> dict[str, Any] | None:
        """The JSON schema that answers keep; None for free text."""
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return None
        own = None if wanted.json_schema is None else wanted.json_schema.schema_
        return {"type": "object"} if own is None else own


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """What every answer but 200 holds."""

    error: ErrorDetail


def parse_request(body: bytes) -> ChatRequest:
    """The request of a body.

    Raises:
        ApiError: 400, naming the first field that is wrong.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise from_validation(problem) from None


class Reply:
    """Builds what is sent for one request: a whole completion, or its chunks."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = model

    def completion(
        self, texts: Sequence[Said], reasons: Sequence[str], usage: dict[str, Any], logprobs: bool = False
    ) -> dict[str, Any]:
        """`texts`: of every choice the whole text, with all its tokens."""
        choices = [
            {
                "index": said.index,
                "message": {"role": "assistant", "content": said.text, "refusal": None},
                "logprobs": logprobs_json(said.tokens) if logprobs else None,
                "finish_reason": reason,
            }
            for said, reason in zip(texts, reasons, strict=True)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": usage}

    def chunk(
        self,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        index: int = 0,
        tokens: Sequence[Token] = (),
    ) -> dict[str, Any]:
        told = logprobs_json(tokens) if tokens else None
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage_json(prompt: int, cached: int, answer: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": cached},
    }

"""`POST /v1/regions`: questions about many regions of one picture, which is encoded and read once.

Every region is asked about as if it were the only one drawn: an item's answer is that of a chat completion
with this region alone. What is wrong with one region, or one question, is that item's error and no other's.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from rgpt.chat.chat_session import fits
from rgpt.chat.pieces import Usage
from rgpt.errors import InputError
from rgpt.prompts import mentioned
from rgpt.regions import Region
from rgpt.serve.choices import Ended
from rgpt.serve.errors import ApiError, from_input_error, from_validation, internal
from rgpt.serve.opening import Given, Ready
from rgpt.serve.protocol import Number, RegionParam, list_tag, usage_json, without_nulls
from rgpt.serve.regions import build_region, check_size, too_many_corners
from rgpt.serve.service import Service, Work
from rgpt.serve.settings import Settings
from rgpt.serve.streams import line

READ_AT_ONCE = 512
"""Tokens of questions and choices in one pass: what others wait for that share the model's thread."""
YES, NO = "Yes.", "No."
Text = Annotated[str, Field(min_length=1)]
Questions = Annotated[
    Annotated[Text, Tag("<str>")] | Annotated[list[Text], Field(min_length=1, max_length=16), Tag("<list>")],
    Discriminator(list_tag),
]


class RegionsRequest(BaseModel):
    """Questions about regions of one picture. `<region>`, or `<region1>`, stands for each region in turn."""

    model_config = ConfigDict(extra="forbid")
    model: str
    image: str = Field(description="A `data:` URL, or http(s) where the server fetches pictures.")
    # Each is checked by itself: what is wrong with one is no other's error.
    regions: Annotated[
        list[Any],
        Field(min_length=1, max_length=10_000),
        WithJsonSchema({"type": "array", "items": {"$ref": "#/components/schemas/RegionParam"}}),
    ]
    question: Questions = Field(
        description="One or several; in mode choose a description, such as `the red cup`."
    )
    mode: Literal["generate", "rank", "choose"] = Field(
        "generate",
        description="Generate answers, rank `choices` by their likelihood, or choose the region that fits.",
    )
    choices: Annotated[list[Text], Field(min_length=1, max_length=2000)] | None = Field(
        None, description="The only possible answers (generate), or the names to rank."
    )
    stream: Annotated[bool, Field(strict=True)] | None = False
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=2**31)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | None = None

    _nulls = model_validator(mode="before")(without_nulls)

    @model_validator(mode="after")
    def _fields_of_the_mode(self) -> RegionsRequest:
        if self.mode == "rank" and self.choices is None:
            raise ApiError(
                "missing_required_parameter", "choices is missing: name what to rank.", param="choices"
            )
        for name in () if self.mode == "generate" else ("max_tokens", "temperature", "top_p", "seed"):
            if getattr(self, name) is not None:
                raise ApiError("invalid_value", f"{name} is for mode generate: leave it out.", param=name)
        if self.mode == "choose" and self.choices is not None:
            raise ApiError(
                "invalid_value", "choices is for generate and rank: leave it out.", param="choices"
            )
        return self

    @property
    def questions(self) -> list[str]:
        """As each region is asked, under number 1."""
        given = [self.question] if isinstance(self.question, str) else self.question
        if self.mode == "choose":
            return [fits(text, 1) for text in given]
        return [text.replace("<region>", "<region1>") for text in given]


def parse_request(body: bytes) -> RegionsRequest:
    """The request of a body.

    Raises:
        ApiError: 400, naming the first field that is wrong.
    """
    try:
        request = RegionsRequest.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False)[0]) from None
    for number, text in enumerate(request.questions):
        where = "question" if isinstance(request.question, str) else f"question[{number}]"
        if not text.strip():
            raise ApiError("invalid_value", f"{where} is empty: ask something.", param=where)
        if set(mentioned(text)) != {1}:
            raise ApiError(
                "unknown_region",
                f"{where} must mention <region>, which stands for each region in turn, and no other.",
                param=where,
            )
    return request


@dataclass
class _Asked:
    """What is computed for one request, on the model's thread: items in the order in which they are ready.

    An item's index is region * questions + question.
    """

    request: RegionsRequest
    settings: Settings
    errors: dict[int, ApiError] = field(default_factory=dict)
    """By region."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0

    async def open(self, service: Service, ready: Ready) -> None:
        """Each region by its place, laid on the model's grid."""
        await service.opener.read(self._place, ready)
        await service.opener.lay(dict.fromkeys(ready.regions.values()), ready)

    def _place(self, ready: Ready) -> None:
        """On a thread: the regions, in the picture."""
        corners = 0
        for index, given in enumerate(self.request.regions):
            where = f"regions[{index}]"
            try:
                param = _parse_region(given, index)
                corners += check_size(param, where, self.settings)
                if corners > self.settings.max_points * 2:
                    raise too_many_corners(where, param, self.settings)
                ready.regions[index] = build_region(param, f"{where}.{param.kind}", *ready.size)
            except ApiError as error:
                self.errors[index] = error

    def compute(self, work: Work) -> Iterator[list[dict[str, Any]]]:
        """Items as they are ready, question by question: what regions share is then longest."""
        regions, session = work.ready.regions, work.session
        session.turns, session.regions = [], {}
        questions = self.request.questions
        yield [self._failed(i, j, e) for i, e in self.errors.items() for j in range(len(questions))]
        how = {"generate": self._generate, "rank": self._rank, "choose": self._choose}[self.request.mode]
        for j, question in enumerate(questions if regions else []):
            try:
                yield from how(session, [question] * len(regions), regions, j)
            except InputError as error:  # refused before anything is computed: the context is too short
                problem = from_input_error(error, param=f"question[{j}]")
                yield [self._failed(i, j, problem) for i in regions]
        work.whole = True

    def _generate(
        self, session: Any, questions: Sequence[str], regions: Mapping[int, Region], j: int
    ) -> Iterator[list[dict[str, Any]]]:
        request, places = self.request, list(regions)
        texts = [""] * len(places)
        passes = session.stream_each(
            questions,
            [{1: region} for region in regions.values()],
            max_new_tokens=request.max_tokens or self.settings.default_max_tokens,
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=request.seed,
            choices=request.choices,
        )
        for pieces in passes:
            ready = []
            for piece in pieces:
                texts[piece.number] += piece.text
                if piece.usage.ended:
                    self._count(piece.usage)
                    told = {"answer": texts[piece.number].strip(), "finish_reason": piece.usage.ended}
                    ready.append(self._item(places[piece.number], j, told))
            yield ready

    def _rank(
        self, session: Any, questions: Sequence[str], regions: Mapping[int, Region], j: int
    ) -> Iterator[list[dict[str, Any]]]:
        lengths = session.lengths(self.request.choices)
        rows: list[dict[str, float]] = [{} for _ in questions]
        for part in _parts(lengths, READ_AT_ONCE):
            yield from self._likelihoods(session, questions, regions, part, rows)
        for place, row in zip(regions, rows, strict=True):
            best = sorted(row, key=lambda name: -row[name] / lengths[name])
            ranking = [{"answer": n, "logprob": row[n], "tokens": lengths[n]} for n in best]
            yield [self._item(place, j, {"answer": best[0], "ranking": ranking})]

    def _choose(
        self, session: Any, questions: Sequence[str], regions: Mapping[int, Region], j: int
    ) -> Iterator[list[dict[str, Any]]]:
        rows: list[dict[str, float]] = [{} for _ in questions]
        yield from self._likelihoods(session, questions, regions, [YES, NO], rows)
        scores = [row[YES] - row[NO] for row in rows]
        best = max(range(len(scores)), key=scores.__getitem__)
        items = []
        for k, (place, row) in enumerate(zip(regions, rows, strict=True)):
            told = {"answer": max(row, key=row.__getitem__), "score": scores[k], "chosen": k == best}
            items.append(self._item(place, j, {**told, "logprobs": row}))
        yield items

    def _likelihoods(
        self,
        session: Any,
        questions: Sequence[str],
        regions: Mapping[int, Region],
        choices: Sequence[str],
        rows: list[dict[str, float]],
    ) -> Iterator[list[dict[str, Any]]]:
        """Fill `rows` with log p(choice | question); yields nothing but turns for others."""
        done = 0
        own = [{1: region} for region in regions.values()]
        for found in session.stream_likelihoods(
            questions, [choices] * len(questions), own, most=READ_AT_ONCE
        ):
            for row, usage in found:
                rows[done] |= row
                self._count(usage)
                done += 1
            yield []

    def _count(self, usage: Usage) -> None:
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.answer_tokens += usage.answer_tokens

    def _item(self, region: int, question: int, told: Mapping[str, Any]) -> dict[str, Any]:
        index = region * len(self.request.questions) + question
        return {"index": index, "region": region, "question": question, **told}

    def _failed(self, region: int, question: int, error: ApiError) -> dict[str, Any]:
        return self._item(region, question, error.body())


def _parse_region(given: Any, index: int) -> RegionParam:
    try:
        return RegionParam.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise from_validation({**problem, "loc": ("regions", index, *problem["loc"])}) from None


def _parts(lengths: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Names in groups of at most so many tokens, or one name."""
    part: list[str] = []
    size = 0
    for name, length in lengths.items():
        if part and size + length > most:
            yield part
            part, size = [], 0
        part.append(name)
        size += length
    yield part


async def answer(
    service: Service, request: RegionsRequest, who: str
) -> AsyncGenerator[list[dict[str, Any]] | Ended, None]:
    """Items as they are ready, then one `Ended`. Closing the generator stops the computation.

    Raises:
        ApiError: as `Service.answer`.
    """
    count, most = len(request.regions), service.settings.max_regions_at_once
    if count > most:
        raise ApiError(
            "too_many_regions", f"There are {count} regions: at most {most} are taken.", param="regions"
        )
    if sum(map(len, [*request.questions, *(request.choices or [])])) > service.settings.max_text:
        raise ApiError("string_above_max_length", "The texts are too long: shorten them.", param="question")
    asked = _Asked(request, service.settings)
    given = Given(request.image, "image", False, who)
    request.image = ""  # nothing but `given` holds the picture's text now
    opening = partial(asked.open, service)

    async def events() -> AsyncGenerator[list[dict[str, Any]] | Ended, None]:
        async with aclosing(service.run(given, opening, asked.compute)) as passes:
            async for items in passes:
                if items:
                    yield items
        yield Ended(("stop",), asked.prompt_tokens, asked.cached_tokens, asked.answer_tokens)

    async with aclosing(service.counted(events())) as all_events:
        async for event in all_events:
            yield event


class Reply:
    """Builds what is sent for one request."""

    def __init__(self, model: str) -> None:
        self.head = {
            "id": f"regions-{secrets.token_hex(12)}",
            "object": "list",
            "created": int(time.time()),
            "model": model,
        }

    async def whole(self, events: AsyncGenerator[Any, None]) -> dict[str, Any]:
        """All items in the order asked."""
        data: list[dict[str, Any]] = []
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Ended):
                    return self._body(sorted(data, key=lambda item: item["index"]), event)
                data += event
        raise internal()  # every answer ends with Ended

    async def lines(self, events: AsyncGenerator[Any, None], event: Any) -> AsyncIterator[str]:
        """Items as they come, then the usage."""
        try:
            while not isinstance(event, Ended):
                yield line(self._body(event))
                event = await anext(events)
        except ApiError as error:
            yield line(error.body())
            return
        except Exception:
            yield line(internal().body())
            raise
        yield line(self._body([], event))
        yield "data: [DONE]\n\n"

    def _body(self, data: list[dict[str, Any]], ended: Ended | None = None) -> dict[str, Any]:
        tokens = ended and usage_json(ended.prompt_tokens, ended.cached_tokens, ended.answer_tokens)
        return {**self.head, "data": data, "usage": tokens}

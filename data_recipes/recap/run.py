"""The stages: for each picture a caption, for each of its regions a description, then other wordings of it.

A worker takes a picture, and its regions one after another: a region is on the disk before the worker begins
the next. Several workers keep an endpoint busy.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from data_recipes.recap import wordings
from data_recipes.recap.sources import Index, Record, Shard, Target, index_of, read_records
from data_recipes.recap.state import PICTURE, REGION, REPHRASE, State
from rgpt.asking import answers
from rgpt.asking.answers import fingerprint, judge
from rgpt.asking.budget import Budget, BudgetReached, Cost, Pace, Prices
from rgpt.asking.caller import Asked, Caller, GaveUp, RetryPolicy, Stopped
from rgpt.backends import open_backend, parse_backend
from rgpt.errors import InputError
from rgpt.journal import Journal
from rgpt.placement import placement
from rgpt.regions import open_image
from rgpt.regions.close_up import close_up, moved, shrunk

VERSION = 1


@dataclass(frozen=True)
class Settings:
    """What a run is told. The first group decides what is asked and stays for the life of a journal; the
    second may change from run to run.

    Args:
        style: `recapd` or `regions` (`wordings`); None: `regions` for a RegionGPT, else `recapd`.
        margin: how much wider than the region's box the close-up is, as a part of its sides, on every side.
        max_side, min_side: pixels; pictures sent are made smaller, or close-ups larger, to fit.
        limit: pictures to do in this run.
    """

    input: Path
    out: Path
    backend: str
    rephrase_backend: str | None = None
    rephrasings: int = 0
    style: str | None = None
    seed: int = 0
    max_tokens: int = 300
    temperature: float = 0.2
    rephrase_temperature: float = 0.7
    margin: float = 0.1
    max_side: int = 1024
    min_side: int = 112
    shard: Shard = field(default_factory=Shard)
    dtype: str | None = None
    bits: int | None = None

    concurrency: int = 8
    limit: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    budget: float | None = None
    budget_tokens: int | None = None
    prices: Prices = field(default_factory=Prices)
    rephrase_prices: Prices = field(default_factory=Prices)
    image_tokens: int | None = None
    timeout: float = 120.0
    api_key_env: str | None = None
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_side", "min_side", "concurrency", "limit"):
            self._at_least(name, 1)
        for name in ("rephrasings", "temperature", "rephrase_temperature", "margin", "image_tokens"):
            self._at_least(name, 0)
        for name in ("requests_per_minute", "tokens_per_minute", "timeout"):
            self._at_least(name, 1e-9)
        for prices, what in ((self.prices, "--price"), (self.rephrase_prices, "--rephrase-price")):
            if prices.prompt < 0 or prices.completion < 0:
                raise InputError.about(what, "at least 0", str(prices))
        if self.budget is not None and not any((self.prices.prompt, self.prices.completion)):
            raise InputError(
                "--budget needs --price IN OUT (money for a million tokens); --budget-tokens does not."
            )
        for spec in (self.backend, *([self.rephrase_backend] if self.rephrase_backend else [])):
            parse_backend(spec)
        if self.style == "regions" and parse_backend(self.backend)[0] != "rgpt":
            raise InputError(f"--style regions needs an rgpt backend, got {self.backend!r}; use recapd.")
        if self.rephrasings and self.rephrase_backend is None and parse_backend(self.backend)[0] == "rgpt":
            raise InputError("A RegionGPT cannot rephrase: give --rephrase-backend, or --rephrasings 0.")

    def _at_least(self, name: str, least: float) -> None:
        value = getattr(self, name)
        if value is not None and not value >= least:
            option = "--" + name.replace("_", "-")
            raise InputError.about(option, f"at least {least:g}", str(value))

    @property
    def prompt_style(self) -> str:
        return self.style or ("regions" if parse_backend(self.backend)[0] == "rgpt" else "recapd")

    @property
    def journal(self) -> Path:
        return self.out / f"journal-{self.shard}.jsonl"

    def header(self, index: Index) -> dict[str, Any]:
        """What must not change while a journal grows. Addresses and prices may."""
        rephrases = self.rephrase_backend or self.backend
        return {
            "version": VERSION,
            "input": index.digest,
            "shard": str(self.shard),
            "regions": index.regions,
            "backend": ":".join(parse_backend(self.backend)[:2]),
            "rephrase_backend": ":".join(parse_backend(rephrases)[:2]) if self.rephrasings else None,
            "rephrasings": self.rephrasings,
            "style": self.prompt_style,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "rephrase_temperature": self.rephrase_temperature if self.rephrasings else None,
            "margin": self.margin,
            "max_side": self.max_side,
            "min_side": self.min_side,
            **{name: value for name in ("dtype", "bits") if (value := getattr(self, name)) is not None},
        }


@dataclass(frozen=True)
class Summary:
    """How a run ended. `stopped` is empty when every region asked for is finished."""

    regions: int
    state: State
    failed: int
    stopped: str
    torn_bytes: int


def recap(settings: Settings) -> Summary:
    """Caption every region of the input that the journal does not have yet.

    Raises:
        InputError: for a bad input, model, or journal of other settings; before any request.
    """
    index = index_of(settings.input, settings.shard)
    models = open_models(settings)  # before the journal: a model that is not there must not begin one
    state = State()
    state.meter.image_tokens = settings.image_tokens
    with Journal(settings.journal, settings.header(index), state.replay) as journal:
        if len(state.finished) >= index.regions:
            return Summary(index.regions, state, 0, "", journal.torn_bytes)
        return asyncio.run(_run(settings, index, journal, state, models))


def open_models(settings: Settings) -> tuple[Asked, Asked]:
    """Who describes, and who rephrases (the same unless another is named)."""
    options: dict[str, Any] = {"timeout": settings.timeout, "api_key_env": settings.api_key_env}
    specs = [settings.backend]
    if settings.rephrasings and settings.rephrase_backend:
        specs.append(settings.rephrase_backend)
    # Only what is opened here runs somewhere of our choice; where all are endpoints, the first says so.
    here = [spec for spec in specs if parse_backend(spec)[0] != "openai"] or specs[:1]
    opened = [
        open_backend(spec, where=placement(settings) if spec in here else {}, **options) for spec in specs
    ]
    asked = Asked(opened[0], settings.prices)
    return asked, Asked(opened[1], settings.rephrase_prices) if len(opened) > 1 else asked


async def _run(
    settings: Settings, index: Index, journal: Journal, state: State, models: tuple[Asked, Asked]
) -> Summary:
    asked, rephrase = models
    for model in (asked.backend, rephrase.backend):  # one journal is one way of asking
        model.changed.update(state.changed.get(model.name, {}))
    caller = Caller(
        journal,
        state,
        Budget(settings.budget, settings.budget_tokens, state.spent),
        Pace(settings.requests_per_minute, settings.tokens_per_minute),
        settings.retries,
    )
    with tqdm(total=index.regions, initial=len(state.finished), desc="captioning", unit="region") as bar:
        stages = Stages(settings, caller, asked, rephrase, bar)
        records = _limited(read_records(settings.input, settings.shard), settings.limit)
        workers = settings.concurrency if asked.backend.concurrent else 1
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(stages.work(records))
        except* InputError as errors:
            raise errors.exceptions[0] from None
        except* OSError as errors:
            raise InputError(f"{journal.path}: cannot be written ({errors.exceptions[0]}).") from errors
        finally:
            for model in {asked.backend, rephrase.backend}:
                await model.close()
    return Summary(index.regions, state, stages.failed, caller.stop_reason, journal.torn_bytes)


def _limited(records: Iterator[Record], limit: int | None) -> Iterator[Record]:
    pictures: set[str] = set()
    for record in records:
        if limit is not None and record.key not in pictures and len(pictures) >= limit:
            continue
        pictures.add(record.key)
        yield record


class Stages:
    """The way of a region from its picture to its record."""

    def __init__(self, settings: Settings, caller: Caller, asked: Asked, rephrase: Asked, bar: Any) -> None:
        self.settings, self.caller, self.state = settings, caller, caller.state
        self.asked, self.rephrase, self.bar = asked, rephrase, bar
        self.failed = 0
        self._begun = (len(self.state.finished), caller.budget.spent)
        self._pictures: dict[str, asyncio.Lock] = {}

    async def work(self, records: Iterator[Record]) -> None:
        """Take records until there are no more, or the run is stopped."""
        try:
            for record in records:
                await self._record(record)
                if self.caller.stop_reason:
                    return
        except BudgetReached:
            self.caller.stop_reason = "the budget is reached"
        except Stopped:
            pass  # `stop_reason` says it

    async def _record(self, record: Record) -> None:
        left = [target for target in record.targets if target.id not in self.state.finished]
        if not left:
            return
        try:
            image = await asyncio.to_thread(open_image, record.image)
        except InputError as error:
            for target in left:
                await self._finish(record, target, answers.BAD_PICTURE, str(error))
            return
        whole = shrunk(image, self.settings.max_side)
        try:
            caption = await self._picture(record, whole)
        except GaveUp:
            self._given_up(len(left))
            return
        verdict = judge(caption.text, caption.finish_reason)
        for target in left:
            if verdict.status != answers.OK:
                reason = f"picture: {verdict.status}, {verdict.reason}"
                await self._finish(record, target, answers.NO_CONTEXT, reason)
                continue
            try:
                await self._region(record, target, image, whole, caption.text)
            except GaveUp:
                self._given_up(1)
            if self.caller.stop_reason:
                return

    async def _picture(self, record: Record, whole: Image.Image) -> Any:
        """Stage 1, once for each picture, however many records it has."""
        key = f"{PICTURE}:{record.key}"
        async with self._pictures.setdefault(record.key, asyncio.Lock()):
            choice = wordings.number_for(self.settings.seed, key)
            messages = wordings.picture_question(self.settings.prompt_style, whole, choice)
            return await self._ask(key, self.asked, messages, self.settings.temperature, choice)

    async def _region(
        self, record: Record, target: Target, image: Image.Image, whole: Image.Image, caption: str
    ) -> None:
        settings = self.settings
        key = f"{REGION}:{target.id}"
        choice = wordings.number_for(settings.seed, key)
        try:
            region = moved(target.region, image, whole)
            messages = wordings.region_question(
                settings.prompt_style,
                whole,
                close_up(image, target.region, settings.margin, settings.min_side, settings.max_side),
                region,
                caption,
                target.name,
                choice,
            )
        except InputError as error:
            await self._finish(record, target, answers.BAD_REGION, str(error))
            return
        answer = await self._ask(key, self.asked, messages, settings.temperature, choice)
        earlier = {fingerprint(caption)} | self.state.captions.get(_where(record, settings), set())
        status, reason = judge(answer.text, answer.finish_reason, earlier)
        kept: list[str] = []
        dropped: list[str] = []
        if status == answers.OK:
            for n in range(1, settings.rephrasings + 1):
                text, problem = await self._other_words(target, answer.text, n, kept)
                (dropped if problem else kept).append(problem or text)
        await self._finish(
            record,
            target,
            status,
            reason,
            caption=answer.text,
            picture_caption=caption,
            rephrasings=kept,
            rephrasings_dropped=dropped,
            rephrasings_asked=len(kept) + len(dropped),
        )

    async def _other_words(self, target: Target, text: str, n: int, kept: list[str]) -> tuple[str, str]:
        """A rephrasing, and the status that makes it useless or nothing."""
        key = f"{REPHRASE}:{target.id}:{n}"
        choice = wordings.number_for(self.settings.seed, key)
        messages = wordings.rephrase_question(text, choice)
        answer = await self._ask(key, self.rephrase, messages, self.settings.rephrase_temperature, choice)
        verdict = judge(answer.text, answer.finish_reason, {fingerprint(t) for t in (text, *kept)})
        return answer.text, "" if verdict.status == answers.OK else verdict.status

    async def _ask(self, key: str, asked: Asked, messages: Any, temperature: float, seed: int) -> Any:
        return await self.caller.answer(
            key, asked, messages, max_tokens=self.settings.max_tokens, temperature=temperature, seed=seed
        )

    async def _finish(self, record: Record, target: Target, status: str, reason: str, **more: Any) -> None:
        line = {
            "kind": "region",
            "id": target.id,
            "image": _where(record, self.settings),
            "region": target.region.to_json(),
            "name": target.name,
            "status": status,
            **({"reason": reason} if reason else {}),
            **more,
        }
        await self.caller.journal.append(line)
        self.state.replay(line)
        self.bar.set_postfix_str(self._progress(), refresh=False)
        self.bar.update()

    def _given_up(self, regions: int) -> None:
        self.failed += regions

    def _progress(self) -> str:
        """Spending so far, and what the whole would cost at the rate of this run."""
        before, cost_before = self._begun
        spent: Cost = self.caller.budget.spent
        done = len(self.state.finished)
        left = max(0, (self.bar.total or 0) - done)
        each = 1 / max(1, done - before)
        tokens = spent.tokens + (spent - cost_before).tokens * each * left
        text = f"{spent.tokens / 1e3:.1f}k of ~{tokens / 1e3:.1f}k tokens"
        if any((self.asked.prices.prompt, self.asked.prices.completion)):
            money = spent.money + (spent - cost_before).money * each * left
            text = f"cost {spent.money:.4g} of ~{money:.4g}, {text}"
        useless = done - self.state.statuses[answers.OK]
        return text + (f", {useless} no captions" if useless else "")


def _where(record: Record, settings: Settings) -> str:
    """The picture's path as seen from the journal's folder."""
    return Path(os.path.relpath(record.image, settings.out)).as_posix()

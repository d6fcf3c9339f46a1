"""Asking, with a journal: an object that is answered is on the disk before the next; a killed run goes on.

One process writes the journal. Our own models answer here or in worker processes; an endpoint is asked for
many objects at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rgpt.annotate.endpoint_answers import EndpointAnswerer
from rgpt.annotate.questions import Question
from rgpt.annotate.records import Answer, Target, TargetPicture
from rgpt.annotate.sources import Source
from rgpt.annotate.workers import asked_in_processes, open_answerer
from rgpt.asking.budget import Budget, BudgetReached, Pace, Prices
from rgpt.asking.caller import Asked, Caller, GaveUp, RetryPolicy, Stopped
from rgpt.asking.ledger import Ledger
from rgpt.backends import open_backend, parse_backend
from rgpt.errors import InputError
from rgpt.journal import Journal
from rgpt.regions import open_image

VERSION = 1
Answers = dict[str, Answer]


@dataclass(frozen=True)
class Asking:
    """Who is asked, and how. The second group may change from run to run of a journal.

    Args:
        model: `photo`, a folder, a hub id, `openai:MODEL@URL` or `local:DIR`.
    """

    model: str
    questions: Sequence[Question]
    context: str = "image"

    processes: int = 1
    concurrency: int = 8
    budget_tokens: int | None = None
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float = 120.0

    @property
    def is_backend(self) -> bool:
        """Whether other people's model is asked, for JSON."""
        return self.model.startswith(("openai:", "local:"))

    def header(self, source: Source) -> dict[str, Any]:
        """What must not change while a journal grows."""
        if self.is_backend:
            model = ":".join(parse_backend(self.model)[:2])
        else:
            from rgpt.model.bases import lineage, model_digest

            folder, layers = lineage(self.model)
            model = f"{self.model} {model_digest(layers[-1] if layers else folder)[:16]}"
        return {
            "version": VERSION,
            "source": source.digest,
            "model": model,
            "context": self.context,
            "questions": [question.to_json() for question in self.questions],
        }


class State(Ledger):
    """What a journal says: answers by object, beside what was spent. Its own record:

    object    key, answers {question: …}     an object is answered; once for each
    """

    def __init__(self) -> None:
        super().__init__()
        self.done: dict[str, Answers] = {}

    def replay(self, record: dict[str, Any]) -> None:
        """Take in one record. Raises InputError when an object is answered twice."""
        super().replay(record)
        if record.get("kind") == "object":
            key = record["key"]
            if key in self.done:
                raise InputError(f"the journal answers the object {key!r} twice; remove one of the lines.")
            self.done[key] = {name: Answer.from_json(said) for name, said in record["answers"].items()}
            self.answers.pop(key, None)
            self.answers.pop(f"{key}/again", None)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `stopped` is empty when every object asked for is answered."""

    done: dict[str, Answers]
    stopped: str
    tokens: int


def ask(source: Source, asking: Asking, journal: Path, only: frozenset[str] | None = None) -> Outcome:
    """Ask about every object that the journal does not have yet; of `only` those, where it is given.

    Raises:
        InputError: the journal is of another run, the model cannot be opened, or the disk is full; what was
            answered stays in the journal.
    """
    state = State()
    wanted = [key for key in source.keys if only is None or key in only]
    with _journal(journal, asking.header(source), state) as writer:
        left = sum(key not in state.done for key in wanted)
        if not left:
            return Outcome(state.done, "", state.spent.tokens)
        with tqdm(total=len(wanted), initial=len(wanted) - left, desc="asking", unit="object") as bar:
            todo = (picture for picture in _left(source, state, only) if picture.targets)
            if asking.is_backend:
                stopped = asyncio.run(_ask_backend(asking, todo, writer, state, bar))
            else:
                stopped = _ask_model(asking, todo, writer, state, bar)
    return Outcome(state.done, stopped, state.spent.tokens)


@contextmanager
def _journal(path: Path, header: dict[str, Any], state: State) -> Iterator[Journal]:
    """The open journal. Raises InputError where it cannot be written."""
    try:
        with Journal(path, header, state.replay) as writer:
            yield writer
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}): make room; the same command goes on."
        ) from error


def _left(source: Source, state: State, only: frozenset[str] | None) -> Iterator[TargetPicture]:
    for picture in source.pictures():
        targets = tuple(
            t for t in picture.targets if t.key not in state.done and (only is None or t.key in only)
        )
        yield TargetPicture(picture.name, picture.path, targets)


def record_of(target: Target, answers: Answers) -> dict[str, Any]:
    return {"kind": "object", "key": target.key, "answers": {k: a.to_json() for k, a in answers.items()}}


def _ask_model(
    asking: Asking, pictures: Iterator[TargetPicture], writer: Journal, state: State, bar: Any
) -> str:
    def finish(record: dict[str, Any]) -> None:
        writer.write(record)
        state.replay(record)
        bar.update()

    if asking.processes > 1:
        asked_in_processes(asking, pictures, finish)
        return ""
    answer = open_answerer(asking.model, asking.questions, asking.context)
    for picture in pictures:
        for record in answered(answer, asking.questions, picture):
            finish(record)
    return ""


def answered(
    answer: Callable[[Any, Sequence[Target]], Iterator[Answers]],
    questions: Sequence[Question],
    picture: TargetPicture,
) -> Iterator[dict[str, Any]]:
    """The records of a picture's objects; of one that does not open, the reason."""
    try:
        image = open_image(picture.path)
    except InputError as error:
        for target in picture.targets:
            yield record_of(target, {q.key: Answer(problem=str(error)) for q in questions})
        return
    for target, answers in zip(picture.targets, answer(image, picture.targets), strict=True):
        yield record_of(target, answers)


async def _ask_backend(
    asking: Asking, pictures: Iterator[TargetPicture], writer: Journal, state: State, bar: Any
) -> str:
    backend = open_backend(asking.model, timeout=asking.timeout)
    backend.changed.update(state.changed.get(backend.name, {}))
    budget = Budget(None, asking.budget_tokens, state.spent)
    caller = Caller(writer, state, budget, Pace(), asking.retries)
    answerer = EndpointAnswerer(caller, Asked(backend, Prices()), asking.questions, asking.context)
    begun, failed = (len(state.done), state.spent.tokens), 0

    async def one(image: Any, target: Target) -> None:
        record = record_of(target, await answerer.answer(image, target))
        await writer.append(record)
        state.replay(record)
        spent, done = state.spent.tokens, len(state.done)
        more = (spent - begun[1]) / max(1, done - begun[0]) * max(0, bar.total - bar.n - 1)
        bar.set_postfix_str(f"{spent / 1e3:.1f}k of ~{(spent + more) / 1e3:.1f}k tokens", refresh=False)
        bar.update()

    async def work() -> None:
        nonlocal failed
        for picture in pictures:  # one iterator, shared by all workers
            try:
                image = await asyncio.to_thread(open_image, picture.path)
            except InputError as error:
                for target in picture.targets:
                    answers = {q.key: Answer(problem=str(error)) for q in asking.questions}
                    record = record_of(target, answers)
                    await writer.append(record)
                    state.replay(record)
                    bar.update()
                continue
            for target in picture.targets:
                try:
                    await one(image, target)
                except GaveUp:
                    failed += 1
                except BudgetReached:
                    caller.stop_reason = "the budget is reached"
                except Stopped:
                    pass  # `stop_reason` says it
                if caller.stop_reason:
                    return

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(asking.concurrency if backend.concurrent else 1):
                group.create_task(work())
    except* (InputError, OSError) as errors:
        raise errors.exceptions[0] from None
    finally:
        await backend.close()
    return caller.stop_reason or (f"{failed} objects got no answer" if failed else "")

"""Our own models in several processes: pictures go out, records come back, one process writes them down.

A worker holds one end of a pipe alone, so it ends when the process that asks it is gone, however that ended.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, cast

from rgpt.annotate.questions import Question
from rgpt.annotate.records import Answer, Target, TargetPicture
from rgpt.annotate.session_answers import SessionAnswerer
from rgpt.errors import InputError

if TYPE_CHECKING:
    from rgpt.annotate.run import Asking

Answerer = Callable[[Any, Sequence[Target]], Iterator[dict[str, Answer]]]


def open_answerer(model: str, questions: Sequence[Question], context: str) -> Answerer:
    """What answers about the objects of a picture. Raises InputError: there is no such model."""
    from transformers.utils import logging

    from rgpt.chat import ChatSession

    logging.disable_progress_bar()  # stderr has the bar of objects
    return SessionAnswerer(ChatSession.from_pretrained(model), questions, context).answer


def asked_in_processes(
    asking: Asking, pictures: Iterator[TargetPicture], finish: Callable[[dict[str, Any]], None]
) -> None:
    """Ask `asking.processes` workers; `finish` gets every record, in any order.

    Raises:
        InputError: the model cannot be opened, or a worker ended.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, Any] = {}
    try:
        for _ in range(asking.processes):
            ours, theirs = context.Pipe()
            worker = context.Process(
                target=_work, args=(theirs, asking.model, asking.questions, asking.context), daemon=True
            )
            worker.start()
            theirs.close()
            workers[ours] = worker
        while workers:
            for connection in cast("list[Connection]", wait(list(workers))):
                _hear(connection, workers, pictures, finish)
    finally:
        for worker in workers.values():
            worker.kill()


def _hear(
    connection: Connection,
    workers: dict[Connection, Any],
    pictures: Iterator[TargetPicture],
    finish: Callable[[dict[str, Any]], None],
) -> None:
    """One message of a worker: a record, or a request for the next picture."""
    picture = None
    try:
        kind, content = connection.recv()
        if kind == "next" and (picture := next(pictures, None)) is not None:
            connection.send(picture)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise InputError(
            "A process that asks has ended (out of memory?): the same command goes on; try fewer --processes."
        ) from None
    if kind == "record":
        finish(content)
    elif kind == "refused":
        raise InputError(content)
    elif picture is None:
        workers.pop(connection)
        connection.close()  # the worker ends


def _work(connection: Connection, model: str, questions: Sequence[Question], context: str) -> None:
    """In a worker: open the model, then answer about pictures until there are none."""
    from rgpt.annotate.run import answered

    try:
        answer = open_answerer(model, questions, context)
        while True:
            connection.send(("next", None))
            for record in answered(answer, questions, connection.recv()):
                connection.send(("record", record))
    except InputError as error:
        connection.send(("refused", str(error)))
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # the process that asks is done, or gone

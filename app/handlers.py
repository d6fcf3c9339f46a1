"""What the page's events do, one short method an event.

What a visitor has is one `Conversation` in a `gr.State`; handlers take it and return the next.

Traps of Gradio that the methods avoid:

* `gr.Error` in a handler with outputs covers these on the page, so only `check`, which has none, raises it.
* The text of a toast is HTML: unescaped, `<region9>` vanishes.
* A generator that ends before its first yield wipes its outputs.
"""

from __future__ import annotations

import html
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from app.canvas import picture_update
from app.engine import Answering, Engine
from app.jobs import Job, Jobs
from app.privacy import take_upload
from app.session import Conversation, Picture, check_question, fill_question, read_regions
from rgpt.errors import InputError

log = logging.getLogger(__name__)

FRAME = 0.04
"""Seconds between two updates of a streaming answer: 25 a second look fluent, one a token costs more than
the model.
"""


class Handlers:
    """The handlers, and what all visitors share: who answers, the jobs, the example pictures."""

    def __init__(self, engine: Engine, examples: Sequence[Picture], new_scene: Callable[[], Picture]) -> None:
        self.answering = Answering(engine)
        self.engine = engine
        self.jobs = Jobs()
        self.examples = tuple(examples)
        self.new_scene = new_scene

    # -- pictures

    def open_upload(self, path: str | None, conversation: Conversation) -> Any:
        """A chosen, dropped or pasted file."""
        if path is None:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        try:
            picture = Picture.open(take_upload(path))
        except OSError:
            gr.Warning("The file did not arrive whole; choose it again.", title="Picture not usable")
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        except InputError as error:
            gr.Warning(_escaped(error), title="Picture not usable")
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        return self._show(picture, conversation)

    def open_example(self, conversation: Conversation, event: gr.EventData) -> Any:
        """An example picture by index; -1 draws a new scene."""
        index = event.index
        if type(index) is not int or not -1 <= index < len(self.examples):
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        if index < 0:
            picture = self.new_scene()
        else:
            example = self.examples[index]
            picture = Picture(example.image, subject=example.subject)  # a token of its own
        return self._show(picture, conversation)

    def _show(self, picture: Picture, conversation: Conversation) -> Any:
        self.forget(conversation)
        return picture_update(picture), Conversation(picture), [], _idle()

    def _abandon(self, conversation: Conversation, *, discard: bool = True) -> None:
        self.jobs.stop(conversation.picture.token if conversation.picture else None, discard=discard)

    # -- asking

    def check(self, question: str, drawn: object, conversation: Conversation) -> None:
        """Refuse with a toast before anything changes on the page."""
        try:
            regions = read_regions(drawn, conversation.picture)
            question = check_question(question, conversation, regions)
            self._check_free(conversation)
            self.answering.check(conversation.asked(question, regions))
        except InputError as error:
            raise gr.Error(_escaped(error), duration=8, title="Not asked", print_exception=False) from None

    def ask(self, question: str, drawn: object, conversation: Conversation) -> Any:
        """Put the question into the chat; the canvas learns that the regions so far are fixed."""
        assert conversation.picture is not None
        try:
            self.jobs.begin(conversation.picture.token)
        except InputError:  # the same question sent twice at once
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        conversation = conversation.asked(question.strip(), read_regions(drawn, conversation.picture))
        return _busy(value=""), conversation, conversation.messages(), gr.update(asked=str(time.time_ns()))

    def retry(self, conversation: Conversation, event: gr.RetryData) -> Any:
        """Ask the turn of this message again, with the regions of that turn."""
        try:
            index = self._free_turn(event.index, conversation)
        except InputError as error:
            gr.Warning(_escaped(error), title="Not retried")
            return gr.skip(), gr.skip(), gr.skip()
        assert conversation.picture is not None
        conversation = conversation.retried(index)
        self.jobs.begin(conversation.picture.token)
        return _busy(), conversation, conversation.messages()

    def answer(self, conversation: Conversation) -> Iterator[Any]:
        """Stream the answer to the last turn."""
        job = (
            self.jobs.claim(conversation.picture.token)
            if conversation.picture and conversation.waiting
            else None
        )
        if conversation.picture is None or job is None:
            yield gr.skip(), gr.skip()  # stopped before its turn in the queue came
            return
        try:
            yield from self._write_answer(conversation, job)
        finally:
            # Only now that the page has taken the last piece may Stop, New chat or a new picture go on: what
            # they show would be overwritten otherwise. Reached by GeneratorExit too, when the tab is closed.
            self.jobs.end(conversation.picture.token, job)

    def _write_answer(self, conversation: Conversation, job: Job) -> Iterator[Any]:
        text, shown, status = "", time.monotonic(), "done"
        pieces = self.answering.stream(conversation)
        try:
            for piece in pieces:
                text += piece
                if job.stopping.is_set():
                    status = "stopped"
                    break
                if time.monotonic() - shown >= FRAME:
                    conversation = conversation.answered(text, "running")
                    yield conversation, conversation.messages()
                    shown = time.monotonic()
        except InputError as error:
            status = "failed"
            gr.Warning(_escaped(error), title="Not answered")
        except Exception:
            log.exception("the model failed")
            status = "failed"
            gr.Warning("The model failed; the reason is in the server's log.", title="Not answered")
        finally:
            pieces.close()
        if job.discarded:
            yield gr.skip(), gr.skip()
            return
        conversation = conversation.answered(text.strip(), status)
        yield conversation, conversation.messages()

    def settle(self, conversation: Conversation) -> Any:
        """After an answer: the send button again, unless another answer has begun."""
        busy = conversation.picture is not None and self.jobs.busy(conversation.picture.token)
        return _busy() if busy else _idle()

    def lost(self, conversation: Conversation) -> Any:
        """The queue was full: the question goes back into the message box."""
        self._abandon(conversation)
        if not conversation.waiting:
            return _idle(), conversation, conversation.messages()
        question = conversation.turns[-1].question
        conversation = conversation.before(len(conversation.turns) - 1)
        return _idle(value=question), conversation, conversation.messages()

    def stop(self, conversation: Conversation) -> None:
        """Stop the answer under way; what it had said stays."""
        self._abandon(conversation, discard=False)

    # -- the conversation as a whole

    def undo(self, conversation: Conversation, event: gr.UndoData) -> Any:
        """Take the turn of this message back into the message box."""
        try:
            index = self._free_turn(event.index, conversation)
        except InputError as error:
            gr.Warning(_escaped(error), title="Not undone")
            return gr.skip(), gr.skip(), gr.skip()
        question, conversation = conversation.turns[index].question, conversation.before(index)
        return question, conversation, conversation.messages()

    def new_chat(self, conversation: Conversation) -> Any:
        """Forget the turns; picture and regions stay."""
        self._abandon(conversation)
        return _idle(value=""), conversation.before(0), []

    def fill(self, template: str, drawn: object, conversation: Conversation) -> str:
        """An example question about the regions on the canvas."""
        subject = conversation.picture.subject if conversation.picture else Picture.subject
        try:
            numbers = list(read_regions(drawn, conversation.picture))
        except InputError:
            numbers = []
        return fill_question(template, numbers, subject)

    def export(self, conversation: Conversation) -> str:
        """The conversation as JSON text."""
        return json.dumps(conversation.to_json(self.engine.name), ensure_ascii=False, indent=2)

    def forget(self, conversation: Conversation) -> None:
        """The visitor has left, or has another picture."""
        self._abandon(conversation)
        if conversation.picture:
            self.answering.forget(conversation.picture.token)

    def _check_free(self, conversation: Conversation) -> None:
        if conversation.picture and self.jobs.busy(conversation.picture.token):
            raise InputError("An answer is still being written; wait for it or stop it first.")

    def _free_turn(self, index: object, conversation: Conversation) -> int:
        """The turn of a Chatbot message (every earlier turn shows two) when nothing is being answered."""
        self._check_free(conversation)
        number = index[0] if isinstance(index, list | tuple) and index else index
        if type(number) is not int or not 0 <= number // 2 < len(conversation.turns):
            raise InputError("That message is no longer part of the conversation; reload the page.")
        return number // 2


def _idle(**changes: Any) -> Any:
    return gr.update(submit_btn=True, stop_btn=False, **changes)


def _busy(**changes: Any) -> Any:
    return gr.update(submit_btn=False, stop_btn=True, **changes)


def _escaped(message: object) -> str:
    return html.escape(str(message))

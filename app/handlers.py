"""What the page's events do, one short method an event: pictures and chat. `app.table`, `app.files` and
`app.masks` hold the rest.

What a visitor has is one `Conversation` in a `gr.State`; handlers take it and return the next.

Traps of Gradio that the methods avoid:

* `gr.Error` in a handler with outputs covers these on the page, so only `check`, which has none, raises it.
* The text of a toast is HTML: unescaped, `<region9>` vanishes.
* A generator that ends before its first yield wipes its outputs.
"""

from __future__ import annotations

import html
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from app.canvas import picture_update
from app.drawing import read_regions
from app.engine import Answering, Engine
from app.jobs import Job, Jobs
from app.privacy import take_upload
from app.saved import labels_of, to_csv
from app.session import Conversation, Picture, Status, check_question, fill_question
from app.visits import Visits
from rgpt.errors import InputError
from rgpt.regions import Region

log = logging.getLogger(__name__)

NOTHING_SHOWN = (gr.skip(),) * 5
"""For the outputs of `Handlers.show`."""

FRAME = 0.04
"""Seconds between two updates of a streaming answer: 25 a second look fluent, one a token costs more than
the model.
"""


class Handlers:
    """The handlers, and what all visitors share: who answers, the jobs, the example pictures, and what a
    reload finds again.
    """

    def __init__(
        self, engine: Engine, examples: Sequence[Picture], new_scene: Callable[[], Picture] | None = None
    ) -> None:
        self.answering = Answering(engine)
        self.engine = engine
        self.jobs = Jobs()
        self.visits = Visits()
        self.examples = tuple(examples)
        self.new_scene = new_scene

    # -- pictures

    def open_upload(self, path: str | None, conversation: Conversation) -> Any:
        """A chosen, dropped or pasted file."""
        if path is None:
            return NOTHING_SHOWN
        try:
            picture = Picture.open(take_upload(path))
        except OSError:
            gr.Warning("The file did not arrive whole; choose it again.", title="Picture not usable")
            return NOTHING_SHOWN
        except InputError as error:
            gr.Warning(escaped(error), title="Picture not usable")
            return NOTHING_SHOWN
        return self.show(Conversation(picture), conversation)

    def open_example(self, conversation: Conversation, event: gr.EventData) -> Any:
        """An example picture by index, with the regions it comes with; -1 draws a new scene."""
        index = event.index
        if type(index) is not int or not -1 <= index < len(self.examples):
            return NOTHING_SHOWN
        if index < 0 and self.new_scene is None:
            return NOTHING_SHOWN
        picture = self.new_scene() if index < 0 and self.new_scene else self.examples[index].again()
        return self.show(Conversation(picture), conversation, picture.drawn)

    def show(
        self,
        new: Conversation,
        old: Conversation,
        drawn: Mapping[int, Region] | None = None,
        last_id: int = 0,
    ) -> Any:
        """Replace what the visitor has; updates for canvas, conversation, chat, message and table."""
        assert new.picture is not None
        self.forget(old)
        canvas = picture_update(new.picture, drawn or {}, last_id)
        if new.turns:
            canvas["asked"] = str(time.time_ns())  # what is drawn was part of a question, perhaps
        return canvas, self.visits.keep(new), new.messages(), idle(), table_update(new, drawn)

    def abandon(self, conversation: Conversation, *, discard: bool = True) -> None:
        """Stop what is being computed, and wait for its end."""
        self.jobs.stop(conversation.picture.token if conversation.picture else None, discard=discard)

    # -- asking

    def check(self, question: str, drawn: object, conversation: Conversation) -> None:
        """Refuse with a toast before anything changes on the page."""
        try:
            regions = read_regions(drawn, conversation.picture)
            question = check_question(question, conversation, regions)
            self.check_free(conversation)
            self.answering.check(conversation.asked(question, regions))
        except InputError as error:
            raise gr.Error(escaped(error), duration=8, title="Not asked", print_exception=False) from None

    def ask(self, question: str, drawn: object, conversation: Conversation) -> Any:
        """Put the question into the chat; the canvas learns that the regions so far are fixed."""
        assert conversation.picture is not None
        try:
            self.jobs.begin(conversation.picture.token)
        except InputError:  # the same question sent twice at once
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        conversation = conversation.asked(question.strip(), read_regions(drawn, conversation.picture))
        self.visits.keep(conversation)
        return busy(value=""), conversation, conversation.messages(), gr.update(asked=str(time.time_ns()))

    def retry(self, conversation: Conversation, event: gr.RetryData) -> Any:
        """Ask the turn of this message again, with the regions of that turn."""
        try:
            index = self._free_turn(event.index, conversation)
        except InputError as error:
            gr.Warning(escaped(error), title="Not retried")
            return gr.skip(), gr.skip(), gr.skip()
        assert conversation.picture is not None
        conversation = conversation.retried(index)
        self.jobs.begin(conversation.picture.token)
        return busy(), self.visits.keep(conversation), conversation.messages()

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
        text, shown = "", time.monotonic()
        status: Status = "done"
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
        except Exception as error:
            status = "failed"
            tell_failure(error, "Not answered")
        except GeneratorExit:  # the tab was closed, or reloaded: what was said is there again after that
            self._keep_answer(conversation, text, "stopped", job)
            raise
        finally:
            pieces.close()
        if job.discarded:
            yield gr.skip(), gr.skip()
            return
        note = ""
        if text and status == "done":
            try:
                note = self.answering.note(conversation.answered(text, status))
            except Exception:  # it must not take the answer with it
                log.warning("No note below an answer", exc_info=True)
        conversation = self._keep_answer(conversation, text, status, job, note)
        yield conversation, conversation.messages()

    def _keep_answer(
        self, conversation: Conversation, text: str, status: Status, job: Job, note: str = ""
    ) -> Conversation:
        conversation = conversation.answered(text.strip(), status, note)
        return conversation if job.discarded else self.visits.keep(conversation)

    def settle(self, conversation: Conversation) -> Any:
        """After an answer: the send button again, unless another answer has begun."""
        token = conversation.picture.token if conversation.picture else None
        return busy() if self.jobs.busy(token) else idle()

    def lost(self, conversation: Conversation) -> Any:
        """The queue was full: the question goes back into the message box."""
        self.abandon(conversation)
        if not conversation.waiting:
            return idle(), conversation, conversation.messages()
        question = conversation.turns[-1].question
        conversation = self.visits.keep(conversation.before(len(conversation.turns) - 1))
        return idle(value=question), conversation, conversation.messages()

    def stop(self, conversation: Conversation) -> None:
        """Stop the answer under way; what it had said stays."""
        self.abandon(conversation, discard=False)

    # -- the conversation as a whole

    def undo(self, conversation: Conversation, event: gr.UndoData) -> Any:
        """Take the turn of this message back into the message box."""
        try:
            index = self._free_turn(event.index, conversation)
        except InputError as error:
            gr.Warning(escaped(error), title="Not undone")
            return gr.skip(), gr.skip(), gr.skip()
        question = conversation.turns[index].question
        conversation = self.visits.keep(conversation.before(index))
        return question, conversation, conversation.messages()

    def new_chat(self, conversation: Conversation, drawn: object = None) -> Any:
        """Forget the turns and the table's answers; picture, regions and their names stay."""
        self.abandon(conversation)
        conversation = self.visits.keep(replace(conversation.before(0), table=None))
        try:
            regions = read_regions(drawn, conversation.picture)
        except InputError:
            regions = {}
        return idle(value=""), conversation, [], table_update(conversation, regions)

    def fill(self, template: str, drawn: object, conversation: Conversation) -> str:
        """An example question about the regions on the canvas."""
        subject = conversation.picture.subject if conversation.picture else Picture.subject
        try:
            numbers = list(read_regions(drawn, conversation.picture))
        except InputError:
            numbers = []
        return fill_question(template, numbers, subject)

    def forget(self, conversation: Conversation) -> None:
        """The visitor has left, or has another picture."""
        self.abandon(conversation)
        if conversation.picture:
            self.answering.forget(conversation.picture.token)
            self.visits.drop(conversation.picture.token)

    def check_free(self, conversation: Conversation) -> None:
        if conversation.picture and self.jobs.busy(conversation.picture.token):
            raise InputError("An answer is still being written; wait for it or stop it first.")

    def _free_turn(self, index: object, conversation: Conversation) -> int:
        """The turn of a Chatbot message (every earlier turn shows two) when nothing is being answered."""
        self.check_free(conversation)
        number = index[0] if isinstance(index, list | tuple) and index else index
        if type(number) is not int or not 0 <= number // 2 < len(conversation.turns):
            raise InputError("That message is no longer part of the conversation; reload the page.")
        return number // 2


def table_update(conversation: Conversation, drawn: Mapping[int, Region] | None = None) -> Any:
    """The Gradio update that shows the conversation's table and which regions, `drawn` or asked about, have a
    name; or nothing.
    """
    table, labels = conversation.table, labels_of(conversation, drawn)
    if table is None and not labels:
        return gr.update(table={})  # None would change nothing on the page
    content: dict[str, Any] = {
        "named": [[number, label.name, label.score] for number, label in labels.items()],
        "csv": to_csv(conversation, drawn),
    }
    if table is not None:
        content |= {
            "question": table.question,
            "status": table.status,
            "asked": len(table.regions),
            "rows": [[n, answer, table.notes.get(n, "")] for n, answer in sorted(table.answers.items())],
        }
    return gr.update(table=content)


def idle(**changes: Any) -> Any:
    """The message box, ready for a question."""
    return gr.update(submit_btn=True, stop_btn=False, **changes)


def busy(**changes: Any) -> Any:
    """The message box while something is computed."""
    return gr.update(submit_btn=False, stop_btn=True, **changes)


def tell_failure(error: Exception, title: str, culprit: str = "The model") -> None:
    """A toast instead of an exception, which would cover the outputs: the visitor's mistake in its own words,
    any other reason in the server's log only.
    """
    if isinstance(error, InputError):
        gr.Warning(escaped(error), title=title)
        return
    log.error("%s failed", culprit, exc_info=error)
    gr.Warning(f"{escaped(culprit)} failed; the reason is in the server's log.", title=title)


def escaped(message: object) -> str:
    """Text for a toast, which shows HTML."""
    return html.escape(str(message))

"""The table below the chat: what a recognizer called the regions, and one question answered for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from app.canvas import COLOURS, static_text
from app.component import no_stub_file
from app.drawing import read_regions
from app.handlers import Handlers, busy, escaped, table_update, tell_failure
from app.jobs import Job
from app.session import Conversation, Status, Table, question_for_each
from rgpt.errors import InputError

with no_stub_file():

    class AnswerTable(gr.HTML):
        """Names, and a question with its answers: a row a region, which goes into the message when clicked.

        `table`: what `app.handlers.table_update` sends; an empty one shows nothing.
        """

        def __init__(self, table: dict[str, Any] | None = None, **kwargs: Any) -> None:
            super().__init__(
                html_template=static_text("table.html"),
                css_template=static_text("table.css"),
                js_on_load=static_text("table.js"),
                table=table or {},
                palette=COLOURS,
                apply_default_css=False,
                padding=False,
                **kwargs,
            )

        def api_info(self) -> dict[str, Any]:
            return {"type": "object"}


class TableHandlers:
    """Asks about all regions; stopped, and kept from meeting an answer, as answers of the chat are."""

    def __init__(self, chat: Handlers) -> None:
        self.chat = chat

    def check(self, question: object, drawn: object, conversation: Conversation) -> None:
        """Refuse with a toast before anything changes on the page."""
        try:
            if conversation.picture is None:
                raise InputError("There is no picture yet; upload one or choose an example first.")
            if not read_regions(drawn, conversation.picture):
                raise InputError("There is no region yet; draw some on the picture first.")
            question_for_each(question)
            self.chat.check_free(conversation)
        except InputError as error:
            raise gr.Error(escaped(error), duration=8, title="Not asked", print_exception=False) from None

    def ask(self, question: object, drawn: object, conversation: Conversation) -> Any:
        """Show an empty table; updates for message, conversation, table."""
        assert conversation.picture is not None
        try:
            self.chat.jobs.begin(conversation.picture.token)
        except InputError:  # pressed twice at once
            return gr.skip(), gr.skip(), gr.skip()
        regions = read_regions(drawn, conversation.picture)
        conversation = replace(conversation, table=Table(question_for_each(question), regions))
        return busy(), conversation, table_update(conversation)

    def answer(self, conversation: Conversation) -> Iterator[Any]:
        """Fill the table, some rows at a time; updates for conversation and table."""
        picture, table = conversation.picture, conversation.table
        job = None
        if picture is not None and table is not None and table.status == "running":
            job = self.chat.jobs.claim(picture.token)
        if picture is None or job is None:
            yield gr.skip(), gr.skip()
            return
        try:
            for filled in self._rows(conversation, job):
                yield filled, table_update(filled)
            if job.discarded:
                yield gr.skip(), gr.skip()
        finally:
            self.chat.jobs.end(picture.token, job)

    def _rows(self, conversation: Conversation, job: Job) -> Iterator[Conversation]:
        picture, table = conversation.picture, conversation.table
        assert picture is not None and table is not None
        status: Status = "done"
        batches = self.chat.answering.ask_each(picture, table.question, table.regions)
        try:
            for answers in batches:
                texts = {n: text for n, (text, _) in answers.items()}
                notes = {n: note for n, (_, note) in answers.items() if note}
                table = replace(table, answers={**table.answers, **texts}, notes={**table.notes, **notes})
                if job.stopping.is_set():
                    status = "stopped" if len(table.answers) < len(table.regions) else "done"
                    break
                yield replace(conversation, table=table)
        except Exception as error:
            status = "failed"
            tell_failure(error, "Not answered")
        finally:
            batches.close()
        if not job.discarded:
            yield self.chat.visits.keep(replace(conversation, table=replace(table, status=status)))

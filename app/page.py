"""The page: its layout, and which event calls which handler.

Two traps of Gradio: a `gr.Warning` from an event without the queue is not shown, and a full queue skips
`.then`, so that only `.failure` runs.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from app.canvas import COLOURS, RegionCanvas, static_text
from app.engine import Engine
from app.examples import QUESTIONS, PictureStrip
from app.files import FileHandlers
from app.handlers import Handlers
from app.masks import MaskHandlers
from app.naming import Namer, names_text
from app.privacy import GuardPage
from app.sam import Finder, Segmenter
from app.session import Picture
from app.table import AnswerTable, TableHandlers
from app.visits import ByTicket, Ticket

QUEUE = 32
AT_ONCE = 4
"""Answers that stream at once, taking turns token by token; the next ones wait in the queue."""
MAX_FILE_SIZE = "40mb"


def build_page(
    engine: Engine,
    examples: Sequence[Picture] = (),
    new_scene: Callable[[], Picture] | None = None,
    questions: Sequence[tuple[str, str]] = QUESTIONS,
    segmenter: Segmenter | None = None,
    namer: Namer | None = None,
    finder: Finder | None = None,
    queue: int = QUEUE,
    at_once: int = AT_ONCE,
) -> gr.Blocks:
    """The app for one engine, ready for `launch_options`.

    Args:
        examples: pictures to choose; where the first comes with regions, the page opens with it.
        new_scene: draws one more picture for whoever asks; None: nobody is asked.
        questions: (name of a button, template of its question).
        segmenter: adds its two tools.
        namer: says what "Find all" found.
        finder: finds all where there is neither of the two.
    """
    chats = Handlers(engine, examples, new_scene)
    do, tables, files, masks = (
        ByTicket(handlers, chats.visits)
        for handlers in (
            chats,
            TableHandlers(chats),
            FileHandlers(chats),
            MaskHandlers(segmenter, namer, finder),
        )
    )
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    # Handlers that only look things up must not wait behind answers; those that toast a warning need the
    # queue.
    quick = quiet | {"queue": False}
    queued = quiet | {"concurrency_limit": None}
    slow = quiet | {"concurrency_id": "model", "concurrency_limit": at_once}
    few = quiet | {"concurrency_id": "opening", "concurrency_limit": 2}
    one = quiet | {"concurrency_id": "masks", "concurrency_limit": 1}
    small: dict[str, Any] = {"size": "sm", "min_width": 60}

    with gr.Blocks(title="rgpt", fill_width=True, analytics_enabled=False) as page:
        conversation = gr.State(Ticket(), delete_callback=do.forget)
        gr.HTML(_header(engine, namer), elem_id="header", padding=False, apply_default_css=False)
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=5, min_width=320, elem_id="left"):
                canvas = RegionCanvas(
                    elem_id="rc",
                    message="#tb textarea",
                    upload_input="#up-row input[type=file]",
                    tools=["segment"] * bool(segmenter) + ["everything"] * bool(segmenter or namer or finder),
                )
                if namer:
                    names = gr.Textbox(
                        names_text(namer.names),
                        elem_id="voc",
                        label="Names that “Find all” chooses among, with commas between them",
                        lines=1,
                        max_lines=3,
                    )
                strip = PictureStrip(
                    list(do.examples), "#up-row input[type=file]", new_scene is not None, elem_id="ex"
                )
                # Off the screen, not `visible=False`: its file input serves the tile, dropping and pasting.
                with gr.Row(elem_id="up-row"):
                    upload = gr.UploadButton("Upload", file_types=["image"])
            with gr.Column(scale=4, min_width=320, elem_id="right"):
                chat = gr.Chatbot(
                    elem_id="cb",
                    height=500,
                    show_label=False,
                    buttons=["copy"],
                    feedback_options=None,
                    # Plain text: markdown from a model could load pictures from elsewhere.
                    render_markdown=False,
                    latex_delimiters=[],
                    placeholder="Draw a region, then ask about it.",
                )
                message = gr.Textbox(
                    elem_id="tb",
                    show_label=False,
                    placeholder="Ask about <region1> …",
                    submit_btn=True,
                    lines=1,
                    max_lines=5,
                    max_length=8000,
                )
                with gr.Row(elem_id="questions"):
                    templates = [(gr.Button(name, **small), text) for name, text in questions]
                    every = gr.Button("Every region", elem_id="every", variant="primary", **small)
                table = AnswerTable(elem_id="at")
                with gr.Row(elem_id="actions"):
                    new_chat = gr.Button("New chat", elem_id="clr", **small)
                    overlay = gr.Button("Save picture", elem_id="ovl", **small)
                    export = gr.Button("Export JSON", elem_id="exp", **small)
                    saved = gr.UploadButton("Import JSON", file_types=[".json"], elem_id="imp", **small)
                parcel = gr.Textbox(visible="hidden", elem_id="parcel")
                arrived = gr.Textbox(visible="hidden", elem_id="arrived")

        shown = [canvas, conversation, chat, message, table]
        page.load(files.arrive, [arrived, conversation], shown, js=static_text("arrive.js"), **quick)
        upload.upload(do.open_upload, [upload, conversation], shown, **few)
        saved.upload(files.open_saved, [saved, conversation], shown, **few)
        strip.pick(do.open_example, conversation, shown, **queued)

        asked = message.submit(do.check, [message, canvas, conversation], None, **queued)
        asked = asked.success(
            do.ask, [message, canvas, conversation], [message, conversation, chat, canvas], **quick
        )
        again = chat.retry(do.retry, conversation, [message, conversation, chat], **queued)
        for start in (asked, again):
            answering = start.success(
                do.answer, conversation, [conversation, chat], **slow | {"show_progress": "minimal"}
            )
            answering.then(do.settle, conversation, message, **quick)
            answering.failure(do.lost, conversation, [message, conversation, chat], **quick)
        filling = (
            every.click(tables.check, [message, canvas, conversation], None, **queued)
            .success(tables.ask, [message, canvas, conversation], [message, conversation, table], **quick)
            .success(tables.answer, conversation, [conversation, table], **slow)
        )
        filling.then(do.settle, conversation, message, **quick)
        filling.failure(do.lost, conversation, [message, conversation, chat], **quick)
        message.stop(do.stop, conversation, None, **quick)
        chat.undo(do.undo, conversation, [message, conversation, chat], **queued)
        gr.on(
            [new_chat.click, chat.clear],
            do.new_chat,
            [conversation, canvas],
            [message, conversation, chat, table],
            **queued,
        )
        for button, template in templates:
            button.click(
                lambda *given, t=template: do.fill(t, *given), [canvas, conversation], message, **quick
            )
        for button, make in ((export, files.export), (overlay, files.overlay)):
            # One at a time: of a photograph, either takes seconds and hundreds of megabytes.
            made = button.click(make, [canvas, conversation], parcel, **one | {"concurrency_id": "files"})
            made.success(None, parcel, parcel, js=static_text("download.js"), **quiet)
        if segmenter:
            canvas.segment(masks.segment, conversation, canvas, **one)
        if segmenter or namer or finder:
            given = [canvas, conversation, names] if namer else [canvas, conversation]
            canvas.everything(masks.everything, given, canvas, **one)
        if namer:
            canvas.listed(masks.listed, [canvas, conversation], table, **quick)
            page.load(None, names, names, js=static_text("names_back.js"), **quiet)
    page.queue(max_size=queue)
    return page


def launch_options() -> dict[str, Any]:
    """What Gradio 6 takes at `launch`, or at `mount_gradio_app`, and not in `Blocks`."""
    highlights = "\n".join(
        f"::highlight(region{index}) {{ background-color: {fill}; color: {ink}; }}"
        for index, (fill, ink) in enumerate(COLOURS)
    )
    return {
        "theme": gr.themes.Default(
            primary_hue="blue",
            secondary_hue="blue",
            neutral_hue="slate",
            # System fonts: nothing to load from anywhere.
            font=["ui-sans-serif", "system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        "css": static_text("page.css") + highlights,
        "js": static_text("page.js").replace("PALETTE_SIZE", str(len(COLOURS))),
        "footer_links": [],
        "max_file_size": MAX_FILE_SIZE,
        "app_kwargs": {"middleware": [Middleware(GuardPage)]},
    }


def _header(engine: Engine, namer: Namer | None) -> str:
    name, notes = html.escape(engine.name), html.escape(engine.notes)
    if namer:
        notes += f" “Find all” asks {html.escape(namer.name)}."
    return f"""
        <div class="hd">
          <div class="hd-title"><strong>rgpt</strong><span>Draw regions, then talk about them</span></div>
          <div class="hd-model" role="note"><b>Model: {name}</b> {notes}</div>
        </div>"""

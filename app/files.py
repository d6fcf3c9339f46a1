"""What goes out of the page and comes back: export, import, the picture with its regions, and reloading.

A download is a parcel, JSON text `{"name", "type", "text"}` or `{…, "base64"}`, of which the page makes a
file: nothing is written on the server, and there is no address from which others could take it.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from typing import Any

import gradio as gr

from app.drawing import read_regions
from app.handlers import NOTHING_SHOWN, Handlers, escaped
from app.privacy import take_upload
from app.saved import LOSSLESS_PIXELS, from_json, to_json
from app.session import Conversation
from rgpt.errors import InputError
from rgpt.regions.draw import draw_regions, write_beside

MAX_SAVED = 2_000_000
"""Characters of what the page may send after a reload: the canvas value, at its caps about 1 MB."""


class FileHandlers:
    """Export, import, overlay, arrival."""

    def __init__(self, chat: Handlers) -> None:
        self.chat = chat

    def export(self, drawn: object, conversation: Conversation) -> Any:
        """The conversation as a parcel."""
        try:
            regions = read_regions(drawn, conversation.picture)
        except InputError as error:
            gr.Warning(escaped(error), title="Not exported")
            return gr.skip()
        value = to_json(conversation, regions, self.chat.engine.name, _last_id(drawn))
        text = json.dumps(value, ensure_ascii=False, indent=1)
        return json.dumps({"name": "conversation.json", "type": "application/json", "text": text})

    def open_saved(self, path: str | None, conversation: Conversation) -> Any:
        """An exported conversation comes back; outputs of `Handlers.show`."""
        if path is None:
            return NOTHING_SHOWN
        try:
            new, drawn, last_id = from_json(take_upload(path), conversation.picture)
            if new.picture is None:
                raise InputError("The conversation is empty; there is nothing to import.")
            return self.chat.show(new, conversation, drawn, last_id)
        except OSError:
            gr.Warning("The file did not arrive whole; choose it again.", title="Not imported")
        except InputError as error:
            gr.Warning(escaped(error), title="Not imported")
        return NOTHING_SHOWN

    def overlay(self, drawn: object, conversation: Conversation) -> Any:
        """The picture at full size with its numbered regions, and beside it their names, as a parcel."""
        try:
            if conversation.picture is None:
                raise InputError("There is no picture yet; upload one or choose an example first.")
            regions = read_regions(drawn, conversation.picture)
            labels = ((n, conversation.picture.label(region)) for n, region in regions.items())
            lines = {n: f"{n} {label.name} {label.score:.2f}" for n, label in labels if label}
            image = write_beside(draw_regions(conversation.picture.image, regions), lines)
        except InputError as error:
            gr.Warning(escaped(error), title="Not drawn")
            return gr.skip()
        buffer, small = io.BytesIO(), image.width * image.height <= LOSSLESS_PIXELS
        if small:
            image.save(buffer, "PNG")
        else:
            image.save(buffer, "JPEG", quality=92, subsampling=0)
        name, kind = ("regions.png", "image/png") if small else ("regions.jpg", "image/jpeg")
        return json.dumps(
            {"name": name, "type": kind, "base64": base64.b64encode(buffer.getvalue()).decode("ascii")}
        )

    def arrive(self, saved: object, conversation: Conversation) -> Any:
        """The page was opened. After a reload it says what was on its canvas: that comes back with its chat.

        The picture's token in it is the proof that it was this visitor's. A first visit begins with the first
        example, if that comes with a region. Outputs of `Handlers.show`.
        """
        value = _read_saved(saved)
        token = value.get("picture")
        found = self.chat.visits.find(token)
        if found is None or found.picture is None:
            if conversation.picture is None and self.chat.examples and self.chat.examples[0].drawn:
                picture = self.chat.examples[0].again()
                return self.chat.show(Conversation(picture), conversation, picture.drawn)
            return NOTHING_SHOWN
        # An answer that the old page had not finished ends first, with what it had said.
        self.chat.abandon(found, discard=False)
        found = self.chat.visits.find(token) or found
        assert found.picture is not None
        try:
            drawn = read_regions(value, found.picture)
        except InputError:
            drawn = {}
        # Another token: a duplicated tab has the old one, too, and goes its own way from here.
        old = found.picture
        picture = replace(old.again(), masks=dict(old.masks), labels=dict(old.labels))
        numbers = [number for turn in found.turns for number in turn.regions]
        last_id = max([_last_id(value), *numbers])
        return self.chat.show(found.on(picture), conversation, drawn, last_id)


def _read_saved(saved: object) -> dict[str, Any]:
    """The canvas value that a page remembered; empty for anything else."""
    if not isinstance(saved, str) or not saved or len(saved) > MAX_SAVED:
        return {}
    try:
        value = json.loads(saved)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _last_id(drawn: object) -> int:
    """The highest number that the page has given."""
    last = drawn.get("last_id") if isinstance(drawn, dict) else 0
    return last if type(last) is int and 0 <= last <= 9999 else 0

"""The events of the tools that a segmenter adds: "Segment" (a click becomes a mask) and "Find all"."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.canvas import found
from app.drawing import MAX_REGIONS, add_mask, read_regions
from app.handlers import escaped
from app.sam import Segmenter
from app.session import Conversation
from rgpt.errors import InputError

MOST_FOUND = 24


class MaskHandlers:
    """Both answer with an update of the canvas's `found`: the page numbers the masks and draws them."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def segment(self, conversation: Conversation, event: gr.EventData) -> Any:
        """The mask of a click."""
        picture, point = conversation.picture, event.point
        if picture is None or event.picture != picture.token:
            return gr.skip()
        names = []
        try:
            good = isinstance(point, list) and len(point) == 2 and all(type(v) in (int, float) for v in point)
            if not good or not (0 <= point[0] <= picture.width and 0 <= point[1] <= picture.height):
                raise InputError("The click could not be read; click inside the picture.")
            mask = self.segmenter.mask_at(picture, float(point[0]), float(point[1]))
            if mask is None:
                raise InputError(f"{self.segmenter.name} sees no object there; click elsewhere or draw it.")
            names = [add_mask(picture, mask)]
        except InputError as error:
            gr.Warning(escaped(error), title="No mask")
        return gr.update(found=found(picture, names, add=True))

    def everything(self, drawn: object, conversation: Conversation) -> Any:
        """Masks of everything, as many as there is room for."""
        picture = conversation.picture
        if picture is None:
            return gr.skip()
        names = []
        try:
            room = min(MOST_FOUND, MAX_REGIONS - len(read_regions(drawn, picture)))
            if room <= 0:
                raise InputError(f"There are {MAX_REGIONS} regions already; remove some first.")
            masks = self.segmenter.everything(picture, room)
            if not masks:
                raise InputError(f"{self.segmenter.name} found nothing here; draw regions yourself.")
            names = [add_mask(picture, mask) for mask in masks]
        except InputError as error:
            gr.Warning(escaped(error), title="No masks")
        return gr.update(found=found(picture, list(dict.fromkeys(names)), add=True))

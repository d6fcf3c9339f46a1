"""The events of the tools that a segmenter adds: "Segment" (a click becomes a mask) and "Find all"."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.canvas import found
from app.drawing import MAX_REGIONS, add_mask, read_regions
from app.handlers import tell_failure
from app.sam import Segmenter
from app.session import Conversation, Picture
from rgpt.errors import InputError

MOST_FOUND = 24
MOST_POINTS = 8


class MaskHandlers:
    """Both answer with an update of the canvas's `found`: the page numbers the masks and draws them."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def segment(self, conversation: Conversation, event: gr.EventData) -> Any:
        """The mask of a click, or of some points of a scribble."""
        picture, points = conversation.picture, event.points
        if picture is None or event.picture != picture.token:
            return gr.skip()
        names = []
        try:
            mask = self.segmenter.mask_at(picture, _points(points, picture))
            if mask is None:
                raise InputError(f"{self.segmenter.name} sees no object there; click elsewhere or draw it.")
            names = [add_mask(picture, mask)]
        except Exception as error:
            tell_failure(error, "No mask", self.segmenter.name)
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
        except Exception as error:
            tell_failure(error, "No masks", self.segmenter.name)
        return gr.update(found=found(picture, list(dict.fromkeys(names)), add=True))


def _points(points: object, picture: Picture) -> list[tuple[float, float]]:
    good = isinstance(points, list) and 1 <= len(points) <= MOST_POINTS
    for point in points if good else []:  # type: ignore[attr-defined]
        good = good and isinstance(point, list) and len(point) == 2
        good = good and all(type(v) in (int, float) for v in point)
        good = good and 0 <= point[0] <= picture.width and 0 <= point[1] <= picture.height
    if not good:
        raise InputError("The click could not be read; click inside the picture.")
    return [(float(x), float(y)) for x, y in points]  # type: ignore[attr-defined]

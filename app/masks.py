"""The events of the tools "Segment" (a click becomes a mask; a segmenter's) and "Find all" (a namer's, which
also says what each region is, a segmenter's, or that of any other finder).
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.canvas import found
from app.drawing import MAX_REGIONS, add_mask, read_regions
from app.handlers import table_update, tell_failure
from app.naming import MOST_NAMES, Namer, read_names
from app.sam import Finder, Segmenter
from app.session import Conversation, Label, Picture
from rgpt.errors import InputError

MOST_FOUND = 24
MOST_POINTS = 8


class MaskHandlers:
    """Both answer with an update of the canvas's `found`: the page numbers the masks and draws them."""

    def __init__(
        self, segmenter: Segmenter | None, namer: Namer | None = None, finder: Finder | None = None
    ) -> None:
        self.segmenter, self.namer, self.finder = segmenter, namer, segmenter or finder

    def segment(self, conversation: Conversation, event: gr.EventData) -> Any:
        """The mask of a click, or of some points of a scribble."""
        picture, points = conversation.picture, event.points
        if picture is None or self.segmenter is None or event.picture != picture.token:
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

    def everything(self, drawn: object, conversation: Conversation, names: object = None) -> Any:
        """Regions of everything, as many as there is room for; with a namer, named from a text of names."""
        picture, tool = conversation.picture, self.namer or self.finder
        if picture is None or tool is None:
            return gr.skip()
        found_names: list[str] = []
        try:
            room = min(MOST_FOUND, MAX_REGIONS - len(read_regions(drawn, picture)))
            if room <= 0:
                raise InputError(f"There are {MAX_REGIONS} regions already; remove some first.")
            if self.namer:
                found_names = self._named(picture, names)
            elif self.finder:
                found_names = [add_mask(picture, mask) for mask in self.finder.everything(picture, room)]
            if not found_names:
                # With a namer it may be the source or the recognizer that has nothing to say.
                said = "“Find all”" if self.namer else tool.name
                raise InputError(f"{said} found nothing here; draw regions yourself.")
        except Exception as error:
            tell_failure(error, "No masks", tool.name)
        return gr.update(found=found(picture, list(dict.fromkeys(found_names)), add=True))

    def _named(self, picture: Picture, text: object) -> list[str]:
        """The best of what is found; the picture's labels are those of this time only."""
        assert self.namer is not None
        names = read_names(text, max(MOST_NAMES, len(self.namer.names)))
        labels: dict[str, Label] = {}
        for region, label in self.namer.everything(picture, names)[:MOST_FOUND]:
            labels.setdefault(add_mask(picture, region), label)
        if labels:
            picture.labels.clear()
            picture.labels.update(labels)
        return list(labels)

    def listed(self, drawn: object, conversation: Conversation) -> Any:
        """The page has numbered what was found: the table lists it."""
        try:
            return table_update(conversation, read_regions(drawn, conversation.picture))
        except InputError:
            return gr.skip()


def _points(points: object, picture: Picture) -> list[tuple[float, float]]:
    good = isinstance(points, list) and 1 <= len(points) <= MOST_POINTS
    for point in points if good else []:  # type: ignore[attr-defined]
        good = good and isinstance(point, list) and len(point) == 2
        good = good and all(type(v) in (int, float) for v in point)
        good = good and 0 <= point[0] <= picture.width and 0 <= point[1] <= picture.height
    if not good:
        raise InputError("The click could not be read; click inside the picture.")
    return [(float(x), float(y)) for x, y in points]  # type: ignore[attr-defined]

"""`RegionCanvas`: the drawing component, and the settings of one picture that it is given.

The page side lives in `app/static/canvas*.js|css|html`, read once at import. A `gr.HTML` subclass needs no
build step, and its template does not depend on the value, so that the canvas survives every update.

The picture travels to the page in a prop of its own, `src`: in the value it would come back with every event.
What comes back is vectors, a few hundred bytes, which `app.drawing.read_regions` checks like any request from
outside.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from app.component import no_stub_file
from app.drawing import MAX_POINTS, MAX_REGIONS, MAX_STROKES, shapes, to_canvas
from app.session import Picture
from rgpt.regions import Point, Region
from rgpt.regions.draw import PALETTE

STATIC = Path(__file__).parent / "static"


def hex_colours(rgb: tuple[int, int, int]) -> tuple[str, str]:
    """A colour as `#rrggbb`, and the ink on it: white where readable (WCAG contrast 4.5), else black."""
    linear = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    ink = "#ffffff" if 1.05 / (luminance + 0.05) >= 4.5 else "#000000"
    return "#{:02x}{:02x}{:02x}".format(*rgb), ink


COLOURS = tuple(hex_colours(rgb) for rgb in PALETTE)
"""(fill, ink) of region n at (n - 1) % 12: the colours that `rgpt.regions.draw_regions` uses."""
SHOWN_SIDE = 2048
"""Longer side, in pixels, of the copy that is sent to the page; coordinates stay those of the original."""


def static_text(*names: str) -> str:
    """The named files of `app/static`, one after the other."""
    return "\n".join((STATIC / name).read_text(encoding="utf-8") for name in names)


with no_stub_file():

    class RegionCanvas(gr.HTML):
        """A picture on which boxes, brush masks, polygons and points are drawn.

        Args:
            value: see `empty_value` and `picture_update`.
            found: masks made by Python, see `found`.
            tools: names of further tools: "segment" (a click becomes a mask), "everything".
            src: the picture as a data URL; empty for none (None would change nothing on the page).
            asked: another text after every question: none of the regions is selected then.
            message: CSS selector of the textarea into which the chips insert `<regionN>`.
            upload_input: CSS selector of the file input that receives dropped and pasted pictures.
        """

        def __init__(
            self,
            value: dict[str, Any] | None = None,
            *,
            src: str = "",
            asked: str = "",
            found: dict[str, Any] | None = None,
            tools: Sequence[str] = (),
            message: str = "",
            upload_input: str = "",
            **kwargs: Any,
        ) -> None:
            # Gradio builds the component anew, with these arguments, for every update of a prop.
            super().__init__(
                value=value or empty_value(),
                html_template=static_text("canvas.html"),
                css_template=static_text("canvas.css"),
                # One function body for the browser: declarations first, then the part that runs.
                js_on_load=static_text("canvas_paint.js", "canvas.js"),
                src=src,
                asked=asked,
                found=found,
                tools=list(tools),
                palette=COLOURS,
                message=message,
                upload_input=upload_input,
                limits={"regions": MAX_REGIONS, "points": MAX_POINTS, "strokes": MAX_STROKES},
                apply_default_css=False,
                padding=False,
                **kwargs,
            )

        def api_info(self) -> dict[str, Any]:
            return {"type": "object"}


def empty_value() -> dict[str, Any]:
    """The value of a canvas without a picture."""
    return {"picture": None, "regions": [], "last_id": 0}


def picture_update(picture: Picture, drawn: Mapping[int, Region] | None = None, last_id: int = 0) -> Any:
    """The Gradio update that puts `picture` on the canvas with the regions `drawn`, and removes all others.

    `last_id`: the highest number ever given, where it is not that of a drawn one.
    """
    entries = to_canvas(drawn or {}, picture)
    value = empty_value() | {
        "picture": picture.token,
        "width": picture.width,
        "height": picture.height,
        "point_radius": Point(0, 0).radius_in(picture.height, picture.width),
        "regions": entries,
        "last_id": max([last_id, *(drawn or {})]),
    }
    names = [entry["mask"] for entry in entries if entry["kind"] == "mask"]
    return gr.update(value=value, src=data_url(picture.image), found=found(picture, names, add=False))


def found(picture: Picture, names: list[str], *, add: bool) -> dict[str, Any]:
    """The value of the canvas's `found`: masks of a picture, to be known or to become regions (`add`)."""
    return {"picture": picture.token, "masks": shapes(picture, names), "add": add, "batch": time.time_ns()}


def data_url(image: Image.Image, longest: int = SHOWN_SIDE) -> str:
    """The RGB picture, no side longer than `longest` px, as a data URL: PNG for small ones, else JPEG."""
    shown = image.convert("RGB")
    shown.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if max(shown.size) <= 512:
        shown.save(buffer, "PNG")
        kind = "png"
    else:
        shown.save(buffer, "JPEG", quality=90, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

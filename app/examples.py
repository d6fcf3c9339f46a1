"""Example pictures (drawn scenes, whose right answers are known) and example questions (one a task)."""

from __future__ import annotations

import random
import secrets
from typing import Any

import gradio as gr

from app.canvas import data_url, static_text
from app.component import no_stub_file
from app.session import Picture
from rgpt import prompts

# Training draws from seeds 1,000,000 to 2,000,000,000; these lie outside.
EXAMPLE_SEEDS = (3, 7, 11, 19, 23, 31)
NEW_SEEDS = 2_000_000_000

# (name on the button, template for app.session.fill_question): wordings that rgpt.prompts trains with.
QUESTIONS = (
    ("Name it", "What is {region}? " + prompts.classification_guide("shape")),
    ("Describe it", "Describe {region}."),
    ("Compare two", "Which is larger, {region} or {other}?"),
    (
        "Which of these?",
        "From the provided masks denoted by {regions}, which one fits “{text}”? " + prompts.REFERRING_GUIDE,
    ),
    ("Whole picture", "Describe the picture."),
)


def scene_picture(seed: int) -> Picture:
    """The drawn scene of a seed; its subject fits one of its objects only, such as "the red circle"."""
    from rgpt.data.scene_questions import description
    from rgpt.data.scenes import draw_scene

    drawn, rng = draw_scene(seed), random.Random(seed)
    objects = [shown.scene_object for shown in drawn.objects]
    return Picture.open(drawn.image, subject=f"the {description(objects, rng.choice(objects), rng)}")


def random_scene() -> Picture:
    """A scene that nobody has seen before."""
    return scene_picture(NEW_SEEDS + secrets.randbelow(10**8))


with no_stub_file():

    class PictureStrip(gr.HTML):
        """A row of tiles: upload, the example pictures, a new scene.

        The event `pick` carries the `index` of the example, -1 for a new scene. The upload tile opens the
        file input that the CSS selector `upload_input` names.
        """

        def __init__(self, pictures: list[Picture], upload_input: str = "", **kwargs: Any) -> None:
            super().__init__(
                html_template=static_text("strip.html"),
                css_template=static_text("strip.css"),
                js_on_load=static_text("strip.js"),
                pictures=[data_url(picture.image, longest=160) for picture in pictures],
                upload_input=upload_input,
                apply_default_css=False,
                padding=False,
                **kwargs,
            )

        def api_info(self) -> dict[str, Any]:
            return {"type": "object"}

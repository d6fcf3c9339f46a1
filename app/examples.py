"""Example pictures (photographs, or drawn scenes whose right answers are known) and questions (one a task).

The photographs in `app/static/photographs` are free of rights; ATTRIBUTION.md there says whose they are.
"""

from __future__ import annotations

import random
import secrets
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.canvas import STATIC, data_url, static_text
from app.component import no_stub_file
from app.naming import ObjectFinder
from app.session import Picture
from rgpt import prompts
from rgpt.regions import Box

if TYPE_CHECKING:
    from rgpt.model.about import About

# Training draws from seeds 1,000,000 to 2,000,000,000; these lie outside.
EXAMPLE_SEEDS = (3, 7, 11, 19, 23, 31)
NEW_SEEDS = 2_000_000_000

# (file, what is on it, the box of that in pixels)
PHOTOGRAPHS = (
    ("chelsea.jpg", "the cat", (18, 0, 394, 300)),
    ("coffee.jpg", "the cup", (174, 14, 408, 308)),
    ("astronaut.jpg", "the person", (22, 14, 370, 512)),
    ("rocket.jpg", "the rocket", (306, 122, 342, 410)),
)

# (name on the button, template for app.session.fill_question): wordings that rgpt.prompts trains with.
QUESTIONS = (
    ("Name it", "What is {region}?"),
    ("Describe it", "Describe {region}."),
    ("Compare two", "Which is larger, {region} or {other}?"),
    (
        "Which of these?",
        "From the provided masks denoted by {regions}, which one fits “{text}”? " + prompts.REFERRING_GUIDE,
    ),
    ("Whole picture", "Describe the picture."),
)


def shown_with(about: About) -> dict[str, Any]:
    """Examples, questions and finder of `app.page.build_page` for a model that has seen this."""
    if not about.only_drawn:
        return {"examples": [photograph(*entry) for entry in PHOTOGRAPHS], "finder": ObjectFinder()}
    # Without the guide sentence such a model describes, in a few words more.
    named = ("Name it", f"What is {{region}}? {prompts.classification_guide(about.vocabulary)}")
    return {
        "examples": [scene_picture(seed) for seed in EXAMPLE_SEEDS],
        "new_scene": random_scene,
        "questions": (named if about.vocabulary else QUESTIONS[0], *QUESTIONS[1:]),
    }


def photograph(file: str, subject: str, box: tuple[float, float, float, float]) -> Picture:
    """A photograph that comes with one region, around its subject."""
    content = (STATIC / "photographs" / file).read_bytes()
    return Picture.open(content, subject=subject, drawn={1: Box(*box)})


def scene_picture(seed: int) -> Picture:
    """The drawn scene of a seed; its subject fits one of its objects only, such as "the red circle"."""
    from rgpt.data.scene_questions import description
    from rgpt.data.scenes import draw_scene

    drawn, rng = draw_scene(seed), random.Random(seed)
    objects = [shown.scene_object for shown in drawn.objects]
    subject = f"the {description(objects, rng.choice(objects), rng)}"
    return Picture.open(drawn.image, subject=subject, is_scene=True)


def random_scene() -> Picture:
    """A scene that nobody has seen before."""
    return scene_picture(NEW_SEEDS + secrets.randbelow(10**8))


with no_stub_file():

    class PictureStrip(gr.HTML):
        """A row of tiles: upload, the example pictures and, with `new_scene`, a new scene.

        The event `pick` carries the `index` of the example, -1 for a new scene. The upload tile opens the
        file input that the CSS selector `upload_input` names.
        """

        def __init__(
            self, pictures: list[Picture], upload_input: str = "", new_scene: bool = False, **kwargs: Any
        ) -> None:
            super().__init__(
                html_template=static_text("strip.html"),
                css_template=static_text("strip.css"),
                js_on_load=static_text("strip.js"),
                pictures=[data_url(picture.image, longest=160) for picture in pictures],
                upload_input=upload_input,
                new_scene=new_scene,
                apply_default_css=False,
                padding=False,
                **kwargs,
            )

        def api_info(self) -> dict[str, Any]:
            return {"type": "object"}

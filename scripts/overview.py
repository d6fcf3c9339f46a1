"""Draw docs/overview.png, the picture of the README: a drawn scene, real answers, the way through the model.

python -m scripts.overview [--model tiny] [--seed 3000000042]
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rgpt.chat import ChatSession
from rgpt.data.scene_questions import article
from rgpt.data.scenes import draw_scene
from rgpt.errors import InputError
from rgpt.regions import Mask, draw_regions

ROOT = Path(__file__).resolve().parents[1]
WIDTH, INK, GREY, ACCENT = 1200, (30, 34, 42), (112, 120, 132), (38, 84, 164)
FLOW = (
    ("picture + regions", "box, mask, scribble, point"),
    ("vision tower", "frozen"),
    ("refinement x4", "two deconvolutions"),
    ("mask pooling", "one vector a region"),
    ("patch merge", "image tokens"),
    ("connector", "one shared MLP"),
    ("language model", "streams the answer"),
)


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that the picture is the same on every machine."""
    return ImageFont.load_default(size + (1 if bold else 0))


def questions(session: ChatSession, phrase: str) -> list[tuple[str, str]]:
    """Ask each question of the picture in a conversation of its own and return them with their answers."""
    asked = (
        "What is <region1>? Answer the question using shape category names.",
        "Describe <region2>.",
        "Which is larger, <region2> or <region4>?",
        f"Is <region3> {article(phrase)}?",
        "Do <region2> and <region4> have the same shape?",
        "Is there a purple square in the picture?",
    )
    answers = []
    for question in asked:
        session.reset()
        answers.append((question, session.ask(question)))
    return answers


def render(model: str, seed: int) -> Image.Image:
    scene = draw_scene(seed, scale=5.0, min_objects=4)
    if len(scene.objects) < 4:
        raise InputError(f"Scene {seed} has {len(scene.objects)} objects: choose a seed of one with four.")
    session = ChatSession.from_pretrained(model)
    session.set_image(scene.image)
    for o in scene.objects[:4]:
        session.add_region(Mask(o.mask))
    phrase = f"{scene.objects[2].colour} {scene.objects[2].shape}"
    marked = draw_regions(scene.image, session.regions, tint=0.0)
    canvas = Image.new("RGB", (WIDTH, 560), "white")
    draw = ImageDraw.Draw(canvas)
    marked.thumbnail((500, 500))
    canvas.paste(marked, (30, 60))
    y = 30
    for question, answer in questions(session, phrase):
        for line in textwrap.wrap(question, 66):
            draw.text((570, y), line, INK, font=font(18))
            y += 24
        draw.text((590, y), answer, ACCENT, font=font(20, bold=True))
        y += 46
    box, gap, top = 146, 20, 450
    for i, (name, note) in enumerate(FLOW):
        x = 30 + i * (box + gap)
        draw.rounded_rectangle((x, top, x + box, top + 84), 10, outline=ACCENT, width=2)
        draw.text((x + box / 2, top + 30), name, INK, font=font(16, bold=True), anchor="mm")
        draw.text((x + box / 2, top + 56), note, GREY, font=font(12), anchor="mm")
        if i:
            draw.line((x - gap, top + 42, x, top + 42), ACCENT, 2)
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.overview", description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=3_000_000_042)
    args = parser.parse_args()
    target = ROOT / "docs" / "overview.png"
    render(args.model, args.seed).save(target, optimize=True)
    print(f"wrote {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

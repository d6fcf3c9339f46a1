"""Draw docs/overview.png, the picture of the README: a photograph, real answers, the way through the model.

python -m scripts.overview [--model photo]
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rgpt.chat import ChatSession
from rgpt.regions import Box, draw_regions, open_image

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


PHOTOGRAPH = ROOT / "app" / "static" / "photographs" / "astronaut.jpg"
REGIONS = {1: Box(22, 14, 370, 512)}
QUESTIONS = (
    "What is <region1>?",
    "Is <region1> a dog?",
    "Tell me about <region1>.",
    "Where is <region1> in the picture?",
    "How many people are there?",
    "Is there a cat in the picture?",
)


def answered(session: ChatSession) -> list[tuple[str, str]]:
    """Each question in a conversation of its own, with its answer."""
    answers = []
    for question in QUESTIONS:
        session.reset()
        answers.append((question, session.ask(question)))
    return answers


def render(model: str) -> Image.Image:
    session = ChatSession.from_pretrained(model)
    picture = open_image(PHOTOGRAPH)
    session.set_image(picture)
    for region in REGIONS.values():
        session.add_region(region)
    marked = draw_regions(picture, session.regions, tint=0.0)
    canvas = Image.new("RGB", (WIDTH, 560), "white")
    draw = ImageDraw.Draw(canvas)
    marked.thumbnail((500, 370))
    canvas.paste(marked, (30, 60))
    y = 30
    for question, answer in answered(session):
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
    parser.add_argument("--model", default="photo")
    args = parser.parse_args()
    target = ROOT / "docs" / "overview.png"
    render(args.model).save(target, optimize=True)
    print(f"wrote {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

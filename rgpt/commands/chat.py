"""`rgpt chat`: a picture, its regions, questions; the answers are streamed to stdout as they are generated.

What a person gave is checked in the order in which checking is cheap: picture and regions before the model is
loaded, every question before the first answer is computed. Earlier answers lengthen the conversation, so a
later question may still turn out not to fit; what was answered until then is printed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rgpt.cli import MODEL_HELP, OneLineParser
from rgpt.commands.answering import shares_of_last, stream_answer, tell_only_drawn
from rgpt.errors import InputError
from rgpt.placement import add_placement, placement

if TYPE_CHECKING:
    from PIL import Image

    from rgpt.chat import ChatSession
    from rgpt.regions import Region

EXAMPLES = """\
regions, numbered in the order given (pixels of the upright picture, x right, y down):
  box:60,150,260,330          x1,y1,x2,y2; x2 and y2 are outside
  polygon:50,150,160,60,270,150
  point:120,80                a small disc
  mask:m.png                  white is inside; of the picture's size
  rle:m.json                  {"size": [H, W], "counts": ...} as in COCO

examples:
  rgpt chat --image photo.jpg --region box:60,150,260,330 --ask "What is <region1>?"
  rgpt chat --image photo.jpg --region box:60,150,260,330 --region mask:m.png \\
            --ask "What is <region1>?" --ask "Where is it relative to <region2>?" --json
  rgpt chat --image photo.jpg          no --ask: a conversation; /help lists its commands
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `rgpt chat`."""
    parser = OneLineParser(
        prog="rgpt chat",
        description="Ask about regions of a picture. Without --ask, talk interactively.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument("--image", metavar="FILE", help="the picture")
    parser.add_argument(
        "--region", metavar="KIND:…", action="append", default=[], help="a region, see below; may be repeated"
    )
    parser.add_argument(
        "--ask",
        metavar="QUESTION",
        action="append",
        default=[],
        help="a question, in which <region1> stands for the first region; repeat it for further turns",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of streaming")
    parser.add_argument("--max-new-tokens", type=_positive_int, default=128, metavar="N", help="default: 128")
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        metavar="T",
        help="0 (default) takes the likeliest word",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="makes sampling at --temperature > 0 repeatable"
    )
    add_placement(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run `rgpt chat` and return the exit code.

    Raises:
        InputError: an argument, the picture, a region or a question is wrong.
    """
    options = build_parser().parse_args(arguments)
    if options.json and not options.ask:
        raise InputError("--json prints the answers to --ask, but no --ask was given.")
    image, regions = read_inputs(options.image, options.region)
    options.model = options.model or choose_model()
    session = open_session(options.model, **placement(options))
    if image is not None:
        session.set_image(image)
    for region in regions:
        session.add_region(region)

    generation = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "seed": options.seed,
    }
    if not options.ask:
        from rgpt.commands.interactive import Conversation

        return Conversation(session, generation).run()
    for question in options.ask:
        session.check(question)
    if options.json:
        names: list[dict[str, float]] = []
        try:
            for question in options.ask:
                session.ask(question, **generation)
                names.append(shares_of_last(session))
        finally:
            if session.turns:
                print(json.dumps(_report(options, session, names), ensure_ascii=False))
                tell_only_drawn(session)
        return 0
    for question in options.ask:
        if not stream_answer(session, question, generation):
            return 130
    return 0


def read_inputs(
    image_path: str | None, region_texts: Sequence[str]
) -> tuple[Image.Image | None, list[Region]]:
    """Open the picture and parse the regions, so that a mistake is told before a model is loaded.

    Returns:
        The upright RGB picture (None when no path is given) and the regions, all inside the picture.

    Raises:
        InputError: the picture cannot be used, a region does not parse or lies outside, or there are regions
            but no picture.
    """
    if image_path is None:
        if region_texts:
            raise InputError(f"--region {region_texts[0]} needs a picture, but no --image was given.")
        return None, []
    from rgpt.regions import open_image, parse_region

    image = open_image(image_path)
    regions = [parse_region(text) for text in region_texts]
    for region in regions:
        region.check_inside(image.height, image.width)
    return image, regions


def choose_model() -> str:
    """The model of who names none."""
    from rgpt.model.default import default_model

    return default_model()


def open_session(model_name: str, **where: Any) -> ChatSession:
    """Load the model (`where`: see `rgpt.placement`) and start an empty conversation; here, and not earlier,
    torch is imported.

    Raises:
        InputError: there is no such model, or it cannot be opened so.
    """
    from transformers.utils import logging

    from rgpt.chat import ChatSession
    from rgpt.model import load

    logging.disable_progress_bar()  # stderr is for the one sentence that says what is wrong
    return ChatSession(*load(model_name, **where))


def _report(
    options: argparse.Namespace, session: ChatSession, names: Sequence[dict[str, float]]
) -> dict[str, Any]:
    return {
        "model": options.model,
        "image": options.image,
        "regions": {f"region{number}": region.to_json() for number, region in session.regions.items()},
        "turns": [
            {"question": turn.question, "answer": turn.answer} | ({"names": shares} if shares else {})
            for turn, shares in zip(session.turns, names, strict=False)
        ],
    }


def _positive_int(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text!r}")
    return value

"""What `rgpt recognize` and `rgpt detect` share: the picture and where it is drawn, with names beside it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rgpt.errors import InputError
from rgpt.files import whole_file
from rgpt.placement import DEVICE_HELP

if TYPE_CHECKING:
    from PIL import Image

    from rgpt.regions import Region

MERGED = "duplicate names in the vocabulary, counted once: {}"


def add_options(parser: argparse.ArgumentParser, model: str, top: str) -> None:
    """The options of both, to which each adds its own; `model`, `top`: what these two say of themselves."""
    parser.add_argument("--model", required=True, metavar="NAME", help=model)
    parser.add_argument("--image", required=True, metavar="FILE", help="the picture")
    parser.add_argument("--proposals", metavar="SOURCE", help="let a source find the regions, see below")
    parser.add_argument("--image-id", metavar="ID", help="the picture's id in a json: source")
    parser.add_argument("--most", type=int, default=100, metavar="N", help="proposals kept (default: 100)")
    parser.add_argument("--vocabulary", required=True, metavar="V", help='coco80, lvis, a file, or "a,b,c"')
    parser.add_argument("--top", type=int, metavar="K", help=top)
    parser.add_argument("--draw", metavar="FILE", help="write the picture with regions and names")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", metavar="D", default="cpu", help=f"{DEVICE_HELP} (default: cpu)")


def open_picture(options: argparse.Namespace) -> Image.Image:
    """Check `--top`, `--most` and `--draw`, then open `--image`. Raises InputError."""
    for name in ("top", "most"):
        if getattr(options, name) < 1:
            raise InputError.about(f"--{name}", "1 or more", str(getattr(options, name)))
    from rgpt.regions import open_image

    image = open_image(options.image)
    if options.draw:
        folder = Path(options.draw).absolute().parent
        if not folder.is_dir() or Path(options.draw).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise InputError.about(
                "--draw",
                "a .png, .jpg or .webp file in an existing folder",
                repr(options.draw),
                "name another file",
            )
    return image


def write_drawing(
    image: Image.Image, regions: Sequence[Region], names: Sequence[tuple[str, float]], path: Path
) -> None:
    """The picture with its regions numbered from 1, and beside it the (name, score) of each.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    from rgpt.regions import draw_regions
    from rgpt.regions.draw import write_beside

    picture = draw_regions(image, dict(enumerate(regions, start=1)))
    lines = {n: f"{n} {name} {score:.2f}" for n, (name, score) in enumerate(names, 1)}
    drawn = write_beside(picture, lines)
    try:
        with whole_file(path) as partial:
            drawn.save(partial)
    except OSError as error:
        raise InputError.about(
            f"--draw {str(path)!r}",
            "a file that can be written",
            " ".join(str(error).split())[:120],
            "name another file",
        ) from error
    finally:
        partial.unlink(missing_ok=True)

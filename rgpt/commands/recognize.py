"""`rgpt recognize`: name regions of a picture from a vocabulary: the five best names with scores, and a
drawing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rgpt.cli import OneLineParser
from rgpt.commands.named_regions import MERGED, add_options, open_picture, write_drawing
from rgpt.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from rgpt.recognizers.region_set import RegionSet
    from rgpt.recognizers.scores import RegionScores

EXAMPLES = """\
recognizers (--model): clip-crop, clip-masked-crop, clip-pooled, each @CLIP (a folder or hub id, or
open_clip:MODEL/WEIGHTS); regionspot, regionclip, rovit, each @FOLDER; or a folder.

regions: as for `rgpt chat` (--region box:60,150,260,330, mask:m.png, …), or from a source (--proposals):
  photo (objects on photographs)    json:FILE    rpn:FILE    sam:MODEL    grounding-dino:MODEL?dog. cat.
  rovit:FOLDER

examples:
  rgpt recognize --model clip-crop@openai/clip-vit-base-patch16 --image photo.jpg \\
                 --region box:60,150,260,330 --vocabulary "dog,cat,sheep"
  rgpt recognize --model regionspot@runs/recognizers/regionspot --image photo.jpg \\
                 --proposals sam:facebook/sam-vit-base --vocabulary coco80 --draw named.png
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `rgpt recognize`."""
    parser = OneLineParser(
        prog="rgpt recognize",
        description="Name regions of a picture from an open vocabulary.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, "a recognizer, see below", "names a region (default: 5)")
    parser.add_argument(
        "--region", "--regions", dest="region", metavar="KIND:…", action="append", default=[],
        help="a region; may be repeated",
    )  # fmt: skip
    parser.set_defaults(top=5)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run `rgpt recognize` and return the exit code.

    Raises:
        InputError: an argument, the picture, a region, the vocabulary or the recognizer is wrong.
    """
    options = build_parser().parse_args(arguments)
    image = read_arguments(options)
    from rgpt.recognizers.loading import open_recognizer
    from rgpt.recognizers.vocabulary import read_vocabulary

    given = read_vocabulary(options.vocabulary)
    find = region_finder(options, image)
    recognizer = open_recognizer(options.model, options.device)
    regions = find()  # a source's work begins only when everything could be opened
    vocabulary = recognizer.vocabulary(given.given)
    scores = recognizer.recognize([image], [regions], vocabulary)[0]
    if options.draw:
        draw(image, regions, scores, Path(options.draw))
    report = as_json(options, regions, scores, vocabulary.merged)
    print(json.dumps(report, ensure_ascii=False) if options.json else as_text(report))
    return 0


def read_arguments(options: argparse.Namespace) -> Image.Image:
    """Check what is cheap to check, before anything heavy is imported, and open the picture."""
    if bool(options.region) == bool(options.proposals):
        raise InputError.about(
            "regions",
            "either --region or --proposals",
            "both" if options.region else "neither",
            "give one of them",
        )
    if options.proposals == "gt":
        raise InputError.about("--proposals", "a source that finds regions", "gt", "give them as --region")
    return open_picture(options)


def region_finder(options: argparse.Namespace, image: Image.Image) -> Callable[[], RegionSet]:
    """What gives the regions: those on the command line, checked, or those that an opened source proposes."""
    from rgpt.recognizers.region_set import RegionSet
    from rgpt.regions import parse_region

    if options.proposals:
        from rgpt.recognizers.proposals import open_source, propose

        source = open_source(options.proposals)
        return lambda: propose(image, source, image_id=options.image_id, most=options.most)
    given = RegionSet(tuple(map(parse_region, options.region)), image.height, image.width)
    return lambda: given


def as_json(
    options: argparse.Namespace, regions: RegionSet, scores: RegionScores, merged: int
) -> dict[str, Any]:
    """What is printed, as one object; boxes in pixels of the upright picture."""
    rows = []
    for number, (box, names) in enumerate(
        zip(regions.as_boxes().tolist(), scores.topk(options.top), strict=True), 1
    ):
        row: dict[str, Any] = {
            "region": number,
            "box": [round(value, 2) for value in box],
            "names": [{"name": name, "score": round(score, 4)} for name, score in names],
        }
        if regions.scores is not None:
            row["proposal_score"] = round(float(regions.scores[number - 1]), 4)
        rows.append(row)
    return {
        "model": options.model,
        "image": options.image,
        "vocabulary": len(scores.names),
        "merged_names": merged,
        "rule": scores.rule,
        "source": regions.source,
        "regions": rows,
    }


def as_text(report: dict[str, Any]) -> str:
    """One line a region."""
    lines = []
    if report["merged_names"]:
        lines.append(MERGED.format(report["merged_names"]))
    for row in report["regions"]:
        names = "  ".join(f"{entry['name']} {entry['score']:.3f}" for entry in row["names"])
        lines.append(f"<region{row['region']}>  {names}")
    return "\n".join(lines) or "no regions"


def draw(image: Image.Image, regions: RegionSet, scores: RegionScores, path: Path) -> None:
    """Write the picture with its regions numbered as printed, and beside it each region's likeliest name."""
    write_drawing(image, regions.regions, [names[0] for names in scores.topk(1)], path)

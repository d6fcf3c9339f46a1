"""`rgpt detect`: find the things of a vocabulary on a picture: boxes or masks with names and scores, and a
drawing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rgpt.cli import OneLineParser
from rgpt.commands.named_regions import MERGED, add_options, open_picture, write_drawing
from rgpt.errors import InputError

if TYPE_CHECKING:
    from rgpt.recognizers.scores import Detections
    from rgpt.regions import Region

EXAMPLES = """\
detectors (--model): rovit-detector@FOLDER proposes by itself; regionclip-transfer@FOLDER, or any recognizer
(clip-crop, clip-masked-crop, clip-pooled, each @CLIP; regionspot, regionclip, rovit, each @FOLDER), or a
folder, name what a source finds (--proposals):
  photo (objects on photographs)    json:FILE    rpn:FILE    sam:MODEL    grounding-dino:MODEL?dog. cat.
  rovit:FOLDER

masks (--masks): RO-ViT's own, SAM's (regionspot), or the proposals where they are masks (sam, json).

examples:
  rgpt detect --model rovit-detector@runs/recognizers/rovit-detector --image photo.jpg \\
              --vocabulary "dog,cat,sheep" --base "dog,cat" --draw found.png
  rgpt detect --model regionspot@runs/recognizers/regionspot --image photo.jpg \\
              --proposals sam:facebook/sam-vit-base --vocabulary coco80 --masks --json
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `rgpt detect`."""
    parser = OneLineParser(
        prog="rgpt detect",
        description="Find the things of an open vocabulary on a picture.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, "a detector or recognizer, see below", "detections kept (default: 100)")
    parser.add_argument(
        "--base",
        metavar="V",
        help="the names trained with, in the same forms (rovit-detector weighs them "
        "apart; without this every name is novel to it)",
    )
    parser.add_argument(
        "--floor", type=float, default=0.05, metavar="S", help="scores are above it (default: 0.05)"
    )
    parser.add_argument("--masks", action="store_true", help="find masks, too, and draw them")
    parser.set_defaults(top=100)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run `rgpt detect` and return the exit code.

    Raises:
        InputError: an argument, the picture, the vocabulary, the detector or its source is wrong.
    """
    options = build_parser().parse_args(arguments)
    if not 0 <= options.floor < 1:
        raise InputError.about("--floor", "0 or more, below 1", str(options.floor), "change it")
    image = open_picture(options)
    from rgpt.recognizers.detectors import open_detector
    from rgpt.recognizers.vocabulary import mark_base, read_vocabulary

    given = read_vocabulary(options.vocabulary).given
    is_base = mark_base(given, read_vocabulary(options.base).given) if options.base else ()
    detector = open_detector(
        options.model,
        options.proposals,
        options.device,
        masks=options.masks,
        most=options.most,
        floor=options.floor,
        per_image=options.top,
    )
    vocabulary = detector.vocabulary(given, is_base)
    found = detector.detect(image, vocabulary, options.image_id)
    names = [vocabulary.names[label] for label in found.labels.tolist()]
    report = {
        "model": options.model,
        "proposals": options.proposals,
        "image": options.image,
        "vocabulary": len(vocabulary),
        "merged_names": vocabulary.merged,
        "detections": as_rows(found, names),
    }
    print(json.dumps(report, ensure_ascii=False) if options.json else as_text(report, options.floor))
    if options.draw:
        pairs = list(zip(names, found.scores.tolist(), strict=True))
        write_drawing(image, as_regions(found), pairs, Path(options.draw))
    return 0


def as_regions(found: Detections) -> list[Region]:
    """What is drawn of each: its mask, or its box where there is none."""
    from rgpt.regions import Box

    masks = found.masks or (None,) * len(found)
    return [mask or Box(*box) for mask, box in zip(masks, found.boxes.tolist(), strict=True)]


def as_rows(found: Detections, names: Sequence[str]) -> list[dict[str, Any]]:
    """One object a detection, best first: box xyxy in pixels, name, score, and the mask's run lengths."""
    rows = []
    for number, (box, name, score) in enumerate(
        zip(found.boxes.tolist(), names, found.scores.tolist(), strict=True)
    ):
        row: dict[str, Any] = {
            "box": [round(value, 2) for value in box],
            "name": name,
            "score": float(f"{score:.4g}"),
        }
        if found.masks is not None and (mask := found.masks[number]) is not None:
            row |= mask.to_json()
        rows.append(row)
    return rows


def as_text(report: dict[str, Any], floor: float) -> str:
    """One line a detection."""
    lines = []
    if report["merged_names"]:
        lines.append(MERGED.format(report["merged_names"]))
    for number, row in enumerate(report["detections"], 1):
        box = " ".join(f"{value:.1f}" for value in row["box"])
        lines.append(f"{number:>3}  {row['score']:.3f}  {row['name']}  [{box}]")
    if not report["detections"]:
        lines.append(f"nothing found above {floor:g}")
    return "\n".join(lines)

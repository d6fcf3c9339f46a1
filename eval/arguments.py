"""The command line of `eval.run`, and the task that its arguments ask for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import recognizers
from eval.layouts.files import read_json
from eval.score import read_base
from eval.scorers.options import unused
from eval.tasks import drawn as scenes
from eval.tasks.base import Task
from eval.tasks.detection import Detection
from eval.tasks.drawn_skills import Shapes
from eval.tasks.photo_items import FORMS as PHOTO_FORMS
from eval.tasks.photo_items import KINDS as PHOTO_KINDS
from eval.tasks.photo_items import Draw
from eval.tasks.photos import Photographs
from eval.tasks.pope import PROTOCOLS as POPE_PROTOCOLS
from eval.tasks.pope import SETTINGS, Pope
from eval.tasks.referring import Referring
from eval.tasks.region_captioning import RegionCaptioning
from eval.tasks.region_classification import ASKED, PROTOCOLS, RegionClassification
from eval.tasks.region_forms import FORMS
from eval.tasks.shapes import KINDS
from rgpt.data.photographs import SPLITS, annotation_files, is_held_out
from rgpt.errors import InputError
from rgpt.placement import add_placement

DRAWN = "shapes"
"""As `--data`: drawn scenes in place of a data set."""


@dataclass(frozen=True)
class Drawn:
    """Which drawn scenes: `count` of block `seed`."""

    seed: int
    count: int


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m eval.run`."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.run", description="Ask a model, then score and report."
    )
    tasks = parser.add_subparsers(dest="task", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--model", nargs="+", default=["tiny"], metavar="M",
        help="tiny, a folder, or a hub id; for region_classification and detection also a region recognizer "
        "(clip-crop, clip-masked-crop, clip-pooled, regionspot, regionclip, rovit, each also @FOLDER); "
        "for detection also rovit-detector and regionclip-transfer, each also @FOLDER. "
        "Several give one table",
    )  # fmt: skip
    common.add_argument(
        "--out",
        help="folder of predictions, scores and report (of several models: of such folders); "
        "a stopped run goes on there",
    )
    common.add_argument("--json", help="write the scores here too")
    common.add_argument(
        "--seed", type=int, default=0, help="of wordings and orders; which block of drawn scenes"
    )
    common.add_argument("--count", type=int, default=500, help="how many drawn scenes")
    common.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    common.add_argument("--threads", type=int, default=2, help="torch threads of each process")
    add_placement(common)
    common.add_argument("--batch-size", type=int, default=32, help="questions answered together")
    common.add_argument("--retry-failed", action="store_true", help="ask pictures with failed items again")
    common.add_argument("--no-sheet", action="store_true", help="no contact sheet of mistakes")

    def add(name: str, about: str) -> argparse.ArgumentParser:
        return tasks.add_parser(name, help=about, parents=[common])

    verb = add("shapes", "every skill of tiny, on drawn scenes that no training run has seen")
    verb.add_argument("--regions", choices=("mixed", "mask", "box"), default="mixed")
    verb.add_argument("--only", help="comma-separated kinds, e.g. classification,relation")

    verb = add("region_classification", "name the object in each region of a COCO-format set")
    add_pictures(verb)
    verb.add_argument("--regions", choices=FORMS, default="mask")
    verb.add_argument("--ask", choices=ASKED, default="single")
    verb.add_argument("--protocol", choices=PROTOCOLS, default="author-script")
    verb.add_argument("--vocabulary", help='as the guide sentence calls the names, e.g. "COCO-80"')
    verb.add_argument("--guide", choices=("on", "off"), default="on", help="the task-guided prompt")
    verb.add_argument("--closed", action="store_true", help="only the given names can be generated")

    verb = add("detection", "find and name the things of a COCO-format set, or LVIS")
    add_pictures(verb)
    verb.add_argument(
        "--proposals", metavar="SOURCE",
        help="regions to be named: gt (the annotations' boxes), photo, json:FILE, rpn:FILE, "
        "sam:MODEL, grounding-dino:MODEL?TEXT, rovit:FOLDER; rovit-detector takes none",
    )  # fmt: skip
    verb.add_argument("--iou-type", choices=("bbox", "segm"), default="bbox", help="compare boxes or masks")
    verb.add_argument(
        "--base", metavar='FILE|"a,b"', help="names trained with: AP of these and of the others"
    )
    verb.add_argument("--most", type=int, default=300, metavar="N", help="proposals kept (default: 300)")
    verb.add_argument("--nms", type=float, default=0.5, help="IoU within a name; 1 keeps all (default: 0.5)")
    verb.add_argument("--regions", choices=("box", "mask"), default="box", help="form of --proposals gt")
    verb.add_argument("--vocabulary", help='as the guide sentence calls the names, e.g. "COCO-80"')

    verb = add("region_captioning", "describe regions")
    verb.add_argument(
        "--data", required=True, help=f"refs(….).p, region_descriptions.json, JSONL, or {DRAWN}"
    )
    verb.add_argument("--images", type=Path, help="folder of the pictures")
    verb.add_argument("--instances", type=Path, help="COCO instances file of the refs")
    verb.add_argument("--split", help="of the refs, e.g. val")
    verb.add_argument("--regions", choices=FORMS, default="mask")
    verb.add_argument("--detailed", action="store_true", help="ask for detailed descriptions")

    verb = add("referring", "which region fits a description?")
    verb.add_argument("--data", required=True, help=f"refs(….).p, rows with candidates, or {DRAWN}")
    verb.add_argument("--images", type=Path, help="folder of the pictures")
    verb.add_argument("--instances", type=Path, help="COCO instances file of the refs")
    verb.add_argument("--proposals", type=Path, help="candidate boxes instead of the instances")
    verb.add_argument("--split", help="of the refs, e.g. val")
    verb.add_argument("--regions", choices=FORMS, default="mask")
    verb.add_argument("--guide", choices=("on", "off"), default="on", help="the task-guided prompt")
    verb.add_argument("--likelihood", action="store_true", help="compute the answer instead of generating it")

    verb = add("photographs", "names, captions, yes/no, which of these and relations, on photographs")
    add_photographs(verb)

    verb = add("pope", "is there a … in the image?")
    verb.add_argument("--data", required=True, help=f"a POPE question file, or {DRAWN}")
    verb.add_argument("--images", type=Path, help="folder of the pictures")
    verb.add_argument("--protocol", choices=POPE_PROTOCOLS, default="author-script")
    verb.add_argument("--setting", choices=SETTINGS, default="random", help=f"for --data {DRAWN}")
    verb.add_argument("--suffix", default="", help="said after every question")
    return parser


def add_photographs(verb: argparse.ArgumentParser) -> None:
    """The options that name photographs in COCO's layout and what is asked about them."""
    verb.add_argument(
        "--data", required=True, type=Path, help="a folder with instances*.json, captions*.json and images/"
    )
    verb.add_argument("--split", choices=SPLITS, default="held_out", help="default: what no training takes")
    verb.add_argument(
        "--ids", type=Path, metavar="FILE", help="a JSON list of photographs, instead of a split"
    )
    verb.add_argument(
        "--regions", choices=PHOTO_FORMS, default="mask", help="outlines where there are some, or boxes only"
    )
    verb.add_argument(
        "--regions-per-picture",
        type=int,
        default=6,
        metavar="N",
        help="named of each photograph (default: 6)",
    )
    verb.add_argument("--guide", choices=("on", "off"), default="on", help="the task-guided prompt")
    verb.add_argument("--only", help=f"comma-separated, some of {','.join(PHOTO_KINDS)}")


def photographs_of(args: argparse.Namespace) -> Photographs:
    """The task of `add_photographs`'s options. Raises InputError."""
    kinds = tuple(args.only.split(",")) if args.only else PHOTO_KINDS
    draw = Draw(args.seed, args.regions, args.regions_per_picture, kinds, args.guide == "on")
    return Photographs(args.data, args.split, args.ids, draw, args.limit, args.batch_size)


def add_pictures(verb: argparse.ArgumentParser) -> None:
    """The options that name a COCO-format set."""
    verb.add_argument(
        "--data",
        required=True,
        help=f"a COCO-format file, {DRAWN}, or a folder of photographs (instances*.json, images/): what is "
        "held out of it",
    )
    verb.add_argument("--images", type=Path, help="folder of the pictures of a file")


def held_out(folder: Path) -> dict[str, Any]:
    """What training leaves out of a folder of photographs, as one COCO file's content.

    Raises InputError for a folder of something else, or files with other categories.
    """
    merged: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for path in annotation_files(folder)[0]:
        content = read_json(path)
        if merged["categories"] not in ([], content["categories"]):
            raise InputError.about(f"file {str(path)!r}", "the categories of the others", "other ones")
        merged["categories"] = content["categories"]
        merged["images"] += [image for image in content["images"] if is_held_out(image["id"])]
        merged["annotations"] += [one for one in content["annotations"] if is_held_out(one["image_id"])]
    return merged


def check_files(
    data: str, images: Path | None, pictures_in_data: bool = False, folders: bool = False
) -> None:
    """Refuse a `--data` that is no file (or, with `folders`, no folder of photographs), and one whose
    `--images` is missing. Raises InputError."""
    if data == DRAWN:
        return
    if folders and Path(data).is_dir():
        annotation_files(Path(data))
        return
    if not Path(data).is_file():
        raise InputError.about("--data", f"a file, or {DRAWN}", f"{data!r}")
    if not pictures_in_data and (images is None or not images.is_dir()):
        raise InputError.about("--images", "the folder of the pictures", str(images), "name it")


ONLY_DRAWN = {"count": 500, "setting": "random"}
"""Options that only drawn scenes have, with their defaults; a data set has the others."""
ONLY_FILES = ("images", "instances", "split")


def check_idle(args: argparse.Namespace) -> None:
    """Refuse options that would change nothing. Raises InputError."""
    given = vars(args)
    if given.get("data", DRAWN) == DRAWN:
        idle = [name for name in ONLY_FILES if given.get(name) is not None and args.task != "shapes"]
        why = "drawn scenes bring their own"
    else:
        idle = [name for name, usual in ONLY_DRAWN.items() if given.get(name, usual) != usual]
        why = f"--data {given['data']} is no drawn scenes"
    if idle:
        raise unused(idle[0], why)


def check(args: argparse.Namespace) -> None:
    """Refuse what makes no sense, before any work. `args.model` is one model."""
    recognizers.check(args)
    check_idle(args)
    if args.count < 1 or args.seed < 0:
        raise InputError(f"--count {args.count} and --seed {args.seed}: expected at least 1 and at least 0.")
    if args.threads < 1 or args.count > 1_000_000:
        raise InputError(
            f"--threads {args.threads} and --count {args.count}: expected 1 or more, at most 1,000,000."
        )
    if args.batch_size < 1 or (args.limit is not None and args.limit < 1):
        raise InputError(f"--batch-size {args.batch_size} and --limit {args.limit}: expected at least 1.")
    known = PHOTO_KINDS if args.task == "photographs" else KINDS
    if unknown := set((getattr(args, "only", None) or "").split(",")) - {"", *known}:
        raise InputError(f"--only names {', '.join(sorted(unknown))}: expected some of {', '.join(known)}.")
    if args.task not in ("shapes", "photographs"):
        samples = args.task == "region_captioning" and args.data.endswith(".jsonl")
        check_files(args.data, args.images, pictures_in_data=samples, folders=args.task == "detection")


def build_task(args: argparse.Namespace, drawn: Drawn | None) -> Task:
    """The task of the arguments, on drawn scenes or on the given files."""
    count = None if drawn is None else min(drawn.count, args.limit or drawn.count)
    limit = args.limit
    shared: dict[str, Any] = {"limit": limit, "batch_size": args.batch_size}
    if args.task == "shapes":
        only = frozenset(args.only.split(",")) - {""} if args.only else None
        return Shapes(args.seed, min(args.count, limit or args.count), args.regions, only)
    if args.task == "photographs":
        return photographs_of(args)
    if args.task == "pope":
        given: dict[str, Any] = {"data": args.data, "images": args.images}
        if drawn is not None and count is not None:
            given = {
                "data": scenes.pope_rows(args.setting, drawn.seed, count),
                "images": scenes.DrawnPictures(drawn.seed, count, "{}.png"),
            }
        return Pope(**given, protocol=args.protocol, suffix=args.suffix, **shared)
    shared |= {"form": args.regions, "seed": args.seed}
    if args.task in ("region_classification", "detection"):
        given = {"data": args.data, "images": args.images, "vocabulary": args.vocabulary}
        if drawn is not None and count is not None:
            given = {
                "data": scenes.instances(drawn.seed, count),
                "images": scenes.DrawnPictures(drawn.seed, count),
                "vocabulary": args.vocabulary or "shape",
            }
        elif Path(args.data).is_dir():
            given |= {"data": held_out(Path(args.data)), "images": Path(args.data) / "images"}
        if args.task == "detection":
            return Detection(
                **given,
                proposals=args.proposals,
                iou_type=args.iou_type,
                base=read_base(args.base) if args.base else None,
                most=args.most,
                nms=args.nms,
                **shared,
            )
        return RegionClassification(
            **given,
            protocol=args.protocol,
            asked=args.ask,
            guided=args.guide == "on",
            closed=args.closed,
            **shared,
        )
    shared |= {"instances": args.instances, "split": args.split, "images": args.images}
    if args.task == "region_captioning":
        captioning = RegionCaptioning(args.data, detailed=args.detailed, **shared)
        if drawn is not None and count is not None:
            captioning.data = scenes.caption_pictures(captioning, drawn.seed, count)
        return captioning
    referring = Referring(
        args.data,
        proposals=args.proposals,
        guided=args.guide == "on",
        by_likelihood=args.likelihood,
        **shared,
    )
    if drawn is not None and count is not None:
        scenes.referring(referring, drawn.seed, count)
    return referring

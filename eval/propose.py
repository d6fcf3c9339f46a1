"""`python -m eval.propose --data D --proposals SOURCE --out FILE`: find the regions of every picture once.

The file holds a list of COCO results for every picture's id, masks included where the source gives them. As
`--proposals json:FILE` of `eval.run detection` and `rgpt detect` it lets many models name the same regions
without finding them anew. Prints how many there are and the share of annotated objects (without crowds) that
one of the 10, 100 or 300 surest of their picture fits at IoU 0.5, which bounds what any model can find with
them, and AR, its mean over IoU 0.5 to 0.95, with 95% bootstrap intervals over pictures. `--proposals windows`
is the floor: windows of three shapes at five sizes. Drawn scenes are numbered from 1 whatever
the seed: name the same `--seed`, and at most the same `--count`, when the file is used.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.arguments import DRAWN, Drawn, add_pictures, build_task, check_files
from eval.metrics.bootstrap import interval
from rgpt.errors import InputError
from rgpt.files import write_text

SUREST = (10, 100, 300)
IOUS = tuple(i / 100 for i in range(50, 100, 5))
SMALL, LARGE = 32**2 / (640 * 480), 96**2 / (640 * 480)
"""COCO's 32² and 96² pixels, as shares of its usual 640 x 480: photographs may be shrunk."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m eval.propose`."""
    made = argparse.ArgumentParser(prog="python -m eval.propose", description=__doc__)
    add_pictures(made)
    made.add_argument("--proposals", required=True, metavar="SOURCE", help="as of eval.run detection")
    made.add_argument("--most", type=int, default=300, metavar="N", help="proposals kept (default: 300)")
    made.add_argument("--seed", type=int, default=0, help="which block of drawn scenes")
    made.add_argument("--count", type=int, default=500, help="how many drawn scenes")
    made.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    made.add_argument("--threads", type=int, default=2, help="torch threads")
    made.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="where the JSON list is written"
    )
    return made


def propose_all(task: Any, most: int) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """(COCO results without categories by picture, what is printed of them) for the pictures of a `Detection`
    task; a picture on which nothing is found has an empty list."""
    from rgpt.recognizers.proposals import propose

    rows: dict[str, list[dict[str, Any]]] = {}
    hits = Hits()
    seconds = 0.0
    pictures = task.pictures()
    source = task.source
    for picture in tqdm(pictures, desc="proposals", unit="picture", disable=None):
        image = picture.open()
        began = time.perf_counter()
        found = propose(image, source, (), picture.id, most)
        seconds += time.perf_counter() - began
        rows[str(picture.id)] = as_rows(found, picture.id)
        hits.add(found, task.annotated(image, picture.id))
    figures: dict[str, Any] = {
        "pictures": len(pictures),
        "proposals": sum(map(len, rows.values())),
        "seconds a picture": seconds / len(pictures),
        "annotated objects": hits.objects,
        **hits.figures(),
    }
    return rows, figures


class Hits:
    """Which annotated objects the surest proposals of their picture fit."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        """By figure, of every object: 1 (fits) or 0, or the share of IOUS that it fits at."""
        self.pictures: dict[str, list[int]] = {}
        self.objects = self.seen = 0

    def add(self, found: Any, annotated: Any) -> None:
        """Count one picture; `found` is best first."""
        boxes = annotated.as_boxes()
        shares = ((boxes[:, 2:] - boxes[:, :2]).prod(1) / (annotated.height * annotated.width)).tolist()
        self.seen, self.objects = self.seen + 1, self.objects + len(shares)
        for surest in SUREST:
            fits = best_fits(found.subset(range(min(surest, len(found)))), annotated)
            for fit, share in zip(fits, shares, strict=True):
                self._add(f"recall of {surest}", fit >= IOUS[0])
                self._add(f"AR of {surest}", sum(fit >= iou for iou in IOUS) / len(IOUS))
                if surest == SUREST[1]:
                    size = "small" if share < SMALL else "large" if share >= LARGE else "medium"
                    self._add(f"recall of {surest}, {size}", fit >= IOUS[0])

    def _add(self, figure: str, value: float) -> None:
        self.values.setdefault(figure, []).append(float(value))
        self.pictures.setdefault(figure, []).append(self.seen)

    def figures(self) -> dict[str, str]:
        """Every figure with its interval; figures without any object are left out."""
        made = {}
        for name, values in sorted(self.values.items()):
            low, high = interval(values, self.pictures[name])
            made[name] = f"{sum(values) / len(values):.4f} ({low:.3f} to {high:.3f})"
        return made


def as_rows(found: Any, image_id: Any) -> list[dict[str, Any]]:
    """A picture's proposals as COCO results, best first."""
    from rgpt.regions import RLE, Box

    rows = []
    for number, (region, box) in enumerate(zip(found.regions, found.as_boxes().tolist(), strict=True)):
        x1, y1, x2, y2 = box
        row: dict[str, Any] = {"image_id": image_id, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        row["score"] = 1.0 if found.scores is None else float(found.scores[number])
        if not isinstance(region, Box):
            mask = RLE.from_mask(region.to_mask(found.height, found.width))
            row["segmentation"] = mask.to_json()["mask"]
        rows.append(row)
    return rows


def best_fits(found: Any, annotated: Any) -> list[float]:
    """IoU of each annotated box with the proposal that fits it best; 0 without proposals."""
    from torchvision.ops import box_iou

    if not len(found):
        return [0.0] * len(annotated)
    return box_iou(annotated.as_boxes(), found.as_boxes()).amax(1).tolist() if len(annotated) else []


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 0, or 2 and one sentence on stderr."""
    args = build_parser().parse_args(argv)
    try:
        import torch

        check_files(args.data, args.images, folders=True)
        if min(args.count, args.most, args.threads, args.limit or 1) < 1 or args.limit == 0 or args.seed < 0:
            raise InputError("--count, --most, --limit and --threads: expected 1 or more; --seed: 0 or more.")
        if not args.out.absolute().parent.is_dir():
            raise InputError.about("--out", "a file in an existing folder", repr(str(args.out)), "make it")
        torch.set_num_threads(args.threads)
        task_args = argparse.Namespace(**{**vars(args), **NOT_ASKED})
        drawn = Drawn(args.seed, args.count) if args.data == DRAWN else None
        rows, figures = propose_all(build_task(task_args, drawn), args.most)
        write_text(args.out, json.dumps(rows) + "\n")
    except (InputError, OSError) as problem:
        print(f"eval: {problem}", file=sys.stderr)
        return 2
    for name, value in figures.items():
        print(f"{name:<24}{f'{value:.4f}' if isinstance(value, float) else value}")
    return 0


NOT_ASKED: dict[str, Any] = {
    "task": "detection", "regions": "box", "iou_type": "bbox", "base": None, "nms": 0.5, "vocabulary": None,
    "batch_size": 1,
}  # fmt: skip
"""Options of the task that have to do with naming."""


if __name__ == "__main__":
    sys.exit(main())

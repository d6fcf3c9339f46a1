"""Stage 1 scored without the language model: which name's word embedding lies nearest to a region's vector?

    python -m eval.nearest_names --model DIR [DIR ...] --data PHOTOGRAPHS [--features CACHE] [--out FILE]

Every object of the photographs that is no crowd is named among the folder's category names by the rule that
`objective: names` trains (`rgpt.train.name_loss`). Several models are asked about the same objects, and every
one after the first is compared with the first. Intervals are 95% bootstraps over photographs; those of a
difference are over the differences object by object: what is hard for both models does not widen them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from eval.metrics.bootstrap import interval
from eval.photo_bounds import object_weights, open_features, tower_map
from eval.report import between
from eval.score import write_scores
from eval.tasks.photo_items import FORMS, Draw, category_names, read_set, share_of
from eval.tasks.photos import Figures, groups_of_names
from rgpt.data.photographs import SPLITS, Photograph
from rgpt.errors import InputError


@torch.inference_mode()
def nearest_names(
    photographs: Sequence[Photograph],
    names: Sequence[str],
    model: Any,
    processor: Any,
    features: Any = None,
    draw: Draw | None = None,
) -> list[str]:
    """The name of every object that is no crowd, photograph by photograph; `features`: a `FeatureCache`.

    Raises InputError for a picture that cannot be read.
    """
    from rgpt.train.name_loss import name_embeddings

    draw = draw or Draw()
    embeddings = name_embeddings(model, processor.tokenizer, names)  # [U, D]
    said: list[str] = []
    for photograph in tqdm(photographs, desc="names", unit="picture"):
        if photograph.singles:
            refined = model.model.encode(vision_features=tower_map(photograph, model, processor, features))
            weights = object_weights(photograph, draw, model.config.refined_grid)[None].to(refined.device)
            vectors: Tensor = model.model.name_regions(refined, weights)[0].float()  # [R, D]
            said += [names[k] for k in torch.cdist(vectors, embeddings).argmin(-1)]
    return said


def compute(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of every model and differences from the first. Raises InputError, before a model is opened
    where data or options are wrong."""
    from rgpt.model import load

    forms = args.regions * len(args.model) if len(args.regions) == 1 else args.regions
    if len(forms) != len(args.model):
        raise InputError(
            f"--regions has {len(forms)} forms for {len(args.model)} models: give one, or one for each model."
        )
    photographs, names = read_set(args.data, args.split, limit=args.limit), category_names(args.data)
    rows = [
        {"image_id": p.id, "truth": item.name, "share": share_of(item, p)}
        for p in photographs
        for item in p.singles
    ]
    if not rows:
        raise InputError.about(f"--data {str(args.data)!r}", "objects", "none", "check --split and --limit")
    torch.set_num_threads(args.threads)
    models: list[dict[str, Any]] = []
    for path, form in zip(args.model, forms, strict=True):
        model, processor = load(path)
        features = open_features(args.features, model, processor)
        said = nearest_names(photographs, names, model, processor, features, Draw(form=form))
        for row, name in zip(rows, said, strict=True):
            row[f"right {len(models)}"] = float(name == row["truth"])
        models.append({"model": path, "regions": form, **figures_of(rows, len(models))})
        del model
    return {
        "photographs": len(photographs),
        "names": len(names),
        "models": models,
        "args": {key: str(value) for key, value in sorted(vars(args).items()) if value is not None},
    }


def figures_of(rows: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
    """Shares of right names of a model, and how much more they are than the first model's."""
    figures = Figures()
    differences = {}
    for suffix, group in groups_of_names(rows).items():
        if group:
            values = [row[f"right {number}"] for row in group]
            figures.add_values(f"names{suffix}", group, values)
            if number:
                more = [value - row["right 0"] for value, row in zip(values, group, strict=True)]
                pictures = [row["image_id"] for row in group]
                differences[f"names{suffix}"] = [sum(more) / len(more), *interval(more, pictures)]
    return {"scores": figures.scores, "intervals": figures.intervals, "differences": differences}


def table(found: Mapping[str, Any]) -> str:
    lines = []
    for entry in found["models"]:
        lines.append(f"{entry['model']}, regions as {entry['regions']}")
        for name in [key for key in entry["scores"] if not key.startswith("n_")]:
            value, n = entry["scores"][name], entry["scores"][f"n_{name}"]
            line = f"  {name:<20}{value:.3f}{between(entry, name)}, n {n}"
            if name in entry["differences"]:
                more, low, high = entry["differences"][name]
                line += f"; {more:+.3f} ({low:+.3f} to {high:+.3f}) beside the first"
            lines.append(line)
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.nearest_names", description="Regions named by the nearest word embedding."
    )
    parser.add_argument("--model", nargs="+", required=True, metavar="M", help="the first is compared with")
    parser.add_argument("--data", type=Path, required=True, help="a folder with instances*.json and images/")
    parser.add_argument("--split", choices=SPLITS, default="held_out", help="default: what no training takes")
    parser.add_argument(
        "--regions", nargs="+", choices=FORMS, default=["mask"],
        help="outlines where there are some, or boxes only; one form, or one for each model",
    )  # fmt: skip
    parser.add_argument(
        "--features", type=Path, metavar="CACHE", help="of rgpt cache-features; spares the tower"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N photographs")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all as JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if args.out is not None:
            args.out.resolve().parent.mkdir(parents=True, exist_ok=True)  # before the work
        found = compute(args)
        if args.out is not None:
            write_scores(args.out, found)
        print(table(found))
    except (InputError, OSError, ValueError) as problem:
        print(f"eval: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

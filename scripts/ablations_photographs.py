"""The paper's ablations on photographs: one stage 1 a row, from cached features, without the language model.

Every row is `scripts/runs/photo_align.yaml` with another base, other samples or another form of regions, and
nothing else. Bases differ in the refinement alone: tower, connector, language model and their weights are
the same files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.files import replace_folder

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "scripts" / "runs" / "photo_align.yaml"


@dataclass(frozen=True)
class Row:
    """What is trained.

    Args:
        steps: about ten minutes on two cores, at most the four epochs of the run.
        form: of regions, in training and when it is asked: `mask` (outlines where there are some) or `box`.
        outlined: only objects that have an outline, so that both forms are of the same objects.
    """

    refinement: str
    steps: int
    form: str = "mask"
    outlined: bool = False


ROWS = {
    "bilinear": Row("bilinear", 288),
    "none": Row("none", 288),
    "deconv": Row("deconv", 80),
    "masks": Row("bilinear", 60, outlined=True),
    "boxes": Row("bilinear", 60, form="box", outlined=True),
}
FIGURES = ("names", "names_not_person", "names_small", "names_medium", "names_large")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="photographs: instances*.json and images/")
    parser.add_argument(
        "--features", type=Path, required=True, metavar="CACHE", help="of rgpt cache-features, of their tower"
    )
    parser.add_argument("--base", default="package:photo", help="a whole model (default: package:photo)")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--steps", type=int, metavar="N", help="of every row, instead of about ten minutes")
    parser.set_defaults(run=photographs)


def photographs(args: argparse.Namespace) -> list[str]:
    """Train every row, then name the held-out objects with each; a table for each set of objects.

    Raises InputError.
    """
    import torch

    from rgpt.data.photographs import annotation_files
    from rgpt.train.feature_cache import FeatureCache

    torch.set_num_threads(args.threads)
    work, features = args.work / "photographs", args.features.resolve()
    annotation_files(args.data), FeatureCache(features)  # refused before the work
    kinds = sorted({ROWS[name].refinement for name in args.rows})
    bases = {kind: with_refinement(args.base, kind, work / f"base-{kind}") for kind in kinds}
    lines: list[str] = []
    for is_outlined in (False, True):
        rows = {name: ROWS[name] for name in args.rows if ROWS[name].outlined == is_outlined}
        if not rows:
            continue
        data = outlined(args.data, work / "outlined") if is_outlined else args.data.resolve()
        names = make_names(data, work / f"names{'-outlined' * is_outlined}")
        results = {}
        for name, row in rows.items():
            steps = args.steps or row.steps
            out = work / f"{name}-{steps}"
            results[name] = train_row(row, bases[row.refinement], names, features, out, steps)
        command = [
            sys.executable,
            "-m",
            "eval.nearest_names",
            "--data",
            str(data),
            "--features",
            str(features),
        ]
        command += ["--model", *map(str, results.values()), "--regions", *(row.form for row in rows.values())]
        out = work / f"{'-'.join(result.parent.name for result in results.values())}.json"
        command += ["--threads", str(args.threads), "--out", str(out)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        lines += [*table(results, json.loads(out.read_text(encoding="utf-8"))), ""]
        print("\n".join(lines), file=sys.stderr, flush=True)
    return lines[:-1]


def make_names(data: Path, out: Path) -> Path:
    """names.jsonl of the training photographs, by the recipe."""
    if not (out / "names.jsonl").is_file():
        command = [sys.executable, "-m", "data_recipes.coco_photos", "--form", "names", "--out", str(out)]
        command += ["--annotations", *map(str, sorted(data.glob("instances*.json")))]
        command += ["--images", str(data / "images")]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return out / "names.jsonl"


def outlined(data: Path, out: Path) -> Path:
    """The same photographs with only those objects that have an outline, as a folder in COCO's layout."""
    from rgpt.data.photographs import annotation_files, read_photographs
    from rgpt.regions import Box

    kept = {item.id for p in read_photographs(data) for item in p.objects if not isinstance(item.region, Box)}
    partial = _fresh(out)
    for path in annotation_files(data)[0]:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["annotations"] = [entry for entry in content["annotations"] if entry["id"] in kept]
        (partial / path.name).write_text(json.dumps(content), encoding="utf-8")
    (partial / "images").symlink_to((data / "images").resolve())
    replace_folder(partial, out)
    return out


def with_refinement(base: str, refinement: str, out: Path) -> Path:
    """The base with a fresh refinement of another kind: a model folder whose other weights are links.

    Raises InputError when the base is not a folder with a whole model, or its refinement has weights.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    from rgpt.model import RegionGPTConfig, RegionGPTForConditionalGeneration, RegionGPTProcessor
    from rgpt.model.bases import lineage

    path, layers = lineage(base)
    folder = Path(path)
    if layers or not (folder / "model.safetensors").is_file():
        raise InputError.about(f"--base {base!r}", "a folder with a whole model", "none", "name its base")
    config = RegionGPTConfig.from_pretrained(folder)
    if config.refinement not in ("none", "bilinear"):
        raise InputError.about(
            f"the refinement of --base {base!r}",
            "none or bilinear, which have no weights to take away",
            config.refinement,
            "assemble one with --refinement bilinear",
        )
    config.refinement = refinement
    processor = RegionGPTProcessor.from_pretrained(folder)
    processor.refined_grid = config.refined_grid
    torch.manual_seed(0)
    model = RegionGPTForConditionalGeneration.from_pretrained(folder, config=config)  # draws what is missing
    own = {f"model.refinement.{name}": value for name, value in model.model.refinement.state_dict().items()}
    partial = _fresh(out)
    config.save_pretrained(partial)
    model.generation_config.save_pretrained(partial)
    processor.save_pretrained(partial)
    link = partial / ("model-base.safetensors" if own else "model.safetensors")
    link.symlink_to((folder / "model.safetensors").resolve())
    if own:
        save_file(own, partial / "model-refinement.safetensors", metadata={"format": "pt"})
        with safe_open(link, framework="pt") as file:
            where = dict.fromkeys(file.keys(), link.name)
        index = {"metadata": {}, "weight_map": where | dict.fromkeys(own, "model-refinement.safetensors")}
        (partial / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    replace_folder(partial, out)
    return out


def train_row(row: Row, base: Path, names: Path, features: Path, out: Path, steps: int) -> Path:
    """The delta folder of one run; one that was stopped is continued. Raises InputError."""
    from rgpt.train.arguments import read_run
    from rgpt.train.run import train

    values = {"model": base, "data.0.path": names, "features": features, "out": out, "max_steps": steps}
    values |= {"region_form": "box" if row.form == "box" else "given", "held_out": "null", "log_every": 1}
    run = read_run(RUN, [f"{key}={value}" for key, value in values.items()])
    with contextlib.redirect_stdout(sys.stderr):
        return train(run, resume=(out / "run.yaml").is_file())


def table(results: dict[str, Path], found: dict[str, Any]) -> list[str]:
    """Accuracy with its interval, and in brackets what it is more than the first row's."""
    from rgpt.train.record import read_log

    head = ["", "steps", "minutes", *(name.replace("_", " ") for name in FIGURES)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (name, result), entry in zip(results.items(), found["models"], strict=True):
        log = read_log(result.parent / "log.jsonl")
        seconds = [line["pictures"] / line["samples_per_second"] for line in log if "pictures" in line]
        cells = [name, str(len(seconds)), f"{sum(seconds) / 60:.1f}"]
        for figure in FIGURES:
            cell = "–"
            if figure in entry["scores"]:
                cell = "{:.3f} ({:.3f} to {:.3f})".format(
                    entry["scores"][figure], *entry["intervals"][figure]
                )
            if figure in entry["differences"]:
                cell += "; {:+.3f} ({:+.3f} to {:+.3f})".format(*entry["differences"][figure])
            cells.append(cell)
        lines.append("| " + " | ".join(cells) + " |")
    objects = [found["models"][0]["scores"].get(f"n_{figure}", 0) for figure in FIGURES]
    return [*lines, f"| objects | | | {' | '.join(map(str, objects))} |"]


def _fresh(out: Path) -> Path:
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial

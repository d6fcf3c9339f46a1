"""What a choice is worth: tables for docs/ablations.md.

    python -m scripts.ablations prompts [--model tiny] [--count 150] [--seeds 1 2 3]
    python -m scripts.ablations refinement --parts runs/tiny [--steps 600] [--seeds 0 1 2]
    python -m scripts.ablations photographs --data DIR --features CACHE [--steps N] [--rows ROW ...]

`prompts` asks a finished model about drawn scenes, `refinement` trains the variants first: both stages of
`tiny`, on the tower, the warmed-up language model and the cached features of an earlier run of
`scripts/train_tiny.sh`, for so many steps a stage; every row of a table names the command that computes it.
`photographs` is stage 1 of `photo` once a row. Everything is kept under `--work` and not done twice.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.hub import open_pretrained
from scripts import ablations_photographs

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ("none", "bilinear", "deconv", "residual")
CLASSIFY = ("region_classification", "--data", "shapes")
PROMPTS = {
    "guide sentence on, one region a prompt": (),
    "guide sentence off, one region a prompt": ("--guide", "off"),
    "guide off, only the names can come out": ("--guide", "off", "--closed"),
    "guide off, names ranked by likelihood": ("--guide", "off", "--protocol", "scored"),
    "guide on, names ranked by likelihood": ("--protocol", "scored"),
    "all regions in one prompt": ("--ask", "all"),
    "multi-turn, the model's own answers": ("--ask", "multi-turn"),
    "regions as boxes": ("--regions", "box"),
    "regions dilated": ("--regions", "dilated"),
    "regions eroded": ("--regions", "eroded"),
}
SKILLS = ("classification", "classification_small", "brief_caption", "relation", "yes_no")
TAUGHT = ("classification", "brief_caption", "relation", "verify", "verify_relation", "exists")
"""What short runs are taught: what they are asked."""


def evaluate(arguments: Sequence[str], out: Path) -> dict[str, Any]:
    """The scores of one `eval.run`, run as a command: floors do not import one another."""
    if not (out / "scores.json").is_file():
        command = [sys.executable, "-m", "eval.run", *arguments, "--no-sheet", "--out", str(out)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    scores: dict[str, Any] = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    return scores


def row(name: str, found: Sequence[Mapping[str, Any]], figures: Iterable[str], command: str) -> str:
    """One line of a table: of every figure the mean and, behind ±, half the distance of the extremes."""
    cells = []
    for figure in figures:
        values = [float(scores[figure]) for scores in found if scores.get(figure) is not None]
        spread = (max(values) - min(values)) / 2 if values else 0.0
        cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}" if values else "–")
    n, failed = (sum(int(scores[key]) for scores in found) for key in ("n", "failed"))
    return f"| {name} | " + " | ".join(cells) + f" | {n} | {failed} | `{command}` |"


def head(what: str, figures: Iterable[str]) -> list[str]:
    names = [what, *figures, "n", "failed", "command"]
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def prompts(args: argparse.Namespace) -> list[str]:
    """Guide sentence, how regions are asked about, and their form; the same model and scenes in every row."""
    figures = ("accuracy", "mAP")
    lines = head("asked", figures)
    for name, options in PROMPTS.items():
        found = []
        for seed in args.seeds:
            command = [*CLASSIFY, "--model", args.model, "--count", str(args.count), *options]
            folder = args.work / "prompts" / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
            arguments = [*command, "--seed", str(seed), "--threads", str(args.threads)]
            found.append(evaluate(arguments, folder))
        lines.append(row(name, found, figures, shlex.join(["python", "-m", "eval.run", *command])))
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def refinement(args: argparse.Namespace) -> list[str]:
    """Train every variant with every seed, ask each about the same held-out scenes."""
    for part in ("scenes", "tower", "language"):
        if not (args.parts / part).is_dir():
            raise InputError.about(
                f"--parts {str(args.parts)!r}",
                "the folders scenes, tower and language of a run of scripts/train_tiny.sh",
                f"no {part}",
                "run it first, or name its --work folder",
            )
    lines = head("refinement", SKILLS)
    for variant in args.variants:
        found = []
        for seed in args.seeds:
            folder = args.work / "refinement" / f"{variant}-{seed}-{args.steps}x{args.tokens}"
            if not (folder / "model").is_dir():
                train_variant(args, variant, seed, folder)
            asked = ["shapes", "--model", str(folder / "model"), "--seed", "1", "--count", str(args.count)]
            asked += ["--only", ",".join(SKILLS), "--threads", str(args.threads)]
            found.append(evaluate(asked, folder / "eval"))
        command = (
            f"python -m scripts.ablations refinement --variants {variant} --steps {args.steps}"
            f" --tokens {args.tokens} --count {args.count}"
        )
        lines.append(row(variant, found, SKILLS, command))
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def train_variant(args: argparse.Namespace, variant: str, seed: int, folder: Path) -> None:
    """Both stages with one kind of refinement, and the finished model in `folder/model`."""
    import torch
    from transformers import AutoModel, PreTrainedTokenizerFast

    from rgpt.train.tiny import language, recipe, tune

    torch.set_num_threads(args.threads)
    torch.manual_seed(seed)
    model = build_variant(args.parts, variant)
    writer = language.Writer(open_pretrained(PreTrainedTokenizerFast, args.parts / "language"))
    tower = open_pretrained(AutoModel, args.parts / "tower")
    features = tune.cache_features(args.parts / "scenes", tower, args.parts / "features")
    for stage, rate in (("align", 2e-3), ("tune", 1e-3)):
        tune.train_stage(
            model, stage, features, writer, args.steps, lr=rate, seed=seed, tasks=TAUGHT, tokens=args.tokens
        )
    folder.mkdir(parents=True, exist_ok=True)
    recipe.export(model, args.parts / "language", folder / "model")


def build_variant(parts: Path, variant: str) -> Any:
    """Pretrained tower and language model around a fresh refinement of a kind, and a fresh connector."""
    from torch.nn import functional as F

    from rgpt.model import RegionGPTConfig, RegionGPTForConditionalGeneration
    from rgpt.train.tiny import tune

    usual = tune.build_model(parts / "tower", parts / "language")
    settings = usual.config.to_dict()  # type: ignore[union-attr, operator]
    derived = ("refined_grid", "profile")
    config = RegionGPTConfig(
        **{k: v for k, v in settings.items() if k not in derived} | {"refinement": variant}
    )
    model = RegionGPTForConditionalGeneration(config)
    for part in ("vision_tower", "language_model"):
        getattr(model.model, part).load_state_dict(getattr(usual.model, part).state_dict())
    grid, pool = config.refined_grid, model.model.pool_regions

    def pool_on_own_grid(refined: Any, region_masks: Any) -> Any:
        # Training masks are made for the deconvolution's grid; area shares of a coarser one are their means.
        factor = region_masks.shape[-1] // grid
        return pool(refined, F.avg_pool2d(region_masks, factor) if factor > 1 else region_masks)

    model.model.pool_regions = pool_on_own_grid  # type: ignore[method-assign]
    return model


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.ablations", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "ablations")
    parser.add_argument("--threads", type=int, default=2)
    what = parser.add_subparsers(dest="what", required=True)
    asked = what.add_parser("prompts", help="guide sentence, single / all / multi-turn, forms of regions")
    asked.add_argument("--model", default="tiny")
    asked.add_argument("--count", type=int, default=150, help="drawn scenes a seed")
    asked.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="blocks of drawn scenes")
    asked.set_defaults(run=prompts)
    trained = what.add_parser("refinement", help="none, bilinear, deconv, residual: trains each")
    trained.add_argument("--parts", type=Path, default=ROOT / "runs" / "tiny", help="--work of train_tiny.sh")
    trained.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    trained.add_argument("--steps", type=int, default=600, help="of each stage of each variant and seed")
    trained.add_argument("--tokens", type=int, default=7000, help="of a training batch")
    trained.add_argument("--count", type=int, default=150, help="held-out scenes")
    trained.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training")
    trained.set_defaults(run=refinement)
    ablations_photographs.add_arguments(
        what.add_parser("photographs", help="refinement, boxes and masks in stage 1 of photo")
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print one table. 0, or 2 and one sentence on stderr."""
    args = build_parser().parse_args(argv)
    args.work = args.work.resolve()
    try:
        print("\n".join(args.run(args)))
    except InputError as problem:
        print(f"ablations: {problem}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as problem:
        return problem.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Train `tiny` (see rgpt/train/tiny/recipe.py), measure it, write its model card, and install it when asked
to."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from rgpt.errors import InputError
from rgpt.files import whole_folder

ROOT = Path(__file__).resolve().parents[1]


def measure(model: Path, seed: int, count: int, out: Path) -> dict:
    """The scores of `eval.run shapes`, run as a command: floors do not import one another."""
    command = [sys.executable, "-m", "eval.run", "shapes", "--model", str(model), "--seed", str(seed)]
    subprocess.run([*command, "--count", str(count), "--out", str(out)], check=True, cwd=ROOT)
    return json.loads((out / "scores.json").read_text())


def revision() -> str:
    """The git revision of the code, or "unknown" outside of a checkout."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.train_tiny", description=__doc__)
    parser.add_argument("--work", type=Path, help="default: runs/tiny, or runs/tiny-smoke")
    parser.add_argument("--smoke", action="store_true", help="every phase once, for tests")
    parser.add_argument("--install", action="store_true", help="put the result into rgpt/model/tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--eval-count", type=int, default=500, help="held-out scenes for the model card")
    args = parser.parse_args(argv)

    from rgpt.train.tiny import recipe

    args.work = args.work or ROOT / "runs" / ("tiny-smoke" if args.smoke else "tiny")
    chosen = replace(recipe.SMOKE if args.smoke else recipe.Recipe(), seed=args.seed)
    try:
        report = recipe.train(args.work, chosen, threads=args.threads)
    except InputError as problem:
        print(f"train_tiny: {problem}", file=sys.stderr)
        return 2
    for stage in ("align", "tune"):
        if stage in report:
            curve = report[stage]["curve"]
            print(f"stage {stage}: loss {curve[0]:.3f} -> {report[stage]['loss']:.3f} in {len(curve)} steps")
    if args.smoke:
        return 0
    scores = measure(args.work / "model", 1, args.eval_count, args.work / "eval")
    card = recipe.write_card(args.work, scores, revision())
    (args.work / "model" / "README.md").write_text(card, encoding="utf-8")
    if args.install:
        target = ROOT / "rgpt" / "model" / "tiny"
        with whole_folder(target, replace=True) as fresh:
            shutil.copytree(args.work / "model", fresh, dirs_exist_ok=True)
        print(f"installed as {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

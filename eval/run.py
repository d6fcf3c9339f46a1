"""`python -m eval.run TASK --model M …`: ask a model, write its predictions, then their scores.

Tasks: shapes (drawn scenes; no data needed).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.tasks import shapes
from eval.tasks.shapes import KINDS
from rgpt.errors import InputError

HEADLINE = (
    "classification", "classification_small", "relation", "yes_no", "referring", "referring_likelihood",
    "no_match",
    "count", "brief_caption", "inside_vocabulary",
)  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def table(scores: dict[str, Any]) -> str:
    """Every figure with the number of its items; the headline first."""
    names = [k for k in HEADLINE if k in scores]
    names += [k for k, v in scores.items() if isinstance(v, float) and k not in names]
    lines = [f"{'':<32}{'share':>8}{'n':>8}"]
    for name in names:
        n = scores.get(f"n_{name}", scores.get("n_referring") if name == "referring_likelihood" else "")
        lines.append(f"{name:<32}{scores[name]:>8.4f}{n!s:>8}")
    lines.append(f"items {scores['n']}, failed {scores['failed']}")
    return "\n".join(lines)


def run_shapes(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from rgpt.chat import ChatSession

    torch.set_num_threads(args.threads)
    session = ChatSession.from_pretrained(args.model)
    with tqdm(total=args.count, desc="shapes", unit="scene", disable=None) as progress:
        only = set(args.only.split(",")) if args.only else None
        rows = list(shapes.predict(session, args.seed, args.count, args.regions, only, progress.update))
    if args.out:
        folder = Path(args.out)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "predictions.jsonl.partial"
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        os.replace(partial, folder / "predictions.jsonl")
    scores = shapes.score(rows)
    scores |= {"protocol": "generated greedily, one question a conversation", "regions": args.regions}
    return scores | {"model": args.model, "seed": args.seed, "scenes": args.count}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.run", description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    verb = tasks.add_parser("shapes", help="drawn scenes that no training run has seen")
    verb.add_argument("--model", default="tiny", help="tiny, a folder, or a hub id")
    verb.add_argument("--seed", type=int, default=0, help="which block of a million scenes")
    verb.add_argument("--count", type=int, default=500, help="scenes; each gets about 14 questions")
    verb.add_argument("--regions", choices=("mixed", "mask", "box"), default="mixed")
    verb.add_argument("--only", help="comma-separated kinds, e.g. classification,relation")
    verb.add_argument("--threads", type=int, default=2)
    verb.add_argument("--json", help="write the scores here")
    verb.add_argument("--out", help="write predictions.jsonl and scores.json into this folder")
    args = parser.parse_args(argv)
    try:
        if args.count < 1 or args.seed < 0:
            raise InputError(
                f"--count {args.count} and --seed {args.seed}: expected at least 1 and at least 0."
            )
        if unknown := set((args.only or "").split(",")) - {"", *KINDS}:
            raise InputError(
                f"--only names {', '.join(sorted(unknown))}: expected some of {', '.join(KINDS)}."
            )
        if args.threads < 1 or args.count > 1_000_000:
            raise InputError(
                f"--threads {args.threads} and --count {args.count}: expected 1 or more, at most 1,000,000."
            )
        for target in filter(None, (args.json, args.out)):
            parent = Path(target) if target == args.out else Path(target).parent
            parent.mkdir(parents=True, exist_ok=True)  # before the work, not after it
        scores = run_shapes(args)
    except (InputError, OSError) as problem:
        print(f"eval: {problem}", file=sys.stderr)
        return 2
    print(table(scores))
    for target in filter(None, (args.json, args.out and str(Path(args.out) / "scores.json"))):
        write_json(Path(target), scores)
    return 0


if __name__ == "__main__":
    sys.exit(main())

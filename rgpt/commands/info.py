"""`rgpt info`: parts, parameters, what trains when, tokens and memory of a model, without loading it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rgpt.cli import OneLineParser
from rgpt.errors import InputError

if TYPE_CHECKING:
    from rgpt.model.sizes import Sizes


def build_parser() -> argparse.ArgumentParser:
    """The parser of `rgpt info`."""
    parser = OneLineParser(
        prog="rgpt info",
        description="Sizes of a model from its configuration; no weights are read, so 7B costs no memory.",
    )
    parser.add_argument(
        "model", help="tiny, a model folder, a hub id, or the configurations paper (7B) and spatialrgpt"
    )
    parser.add_argument(
        "--length",
        type=int,
        metavar="N",
        help="tokens of a conversation, for its keys (default: the context)",
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="conversations at once (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run `rgpt info` and return the exit code."""
    options = build_parser().parse_args(arguments)
    if options.batch < 1:
        raise InputError(f"--batch is {options.batch}: it must be at least 1.")
    from transformers.utils import logging

    from rgpt.model.sizes import check_length, find_config, measure

    logging.set_verbosity_error()
    config = find_config(options.model)
    length = check_length(config, options.length)
    sizes = measure(config)
    report = _report(options.model, sizes, length, options.batch)
    print(json.dumps(report) if options.json else _table(report))
    return 0


def _report(name: str, sizes: Sizes, length: int, batch: int) -> dict[str, Any]:
    from rgpt.train.stages import STAGES

    config: Any = sizes.config
    keys = sizes.keys(length, batch)
    return {
        "model": name,
        "profile": config.profile,
        "tower": config.vision_config.model_type,
        "language_model": config.text_config.model_type,
        "refinement": config.refinement,
        "parameters": {**sizes.parts, "all": sizes.parameters},
        "trained": {
            stage: [part for part in sizes.parts if part in settings.trains]
            for stage, settings in STAGES.items()
        },
        "picture": {
            "pixels": config.image_size,
            "tower_grid": config.vision_grid,
            "refined_grid": config.refined_grid,
            "tokens": config.image_tokens,
        },
        "tokens_per_mention": 1,
        "length": length,
        "batch": batch,
        "context": getattr(config.text_config, "max_position_embeddings", None),
        "bytes": {
            form: {"weights": weights, "keys": keys, "all": weights + keys}
            for form, weights in sizes.weights.items()
        },
    }


def _table(report: dict[str, Any]) -> str:
    stages, counts = report["trained"], report["parameters"]
    lines = [
        f"{report['model']}: profile {report['profile']}, {report['tower']} + {report['language_model']}, "
        f"refinement {report['refinement']}",
        "",
        f"{'part':<18}{'parameters':>15}{'':>8}" + "".join(f"  {stage:<8}" for stage in stages),
    ]
    for part, count in counts.items():
        marks = "".join(f"  {'trained' if part in trains else 'frozen':<8}" for trains in stages.values())
        lines.append(f"{part:<18}{count:>15,}{_short(count):>8}{marks if part != 'all' else ''}".rstrip())
    whole = counts["language_model"] + counts["lm_head"]
    picture = report["picture"]
    tower, refined = picture["tower_grid"], picture["refined_grid"]
    lines += [
        f"language model with its head: {_short(whole)}",
        "",
        f"a picture: {picture['pixels'] or '?'} px square, {tower} x {tower} cells of the tower, refined to "
        f"{refined} x {refined}; {picture['tokens']} tokens",
        f"a region: {report['tokens_per_mention']} token a mention, and the words that write its number",
        "",
        f"memory with {report['batch']} x {report['length']} tokens (context {report['context']}), "
        "without activations:",
        f"{'':<8}{'weights':>12}{'keys':>12}{'together':>12}",
    ]
    for form, sizes in report["bytes"].items():
        lines.append(
            f"{form:<8}" + "".join(f"{_bytes(sizes[key]):>12}" for key in ("weights", "keys", "all"))
        )
    lines.append("8- and 4-bit: linear layers of tower and language model (bitsandbytes); keys in bf16.")
    return "\n".join(lines)


def _short(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.2f}B"
    return f"{count / 1e6:.0f}M" if count >= 1e7 else f"{count / 1e6:.2f}M"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"

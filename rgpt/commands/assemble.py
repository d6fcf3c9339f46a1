"""`rgpt assemble`: published weights become a RegionGPT folder."""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from rgpt.cli import OneLineParser
from rgpt.errors import InputError

EXAMPLES = """\
examples:
  rgpt assemble --llava llava-hf/llava-1.5-7b-hf --out models/llava-region
      exactly LLaVA on pictures without regions; regions work before any training
  rgpt assemble --vision openai/clip-vit-large-patch14-336 --llm lmsys/vicuna-7b-v1.5 --out models/start
      the paper's start: connector and refinement are new and must be trained
  rgpt assemble --vision open_clip:ViT-L-14-336/openai --llm lmsys/vicuna-7b-v1.5 --out models/start
  rgpt assemble --vision facebook/dinov2-small --image-size 336 --llm HuggingFaceTB/SmolLM2-135M-Instruct \
      --merge-grid 8 --out models/small
      a small one: the positions of the tower interpolated to 24 x 24 patches, 64 image tokens
  rgpt assemble --spatialrgpt SpatialRGPT-VILA1.5-8B --out models/spatial

A source is a folder, a hub id, or a hub id with a revision: owner/name@revision.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `rgpt assemble`."""
    parser = OneLineParser(
        prog="rgpt assemble",
        description="Make a RegionGPT folder out of published weights, one shard in memory at a time.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    way = parser.add_argument_group("sources (one of the three ways)")
    way.add_argument("--llava", metavar="SOURCE", help="a LLaVA checkpoint of transformers")
    way.add_argument("--vision", metavar="SOURCE", help="a tower (transformers, timm, open_clip:MODEL/TAG)")
    way.add_argument("--llm", metavar="SOURCE", help="a causal language model; with --vision")
    way.add_argument("--spatialrgpt", metavar="SOURCE", help="a SpatialRGPT folder")
    parser.add_argument("--out", metavar="DIR", required=True, help="a new folder")
    parser.add_argument(
        "--refinement",
        choices=["residual", "deconv", "bilinear", "none"],
        help="default: residual (starts as the identity) with --llava, deconv (the paper's) with --vision",
    )
    parser.add_argument(
        "--merge-grid", type=int, metavar="N", help="image tokens along a side (default: all, N*N in all)"
    )
    parser.add_argument(
        "--region-geometry",
        action="store_true",
        help="add a region's centre and extent to its vector, with --vision",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="side of the pictures in pixels, with --vision (default: the tower's own)",
    )
    parser.add_argument(
        "--vision-layer",
        metavar="N|last",
        help="layer of the tower, with --vision (default: -2; last where the tower offers no layers)",
    )
    parser.add_argument(
        "--chat-template",
        metavar="NAME",
        help="vicuna, llama-3, spatialrgpt, qwen, plain (LLaVA's) or lines (default: told from the source)",
    )
    parser.add_argument(
        "--region-token", default="<region>", metavar="TOKEN", help="the placeholder (default: <region>)"
    )
    parser.add_argument(
        "--region-mention", metavar="TEXT", help="what <region1> becomes (default: '[{number}] <region>')"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="default: as stored",
    )
    parser.add_argument("--max-shard-size", default="2GB", metavar="SIZE", help="default: 2GB")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of new layers (default: 0)")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run `rgpt assemble` and return the exit code."""
    given = build_parser().parse_args(arguments)
    ways = [bool(given.llava), bool(given.vision or given.llm), bool(given.spatialrgpt)]
    if sum(ways) != 1 or bool(given.vision) != bool(given.llm):
        raise InputError("give exactly one of --llava, --vision with --llm, and --spatialrgpt.")
    if given.merge_grid is not None and given.merge_grid < 1:
        raise InputError(f"--merge-grid is {given.merge_grid}: it must be at least 1.")
    if given.image_size is not None and given.image_size < 1:
        raise InputError(f"--image-size is {given.image_size}: it must be at least 1.")
    layer = given.vision_layer
    if layer not in (None, "last"):
        try:
            layer = int(layer)
        except ValueError:
            raise InputError(f"--vision-layer is {layer!r}: give a number such as -2, or last.") from None
    if given.spatialrgpt and given.refinement not in (None, "deconv"):
        raise InputError("--refinement cannot be chosen with --spatialrgpt: its weights are a deconv's.")
    from transformers.utils import logging

    from rgpt.model import assemble

    logging.set_verbosity_error()
    options = assemble.Options(
        refinement=given.refinement,
        merge_grid=given.merge_grid,
        region_geometry=given.region_geometry,
        image_size=given.image_size,
        vision_layer=layer,
        chat_template=given.chat_template,
        region_token=given.region_token,
        region_mention=given.region_mention,
        dtype=given.dtype,
        max_shard_size=given.max_shard_size,
        seed=given.seed,
    )
    if given.llava:
        done = assemble.assemble_llava(given.llava, given.out, options)
    elif given.spatialrgpt:
        done = assemble.assemble_spatialrgpt(given.spatialrgpt, given.out, options)
    else:
        done = assemble.assemble_parts(given.vision, given.llm, given.out, options)
    print(f"{done.folder}: {done.tensors} tensors, {done.bytes / 1e9:.3f} GB")
    parts = sorted({name.split(".")[1] for name in done.fresh})
    print(f"new, to be trained: {', '.join(parts) or 'nothing'}; source keys left out: {done.ignored}")
    print(
        f"largest shard written {done.largest_shard / 1e6:.0f} MB; "
        f"peak memory of the whole process {peak_memory() / 1e6:.0f} MB"
    )
    return 0


def peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    try:
        # Unlike ru_maxrss, which a child inherits from a large parent, this starts anew with the program.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

"""One region against many, for every recognizer, and the size of what RegionSpot trains.

Every recognizer is asked about all regions of a picture in one call, picture and vocabulary included, as
`rgpt recognize` does it. 1 and N regions are asked in turns in the same process, so their ratio does not
depend on how fast the machine is. Weights are random, networks small; `--size base` has the published shapes:
CLIP ViT-B/16, RegionSpot Lite with SAM-B at 1024, RegionCLIP RN50 at 800, RO-ViT B/16 at 1024.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scripts.measuring import Figure, add_repeats, add_threads

if TYPE_CHECKING:
    from rgpt.recognizers.base import RegionRecognizer
    from rgpt.regions import Region

AT_MOST = 3.0
CROPS = ("clip-crop", "clip-masked-crop")
"""One pass of CLIP a region: the price grows with the regions, which is what the others avoid."""
SIDE = 640
NAMES = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`python -m scripts.bench recognizers`."""
    parser.add_argument("--size", choices=("tiny", "base"), default="tiny", help="widths and depths")
    parser.add_argument("--regions", type=int, default=100, metavar="N", help="compared with one region")
    parser.add_argument("--only", help="comma-separated names of recognizers")
    parser.add_argument("--device", help="default: the first GPU, or the CPU")
    add_repeats(parser, 3)
    add_threads(parser)
    parser.set_defaults(run=bench_recognizers)


def bench_recognizers(options: argparse.Namespace) -> list[Figure]:
    """Parameter counts on stdout, then the times."""
    import torch

    from rgpt.model.device import device_of

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = device_of(options.device)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}", file=sys.stderr)
    print(parameter_table())
    known = configs(options.size)
    chosen = options.only.split(",") if options.only else list(known)
    if unknown := sorted(set(chosen) - set(known)):
        raise SystemExit(f"bench: --only names {', '.join(unknown)}: expected some of {', '.join(known)}.")
    figures: list[Figure] = []
    for name in chosen:
        print(f"{name} …", file=sys.stderr)
        figures += measure(name, build(*known[name]).to(device), options.regions, options.repeats)
    return figures


# ------------------------------------------------------------------------------------------- parameters


def parameter_table() -> str:
    """What each variant of RegionSpot trains beside what its paper says, and RegionCLIP's visual encoders."""
    import torch

    from rgpt.recognizers.regionclip import CONFIGS, visual_parameters
    from rgpt.recognizers.regionspot import PAPER_PARAMETERS_PRO, VARIANTS, build_head

    lines = []
    for variant, (width, dim, tower, side) in VARIANTS.items():
        with torch.device("meta"):
            count = sum(p.numel() for p in build_head(variant).parameters())
        about = f"CLIP {tower} at {side}, {width} -> {dim}"
        said = f"; the paper says {PAPER_PARAMETERS_PRO / 1e6:.0f} M" if variant == "pro" else ""
        lines.append(f"RegionSpot {variant:<7} trains {count:>11,} ({about}){said}")
    for name in CONFIGS:
        total, trained = visual_parameters(name)
        lines.append(f"RegionCLIP {name:<7} trains {trained:>11,} of {total:,} in the image encoder")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------- times


def configs(size: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Recognizers by name: (kind, config) with text as word sums, because texts are embedded once."""
    base = size == "base"
    vision: dict[str, Any] = {
        "hidden_size": 768 if base else 48,
        "intermediate_size": 3072 if base else 96,
        "num_hidden_layers": 12 if base else 2,
        "num_attention_heads": 12 if base else 4,
        "image_size": 224 if base else 32,
        "patch_size": 16 if base else 8,
        "projection_dim": 512 if base else 24,
    }
    clip = {"library": "transformers", "vision": vision, "text": "words"}
    resnet = {
        "library": "open_clip",
        "embed_dim": 1024 if base else 24,
        "vision_cfg": {
            "layers": [3, 4, 6, 3] if base else [1, 1, 1, 1],
            "width": 64 if base else 8,
            "head_width": 64 if base else 16,
            "image_size": 224 if base else 64,
        },
        "text": "words",
    }
    rovit = {"detection_size": 1024 if base else 64, "templates": "bare"}
    if not base:
        rovit |= {"image_size": 32, "patch": 8, "width": 24, "depth": 2, "heads": 2, "window": 4}
    sides = {"short_side": 800, "longest_side": 1333} if base else {"short_side": 64, "longest_side": 128}
    shared = {"templates": "bare"}
    return {
        "clip-crop": ("clip", {"clip": clip, "mode": "crop", **shared}),
        "clip-masked-crop": ("clip", {"clip": clip, "mode": "masked-crop", **shared}),
        "clip-pooled": ("clip", {"clip": clip, "mode": "pooled", **shared}),
        "regionspot": ("regionspot", {"sam": sam(base), "clip": clip, **shared}),
        "regionclip": ("regionclip", {"clip": resnet, **sides, **shared}),
        "rovit": ("rovit", rovit),
    }


def sam(base: bool) -> dict[str, Any]:
    """SAM-B as published, or a small one."""
    if base:
        return {"vision_config": {}, "prompt_encoder_config": {}, "mask_decoder_config": {}}
    vision = {
        "hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 16,
        "mlp_dim": 64,
    }  # fmt: skip
    prompts = {"hidden_size": 32, "image_size": 64, "patch_size": 8, "mask_input_channels": 8}
    decoder = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
    return {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": decoder}


def build(kind: str, config: dict[str, Any]) -> RegionRecognizer:
    """A recognizer with random weights."""
    import torch

    from rgpt.recognizers.loading import build_recognizer

    torch.manual_seed(0)
    return build_recognizer(kind, config)


def measure(name: str, recognizer: RegionRecognizer, count: int, repeats: int) -> Iterator[Figure]:
    """Milliseconds of one call with 1 and with `count` regions, and the ratio, asked in turns."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (SIDE * 3 // 4, SIDE, 3), dtype=np.uint8))
    regions = boxes(count, image.height, image.width)
    names = [f"thing {i}" for i in range(NAMES)]

    def ask(own: list[Region]) -> float:
        began = time.perf_counter()
        found = recognizer.recognize([image], [own], names)[0]
        assert found.probs.cpu().shape == (len(own), NAMES)  # .cpu() also waits for a GPU
        return time.perf_counter() - began

    ask(regions[:1])  # the first call embeds the vocabulary and chooses kernels
    one, many = [], []
    for _ in range(repeats):
        one.append(ask(regions[:1]))
        many.append(ask(regions))
    bound = None if name in CROPS else AT_MOST
    yield Figure(f"{name}, 1 region", "ms", [1000 * s for s in one])
    yield Figure(f"{name}, {count} regions", "ms", [1000 * s for s in many])
    yield Figure(f"{name}, ratio", "times", [m / o for o, m in zip(one, many, strict=True)], at_most=bound)


def boxes(count: int, height: int, width: int) -> list[Region]:
    """Boxes of objects' sizes anywhere in a picture."""
    import numpy as np

    from rgpt.regions import Box

    rng = np.random.default_rng(1)
    found: list[Region] = []
    for _ in range(count):
        w, h = rng.uniform(0.05, 0.5, 2) * (width, height)
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        found.append(Box(float(x), float(y), float(x + w), float(y + h)))
    return found

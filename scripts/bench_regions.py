"""Many regions of one picture: seconds a region one by one against `ask_many`, and pooling of many masks.

One by one is what is usually done: for every region the picture is encoded again and one prompt is answered.
Ours encodes the picture once, reads the shared prompt once and answers all regions in one pass. Both run in
turns in the same process, on the same questions, and their answers are compared.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scripts.measuring import Figure, add_repeats, add_threads

if TYPE_CHECKING:
    import torch

    from rgpt.chat import ChatSession
    from rgpt.regions import Region

COUNTS = (1, 4, 16, 64)
QUESTION = "What is <region1>? Answer the question using shape category names."
MASKS, HEIGHT, WIDTH, GRID, CHANNELS = 64, 480, 640, 96, 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`python -m scripts.bench regions`."""
    parser.add_argument("--model", default="tiny", help="a model, or random-7b: the 7B shape, random weights")
    parser.add_argument("--device", help="default: the first GPU, or the CPU")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--question", default=QUESTION, help="<region1> is each region in turn")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    add_repeats(parser)
    add_threads(parser)
    parser.set_defaults(run=bench_regions)


def bench_regions(options: argparse.Namespace) -> list[Figure]:
    """Both measurements."""
    import torch

    from rgpt.model.device import device_of

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = device_of(options.device)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {_name(device)}", file=sys.stderr)
    figures = list(measure_answers(options, device))
    return figures + list(measure_pooling(options.repeats, device))


def _name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


# ---------------------------------------------------------------------------------------------- answers


def measure_answers(options: argparse.Namespace, device: str) -> Iterator[Figure]:
    """Seconds a region and their ratio at `COUNTS` regions."""
    opened = open_model(options.model, device, options.dtype)
    image, every = regions_of_a_scene(max(COUNTS))
    asked = {"question": options.question, "max_new_tokens": options.max_new_tokens}
    compare = Comparison(*opened, image, asked, options.repeats, device)
    compare.warm_up(every[:2])
    for count in COUNTS:
        yield from compare(every[:count], at_least=8.0 if count == 16 else None)


@dataclass(frozen=True)
class Comparison:
    """The same question about many regions of one picture, one by one and with `ask_many`.

    Args:
        picture: as `ChatSession.set_image` takes it.
        asked: the question, in which `<region1>` is each region in turn, and options of `ask`.
        encode_once: one by one, too, the picture is encoded for the first region only.
    """

    network: Any
    processor: Any
    picture: Any
    asked: Mapping[str, Any]
    repeats: int
    device: str
    encode_once: bool = False

    def warm_up(self, regions: Sequence[Region]) -> None:
        """The first run pays for allocating and for choosing kernels."""
        self._one_by_one(regions), self._together(regions)

    def __call__(self, regions: Sequence[Region], at_least: float | None = None) -> Iterator[Figure]:
        """Milliseconds a region of either way, and how many times faster `ask_many` is."""
        count, slow, fast, same = len(regions), list[float](), list[float](), True
        for _ in range(self.repeats):
            # In turns, so that whatever else the machine does meets both.
            before, seconds = timed(lambda: self._one_by_one(regions), self.device)
            slow.append(seconds / count)
            after, seconds = timed(lambda: self._together(regions), self.device)
            fast.append(seconds / count)
            same &= before == after
        verdict = "the same answers" if same else "ANSWERS DIFFER"
        yield Figure(f"{count} regions, one by one", "ms/region", [s * 1000 for s in slow])
        yield Figure(f"{count} regions, ask_many", "ms/region", [s * 1000 for s in fast])
        ratios = [s / f for s, f in zip(slow, fast, strict=True)]
        yield Figure(f"{count} regions, {verdict}", "times", ratios, at_least=at_least)

    def _session(self) -> ChatSession:
        from rgpt.chat import ChatSession

        session = ChatSession(self.network, self.processor)
        session.set_image(self.picture)
        return session

    def _one_by_one(self, regions: Sequence[Region]) -> list[str]:
        answers = []
        session = self._session()
        for n, region in enumerate(regions):
            if n:
                session = session.another() if self.encode_once else self._session()
            session.add_region(region)
            answers.append(session.ask(**self.asked))
        return answers

    def _together(self, regions: Sequence[Region]) -> list[str]:
        session = self._session()
        for region in regions:
            session.add_region(region)
        return list(session.ask_many(as_number=1, **self.asked).values())


def regions_of_a_scene(count: int) -> tuple[Any, list[Region]]:
    """A drawn scene's picture, and boxes and masks of its objects: each box a little moved or stretched."""
    from rgpt.data.scenes import draw_scene
    from rgpt.regions import Box, Mask

    scene, rng = draw_scene(3_000_000_001, 3.0, 5, 6), random.Random(0)
    regions: list[Region] = [Mask(o.mask) for o in scene.objects]
    while len(regions) < count:
        box = rng.choice(scene.objects).box
        x1, y1, x2, y2 = (v + rng.uniform(-4, 4) for v in box.xyxy)
        regions.append(Box(x1, y1, x2, y2))
    return scene.image, regions[:count]


def open_model(name: str, device: str, dtype: str | None) -> tuple[Any, Any]:
    """A model and its processor; `random-7b` is the default configuration with random weights."""
    import torch

    from rgpt.model import load

    if name != "random-7b":
        return load(name, dtype=dtype, device=device)
    from transformers import PreTrainedTokenizerFast

    from rgpt.model import RegionGPTConfig, RegionGPTForConditionalGeneration, RegionGPTProcessor
    from rgpt.model.loading import TINY

    # The words of tiny under 7B weights: what is said means nothing, how long it takes does.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TINY)
    ids = tokenizer.convert_tokens_to_ids(["<image>", "<region>"])
    config = RegionGPTConfig(image_token_id=ids[0], region_token_id=ids[1])
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype or "bfloat16"))
    try:
        with torch.device(device):
            model = RegionGPTForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, RegionGPTProcessor.for_model(config, tokenizer, "lines")


def timed(work: Callable[[], Any], device: str) -> tuple[Any, float]:
    """What `work` returns, and its seconds; work queued on a GPU is waited for."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    wait()
    start = time.perf_counter()
    result = work()
    wait()
    return result, time.perf_counter() - start


# ---------------------------------------------------------------------------------------------- pooling


def measure_pooling(repeats: int, device: str) -> Iterator[Figure]:
    """64 masks of 640 x 480 pooled on a 96 x 96 grid of 1024 channels, and the peak memory of either way.

    Usual: in each forward every full mask goes to the grid's size by bilinear resampling, one region at a
    time. Ours: area weights, computed once when the regions are given, then one product for all.
    """
    import numpy as np
    import torch
    import torch.nn.functional as F

    from rgpt.model.projection import pool_regions
    from rgpt.regions import area_weights, square_padding

    generator = np.random.default_rng(0)
    masks = np.zeros((MASKS, HEIGHT, WIDTH), bool)
    for mask in masks:
        h, w = generator.integers(20, HEIGHT // 2), generator.integers(20, WIDTH // 2)
        y, x = generator.integers(0, HEIGHT - h), generator.integers(0, WIDTH - w)
        mask[y : y + h, x : x + w] = True
    torch.manual_seed(0)
    refined = torch.randn(1, CHANNELS, GRID, GRID, device=device)
    side, offset = square_padding(HEIGHT, WIDTH)
    full = torch.from_numpy(masks).to(device)

    def usual() -> torch.Tensor:
        vectors = []
        for mask in full:
            square = F.pad(mask[None, None].float(), (0, 0, offset[1], side - HEIGHT - offset[1]))
            weights = F.interpolate(square, (GRID, GRID), mode="bilinear", align_corners=False)[0, 0]
            vectors.append((refined[0] * weights).sum((1, 2)) / weights.sum().clamp_min(1e-6))
        return torch.stack(vectors)

    def once() -> torch.Tensor:
        return torch.from_numpy(np.stack([area_weights(m, side, offset, GRID) for m in masks]))[None].to(
            device
        )

    weights = once()

    def ours() -> torch.Tensor:
        return pool_regions(refined, weights)[0]

    with torch.inference_mode():
        unlike = (usual() - ours()).abs().max()
        print(
            f"largest difference of a pooled value: {unlike:.3f} (bilinear against area weights)",
            file=sys.stderr,
        )
        slow, fast, made = [], [], []
        for _ in range(repeats):
            slow.append(timed(usual, device)[1])
            fast.append(timed(ours, device)[1])
            made.append(timed(once, device)[1])
        yield Figure("pooling, resize and loop", "ms", [s * 1000 for s in slow])
        yield Figure("pooling, one product", "ms", [s * 1000 for s in fast])
        yield Figure("pooling, ratio", "times", [s / f for s, f in zip(slow, fast, strict=True)], at_least=10)
        yield Figure("area weights, once a region set", "ms", [s * 1000 for s in made])
        both = [s / (f + m) for s, f, m in zip(slow, fast, made, strict=True)]
        yield Figure("ratio with the weights counted in", "times", both)
        yield Figure("peak memory, resize and loop", "MiB", [peak_mib(usual, device)])
        yield Figure("peak memory, one product", "MiB", [peak_mib(ours, device)])


def peak_mib(work: Callable[[], Any], device: str) -> float:
    """How much more memory is in use while `work` runs, at most: of the GPU, or of this process (sampled)."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    stop = threading.Event()
    before = peak = _resident()

    def watch() -> None:
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, _resident())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    stop.set()
    watcher.join()
    return max(0, peak - before) / 2**20


def _resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * 4096

"""How fast and how large `rgpt chat` is: first token, tokens a second, start-up times, peak memory.

    python -m scripts.bench chat [--model tiny] [--repeats 5] [--threads N] [--json FILE]

What concerns a whole process (imports, memory) is measured first, while this process is still small: Linux
counts the parent's peak memory towards a child's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.measuring import Figure, Timing, add_repeats, add_threads, run_process, time_stream

if TYPE_CHECKING:
    from PIL import Image

    from rgpt.regions import Region

QUESTION = "Describe <region1> in detail."
MAX_NEW_TOKENS = 128
LARGE = (4000, 3000)
"""Width and height of a photograph of 12 megapixels."""
IMPORT_RGPT = "import time; t = time.perf_counter(); import rgpt; print(time.perf_counter() - t)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`python -m scripts.bench chat`."""
    parser.add_argument("--model", default="tiny", help="as for `rgpt chat` (default: tiny)")
    add_repeats(parser)
    add_threads(parser)
    parser.set_defaults(run=bench_chat)


def measure_processes(model: str, repeats: int) -> Iterator[Figure]:
    """Import time, start-up time and the memory of a whole `rgpt chat`, each from fresh processes."""
    rgpt = [sys.executable, "-m", "rgpt.cli"]
    run_process([sys.executable, "-c", IMPORT_RGPT])  # the first run writes the bytecode files
    imports = [float(run_process([sys.executable, "-c", IMPORT_RGPT])[2]) for _ in range(repeats)]
    yield Figure("import rgpt", "s", imports, at_most=0.3)
    starts = [run_process([*rgpt, "--help"])[0] for _ in range(repeats)]
    yield Figure("rgpt --help", "s", starts, at_most=0.5)

    with tempfile.TemporaryDirectory() as folder:
        picture, mask = Path(folder) / "scene.png", Path(folder) / "mask.png"
        # Drawn by another process, so that nothing it needs is loaded, and counted, in this one.
        draw = f"from scripts.bench_chat import save_scene; save_scene({str(picture)!r}, {str(mask)!r})"
        run_process([sys.executable, "-c", draw])
        yield from measure_chat(model, picture, f"mask:{mask}", repeats, most_mib=1024)


def measure_chat(model: str, picture: Path, region: str, repeats: int, most_mib: float) -> Iterator[Figure]:
    """Whole processes that answer one question: seconds from the command to its end, and peak memory.

    Args:
        region: as `rgpt chat --region` takes it.
    """
    command = [sys.executable, "-m", "rgpt.cli", "chat", "--model", model, "--image", str(picture)]
    runs = [run_process([*command, "--region", region, "--ask", QUESTION]) for _ in range(repeats)]
    yield Figure("rgpt chat, whole process", "s", [seconds for seconds, _, _ in runs])
    yield Figure("rgpt chat, peak memory", "MiB", [kib / 1024 for _, kib, _ in runs], at_most=most_mib)


def draw(seed: int) -> tuple[Image.Image, Region]:
    """A drawn scene and the mask of its first object."""
    from rgpt.data.scenes import draw_scene
    from rgpt.regions import Mask

    scene = draw_scene(seed)
    return scene.image, Mask(scene.objects[0].mask)


def save_scene(picture: str, mask: str, seed: int = 0) -> None:
    """Write a drawn scene and the mask of its first object (white inside) as PNG files."""
    from PIL import Image

    image, region = draw(seed)
    image.save(picture)
    Image.fromarray(region.to_mask(image.height, image.width)).save(mask)


def open_with_threads(model: str, threads: int | None) -> tuple[Any, Any]:
    """`rgpt.model.load` with so many torch threads, and a line on stderr that says how many."""
    import torch

    from rgpt.model import load

    if threads is not None:
        torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", file=sys.stderr)
    return load(model)


def measure_answers(
    network: Any,
    processor: Any,
    show: Callable[[int], tuple[Any, Region]],
    repeats: int,
    *,
    most_ms: float,
    least_rate: float,
) -> Iterator[Figure]:
    """First token and token rate in one process with the model loaded.

    In each conversation two turns are timed: on a picture just set (its encoding included), on the same one.

    Args:
        show: of the conversation's number, its picture (as `ChatSession.set_image` takes it) and a region.
        most_ms: bound of the first token, milliseconds.
        least_rate: bound of the tokens after it, tokens/s.
    """
    from rgpt.chat import ChatSession

    def count_tokens(text: str) -> int:
        return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def conversation(number: int) -> tuple[Timing, Timing]:
        session = ChatSession(network, processor)
        picture, region = show(number)

        def whole() -> Iterator[str]:
            # A generator, so that setting the picture happens inside the timed stretch.
            session.set_image(picture)
            session.add_region(region)
            yield from session.stream(QUESTION, max_new_tokens=MAX_NEW_TOKENS)

        new = time_stream(whole(), count_tokens)
        return new, time_stream(session.stream(QUESTION, max_new_tokens=MAX_NEW_TOKENS), count_tokens)

    conversation(0)  # the first run of a process pays for allocating and for choosing kernels
    timings = [conversation(number) for number in range(1, repeats + 1)]
    for what, firsts in (
        ("new", [new.first * 1000 for new, _ in timings]),
        ("same", [same.first * 1000 for _, same in timings]),
    ):
        yield Figure(f"first token, {what} picture", "ms", firsts, at_most=most_ms)
    rates = [t.later_tokens / t.later_seconds for pair in timings for t in pair if t.later_tokens]
    if rates:
        yield Figure("tokens after the first", "tokens/s", rates, at_least=least_rate)
    else:
        print("bench: every answer came in one piece, so there is no rate to give.", file=sys.stderr)


def measure_large_picture(network: Any, processor: Any, repeats: int) -> Iterator[Figure]:
    """What a question about a picture of 12 megapixels costs before anything is computed of it.

    That is, from `ask` to the first forward pass of the language model: of a region that was asked about
    before, and of a new one, each as a box and as a mask.
    """
    from rgpt.chat import ChatSession
    from rgpt.regions import Box, Mask

    started: list[float] = []
    hook = network.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))
    width, height = LARGE
    for kind in ("box", "mask"):
        session = ChatSession(network, processor)
        session.set_image(draw(0)[0].resize(LARGE))
        waits: dict[str, list[float]] = {"new": [], "known": []}
        for turn in range(repeats):
            box = Box(40 + turn, 40, width // 2, height // 2)
            number = session.add_region(box if kind == "box" else Mask(box.to_mask(height, width)))
            for words, state in (("What is", "new"), ("What colour is", "known"), ("How large is", "known")):
                started.clear()
                session.turns = []
                begun = time.perf_counter()
                session.ask(f"{words} <region{number}>?", max_new_tokens=1)
                waits[state].append(1000 * (started[0] - begun))
        for state, values in waits.items():
            yield Figure(f"12 MP, {state} {kind}, to first pass", "ms", values)
    hook.remove()


def bench_chat(options: argparse.Namespace) -> list[Figure]:
    """Everything about `rgpt chat`, in the order in which it must be measured."""
    figures = list(measure_processes(options.model, options.repeats))
    opened = open_with_threads(options.model, options.threads)
    figures += measure_large_picture(*opened, options.repeats)
    return figures + list(measure_answers(*opened, draw, options.repeats, most_ms=150, least_rate=100))

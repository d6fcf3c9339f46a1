"""How fast and how large `rgpt chat` is, measured now on this machine.

    python -m scripts.bench chat [--model tiny] [--repeats 5] [--threads N] [--json FILE]

Every figure is measured several times and printed as minimum, median and maximum; nothing is remembered from
an earlier run. What concerns a whole process (imports, memory) is measured first, while this process is still
small: Linux counts the parent's peak memory towards a child's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

    from rgpt.chat import ChatSession
    from rgpt.regions import Region

QUESTION = "Describe <region1> in detail."
MAX_NEW_TOKENS = 128
IMPORT_RGPT = "import time; t = time.perf_counter(); import rgpt; print(time.perf_counter() - t)"


class Figure(NamedTuple):
    """One measured quantity and the bound the project promises for it."""

    name: str
    unit: str
    values: list[float]
    at_most: float | None = None
    at_least: float | None = None

    def row(self) -> str:
        """Name, minimum, median, maximum, unit and whether the median keeps the promise."""
        low, median, high = min(self.values), statistics.median(self.values), max(self.values)
        verdict = ""
        if self.at_most is not None:
            verdict = f"≤ {self.at_most:g}: {'yes' if median <= self.at_most else 'NO'}"
        elif self.at_least is not None:
            verdict = f"≥ {self.at_least:g}: {'yes' if median >= self.at_least else 'NO'}"
        return f"{self.name:<34}{low:>10.4g}{median:>10.4g}{high:>10.4g}  {self.unit:<9}{verdict}".rstrip()


class Timing(NamedTuple):
    """One streamed answer: seconds to its first text, tokens after that text and the seconds they took."""

    first: float
    later_tokens: int
    later_seconds: float


def time_stream(
    stream: Iterable[str], count_tokens: Callable[[str], int], clock: Callable[[], float] = time.perf_counter
) -> Timing:
    """Drain a stream of text deltas.

    The tokens of the first delta are not in the rate: the time to the first token has paid for them.
    """
    start = clock()
    first_at = last_at = start
    first_delta, answer = "", ""
    for delta in stream:
        if not delta:
            continue
        last_at = clock()
        if not answer:
            first_at, first_delta = last_at, delta
        answer += delta
    if not answer:
        raise SystemExit("bench: the model answered nothing, so there is no first token to time.")
    later = max(0, count_tokens(answer) - count_tokens(first_delta))
    return Timing(first_at - start, later, last_at - first_at)


def run_process(command: Sequence[str]) -> tuple[float, int, str]:
    """Run a command to its end: wall seconds, peak resident memory in KiB, stdout.

    Raises:
        SystemExit: the command failed; its stderr is shown.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        # wait4 rather than wait: it returns what this one child used, not the sum over all children.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            err.seek(0)
            raise SystemExit(f"bench: {' '.join(command)} failed:\n{err.read().decode(errors='replace')}")
        out.seek(0)
        kib = usage.ru_maxrss // 1024 if sys.platform == "darwin" else usage.ru_maxrss
        return seconds, kib, out.read().decode()


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
        draw = f"from scripts.bench import save_scene; save_scene({str(picture)!r}, {str(mask)!r})"
        run_process([sys.executable, "-c", draw])
        command = [*rgpt, "chat", "--model", model, "--image", str(picture), "--region", f"mask:{mask}"]
        runs = [run_process([*command, "--ask", QUESTION]) for _ in range(repeats)]
    yield Figure("rgpt chat, whole process", "s", [seconds for seconds, _, _ in runs])
    yield Figure("rgpt chat, peak memory", "MiB", [kib / 1024 for _, kib, _ in runs], at_most=1024)


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


def measure_answers(model: str, repeats: int, threads: int | None) -> Iterator[Figure]:
    """First token and token rate in one process with the model loaded.

    In each conversation two turns are timed: on a picture just set (its encoding included), on the same one.
    """
    import torch

    from rgpt.chat import ChatSession
    from rgpt.model import load

    if threads is not None:
        torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", file=sys.stderr)
    network, processor = load(model)

    def count_tokens(text: str) -> int:
        return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def conversation(seed: int) -> tuple[Timing, Timing]:
        session: ChatSession = ChatSession(network, processor)
        image, region = draw(seed)

        def whole() -> Iterator[str]:
            # A generator, so that setting the picture happens inside the timed stretch.
            session.set_image(image)
            session.add_region(region)
            yield from session.stream(QUESTION, max_new_tokens=MAX_NEW_TOKENS)

        new = time_stream(whole(), count_tokens)
        return new, time_stream(session.stream(QUESTION, max_new_tokens=MAX_NEW_TOKENS), count_tokens)

    conversation(0)  # the first run of a process pays for allocating and for choosing kernels
    timings = [conversation(seed) for seed in range(1, repeats + 1)]
    yield Figure("first token, new picture", "ms", [new.first * 1000 for new, _ in timings], at_most=150)
    yield Figure("first token, same picture", "ms", [same.first * 1000 for _, same in timings], at_most=150)
    rates = [t.later_tokens / t.later_seconds for pair in timings for t in pair if t.later_tokens]
    if rates:
        yield Figure("tokens after the first", "tokens/s", rates, at_least=100)
    else:
        print("bench: every answer came in one piece, so there is no rate to give.", file=sys.stderr)


def bench_chat(options: argparse.Namespace) -> list[Figure]:
    """Everything about `rgpt chat`, in the order in which it must be measured."""
    return [
        *measure_processes(options.model, options.repeats),
        *measure_answers(options.model, options.repeats, options.threads),
    ]


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m scripts.bench`."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description=__doc__.splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    chat = what.add_parser("chat", help="first token, tokens/s, start-up times, peak memory")
    chat.add_argument("--model", default="tiny", help="as for `rgpt chat` (default: tiny)")
    chat.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="how often each is measured (default: 5)"
    )
    chat.add_argument("--threads", type=int, metavar="N", help="torch threads (default: torch's own choice)")
    chat.add_argument("--json", type=Path, metavar="FILE", help="also write every single value")
    chat.set_defaults(run=bench_chat)

    # Here, because they import this module.
    from scripts import bench_recipes, bench_recognizers, bench_regions, bench_serve, bench_train

    bench_train.add_arguments(what.add_parser("train", help="training speed beside LLaVA's, ms by part"))
    bench_serve.add_arguments(what.add_parser("serve", help="first text over HTTP, turn 2 against turn 1"))
    bench_recipes.add_arguments(what.add_parser("recipes", help="rate and peak memory of a data recipe"))
    bench_regions.add_arguments(what.add_parser("regions", help="many regions at once, pooling masks"))
    bench_recognizers.add_arguments(
        what.add_parser("recognizers", help="one region against 100, what RegionSpot trains")
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, return 0: a missed bound is printed, never an error."""
    options = build_parser().parse_args(arguments)
    if options.repeats < 1:
        raise SystemExit(f"bench: --repeats must be at least 1, not {options.repeats}.")
    figures: list[Figure] = options.run(options)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; {options.repeats} runs each")
    print(f"{'':<34}{'min':>10}{'median':>10}{'max':>10}")
    for figure in figures:
        print(figure.row())
    if options.json:
        report: dict[str, Any] = {figure.name: figure._asdict() for figure in figures}
        part = options.json.with_name(options.json.name + ".part")
        part.write_text(
            json.dumps({"machine": machine, "figures": report}, indent=1, ensure_ascii=False) + "\n"
        )
        os.replace(part, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

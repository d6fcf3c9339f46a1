"""What one waits for with `photo`: the app's start, first token, tokens a second, a table. And its memory.

    python -m scripts.bench photo [--model photo] [--repeats 5] [--threads N] [--json FILE]

Pictures are the photographs that the app shows, at their own size. Processes come first, while this one is
still small (see `scripts.bench_chat`).
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.bench_chat import measure_answers, measure_chat, open_with_threads
from scripts.bench_regions import Comparison
from scripts.measuring import Figure, add_repeats, add_threads

if TYPE_CHECKING:
    from rgpt.regions import Region

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = sorted((ROOT / "app" / "static" / "photographs").glob("*.jpg"))
TABLE = 4
"""Regions along each side of a photograph: a table of 16."""
TABLE_QUESTION = "What is <region1>?"
PATIENCE = 300.0
"""Seconds after which a page that has not answered is given up."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`python -m scripts.bench photo`."""
    parser.add_argument("--model", default="photo", help="as for `rgpt chat` (default: photo)")
    add_repeats(parser)
    add_threads(parser)
    parser.set_defaults(run=bench_photo)


def bench_photo(options: argparse.Namespace) -> list[Figure]:
    """Everything, in the order in which it must be measured."""
    model, repeats = options.model, options.repeats
    figures = list(measure_chat(model, PHOTOGRAPHS[0], "box:60,60,240,240", repeats, most_mib=2560))
    figures.append(measure_app(model, repeats))
    return figures + list(measure_session(*open_with_threads(model, options.threads), repeats))


def measure_session(network: Any, processor: Any, repeats: int) -> Iterator[Figure]:
    """First token and token rate; a table of many regions against asking about one after the other."""
    yield from measure_answers(network, processor, photograph, repeats, most_ms=1500, least_rate=12)
    picture = PHOTOGRAPHS[0]
    asked = {"question": TABLE_QUESTION, "max_new_tokens": 32}
    regions = tiles(picture, TABLE)
    compare = Comparison(network, processor, picture, asked, repeats, str(network.device), encode_once=True)
    compare.warm_up(regions[:2])
    yield from compare(regions, at_least=4)  # the table in at most a quarter of the time


def photograph(number: int) -> tuple[Path, Region]:
    """One of the photographs, and the box in its middle."""
    picture = PHOTOGRAPHS[number % len(PHOTOGRAPHS)]
    return picture, tiles(picture, 3)[4]


def tiles(picture: Path, side: int) -> list[Region]:
    """side x side boxes that cover a picture, in reading order."""
    from PIL import Image

    from rgpt.regions import Box

    with Image.open(picture) as opened:
        w, h = opened.width / side, opened.height / side
    return [Box(x * w, y * h, (x + 1) * w, (y + 1) * h) for y in range(side) for x in range(side)]


# --------------------------------------------------------------------------------------------------- the app


def measure_app(model: str, repeats: int) -> Figure:
    """Seconds from the command until the page answers: of demo.sh, or without set-up of what it starts."""
    check = ["bash", str(ROOT / "scripts" / "setup.sh"), "--check", "app"]
    name, command = "demo.sh, until it serves", ["bash", str(ROOT / "scripts" / "demo.sh")]
    if subprocess.run(check, check=False).returncode:
        name, command = "app.main, until it serves", [sys.executable, "-m", "app.main"]
        print("bench: demo.sh would have to set up first, so what it starts is measured.", file=sys.stderr)
    starts = []
    for _ in range(repeats):
        port = free_port()
        starts.append(seconds_to_page([*command, "--model", model, "--port", str(port)], port))
    return Figure(name, "s", starts, at_most=25)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def seconds_to_page(command: Sequence[str], port: int) -> float:
    """Start a server, wait until GET / is answered with 200, stop it and whatever it started.

    Raises:
        SystemExit: it ended, or `PATIENCE` did; its stderr is shown.
    """
    with tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=err, start_new_session=True
        )
        try:
            while not (answered := answers(port)) and process.poll() is None:
                if time.perf_counter() - start > PATIENCE:
                    break
                time.sleep(0.02)
            seconds = time.perf_counter() - start
        finally:
            stop(process)
        if not answered:
            err.seek(0)
            raise SystemExit(
                f"bench: {' '.join(command)} served nothing:\n{err.read().decode('utf-8', 'replace')}"
            )
    return seconds


def answers(port: int) -> bool:
    """Whether GET / on 127.0.0.1 gives 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def stop(process: subprocess.Popen[bytes], grace: float = 20) -> None:
    """End a process that leads a session of its own, and its children."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break  # all have ended
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            continue
    process.wait()

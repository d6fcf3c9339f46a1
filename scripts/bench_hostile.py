"""Attacks on a server: what each takes, and what others notice of it.

    python -m scripts.bench hostile [--only WORDS] [--bodies 30] [--honest SECONDS] [--fuzz COUNT]

Each attack of `scripts.attacks` is sent to `rgpt serve` in a process of its own, while another client asks a
small question again and again. `--honest` runs 64 honest clients beside 8 attackers, `--fuzz` sends generated
requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from scripts.attacks import ATTACKS, body, chunk, png
from scripts.load_serve import load, prepare, report, resident_mib, start_server
from scripts.measuring import Figure

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m scripts.bench hostile`."""
    parser.add_argument("--model", default="tiny", help="as for `rgpt serve` (default: tiny)")
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="of every attack (default: 2)")
    parser.add_argument("--only", default="", metavar="WORDS", help="attacks whose name holds this")
    parser.add_argument("--bodies", type=int, default=30, metavar="N", help="of 30 MiB at once (default: 30)")
    parser.add_argument("--honest", type=float, default=0, metavar="S", help="64 clients, 8 attackers")
    parser.add_argument("--fuzz", type=int, default=0, metavar="N", help="requests with random damage")
    parser.set_defaults(run=bench_hostile)


def tree_mib(pid: int) -> float:
    """Resident memory of a process and its children."""
    return sum(resident_mib(one) or 0.0 for one in (pid, *_children(pid)))


def tree_seconds(pid: int) -> float:
    """CPU time of a process and its children, those that ended included."""
    total = 0
    for one in (pid, *_children(pid)):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11 : 15 if one == pid else 13]))
    return total / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


class Watch:
    """Until the block ends: the largest memory, and how long a small question takes."""

    def __init__(self, url: str, pid: int, question: bytes) -> None:
        self.url, self.pid, self.question = url, pid, question
        self.largest, self.seconds, self.failed = 0.0, list[float](), Counter[int]()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._weigh, self._ask)]

    def __enter__(self) -> Watch:
        self.before = tree_mib(self.pid)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _weigh(self) -> None:
        while not self._stop.is_set():
            self.largest = max(self.largest, tree_mib(self.pid))
            time.sleep(0.01)

    def _ask(self) -> None:
        import httpx

        with httpx.Client(base_url=self.url, timeout=120) as client:
            while not self.seconds or not self._stop.is_set():
                started = time.perf_counter()
                status = client.post(CHAT, content=self.question, headers=JSON).status_code
                self.seconds.append(time.perf_counter() - started)
                if status != 200:
                    self.failed[status] += 1
                time.sleep(0.02)


def bench_hostile(options: argparse.Namespace) -> list[Figure]:
    """Seconds, MiB more, and a small question's time beside its idle time, of every attack."""
    import httpx

    process, url = start_server(options.model)
    question = body(png(64, 48), [{"box": [1, 1, 20, 20]}])
    figures = []
    try:
        with httpx.Client(base_url=url, timeout=120) as client:
            for _ in range(5):
                client.post(CHAT, content=question, headers=JSON)
            start = tree_seconds(process.pid)
            with Watch(url, process.pid, question) as idle:
                time.sleep(3)
            usual, each = (
                statistics.median(idle.seconds),
                (tree_seconds(process.pid) - start) / len(idle.seconds),
            )
            figures.append(Figure("a small question, idle", "ms", [1000 * s for s in idle.seconds]))
            for name, make in ATTACKS.items():
                if options.only not in name:
                    continue
                content = make()
                taken, worked, more, slower = [], [], [], []
                for _ in range(options.repeats):
                    before = tree_seconds(process.pid)
                    with Watch(url, process.pid, question) as watch:
                        time.sleep(0.05)
                        started = time.perf_counter()
                        answer = client.post(CHAT, content=content, headers=JSON)
                        taken.append(time.perf_counter() - started)
                    own = len(watch.seconds) * each
                    worked.append(max(0.0, tree_seconds(process.pid) - before - own))
                    more.append(watch.largest - watch.before)
                    slower.append(statistics.median(watch.seconds) / usual)
                    if answer.status_code >= 500 or watch.failed:
                        raise SystemExit(f"bench: {name}: {answer.status_code}, others: {watch.failed}")
                said = "" if answer.status_code == 200 else answer.json()["error"]["message"]
                print(f"{name} ({len(content) / 1000:.1f} kB): {answer.status_code} {said[:150]}", flush=True)
                found = [
                    Figure(f"{name[:32]}", "s", taken, at_most=2),
                    Figure("  of CPU", "s", worked),
                    Figure("  more memory", "MiB", more, at_most=500),
                    Figure("  a small question meanwhile", "x idle", slower, at_most=3),
                ]
                print(*(figure.row() for figure in found), sep="\n", flush=True)
                figures += found
        if not options.only:
            figures += asyncio.run(bodies(url, process.pid, options.bodies))
        if options.fuzz:
            figures += fuzz(url, process.pid, options.fuzz)
        if options.honest:
            asyncio.run(beside(url, process.pid, options.model, options.honest))
        if process.poll() is not None:
            raise SystemExit(f"bench: the server ended with {process.returncode}.")
    finally:
        process.terminate()
        process.wait(timeout=60)
    return figures


async def bodies(url: str, pid: int, count: int) -> list[Figure]:
    """Many bodies of 30 MiB at once."""
    import httpx

    size = 20 * 2**20 - 4096
    content = body(png(8, 8, more=chunk(b"teXt", os.urandom(size))), user="u" * (30 * 2**20 - 4 * size // 3))
    before, largest, done = tree_mib(pid), 0.0, False

    async def watch() -> None:
        nonlocal largest
        while not done:
            largest = max(largest, tree_mib(pid))
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        answers = await asyncio.gather(
            *(http.post(CHAT, content=content, headers=JSON) for _ in range(count)), return_exceptions=True
        )
    done = True
    await watching
    await asyncio.sleep(1)
    told = Counter(a.status_code if isinstance(a, httpx.Response) else type(a).__name__ for a in answers)
    print(f"{count} bodies of {len(content) / 2**20:.1f} MiB: {dict(told)}", flush=True)
    return [
        Figure(f"{count} bodies of 30 MiB, more memory", "MiB", [largest - before], at_most=500),
        Figure("  of it a second later", "MiB", [tree_mib(pid) - before]),
    ]


def fuzz(url: str, pid: int, count: int) -> list[Figure]:
    """Requests with one to three values replaced, as `tests/serve/test_fuzz.py` makes them."""
    import httpx
    from tqdm import tqdm

    from scripts.damage import damaged

    memory, statuses = [], Counter[int]()
    with httpx.Client(base_url=url, timeout=60) as client:
        for number, content in enumerate(tqdm(itertools.islice(damaged(), count), total=count, desc="fuzz")):
            answer = client.post(CHAT, content=content, headers=JSON)
            statuses[answer.status_code] += 1
            if answer.status_code >= 500:
                raise SystemExit(f"bench: {answer.status_code} for {content[:400]!r}")
            if number and number % 1000 == 0:
                memory.append(tree_mib(pid))
    print(f"{count} damaged requests: {dict(statuses)}")
    return [Figure("memory, every 1,000 requests", "MiB", memory or [tree_mib(pid)])]


async def beside(url: str, pid: int, model: str, seconds: float) -> None:
    """64 honest clients and 8 attackers."""
    import httpx

    clients = await asyncio.to_thread(prepare, model, 64)
    contents = [make() for make in ATTACKS.values()]
    until, told = time.monotonic() + seconds, Counter[Any]()

    async def attack(first: int) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=120) as http:
            for content in itertools.islice(itertools.cycle(contents), first * 5, None):
                if time.monotonic() > until:
                    return
                try:
                    told[(await http.post(CHAT, content=content, headers=JSON)).status_code] += 1
                except httpx.HTTPError as error:
                    told[type(error).__name__] += 1

    log, *_ = await asyncio.gather(load(url, clients, seconds, pid), *map(attack, range(8)))
    print("\n".join(report(log, 64, seconds)))
    print(f"attackers: {dict(told)}", *log.problems[:5], sep="\n")

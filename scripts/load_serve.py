"""Many clients at `rgpt serve` for a while: does everyone get the answer to his own picture, at what cost?

    python -m scripts.load_serve --clients 64 --seconds 60 [--url http://127.0.0.1:8000] [--model tiny]

Every client has a drawn scene of its own, chosen so that no two scenes have the same right answer, which
`ChatSession` computes beforehand. Clients ask plainly, streamed, in two turns, or leave in the middle of a
stream. An answer that differs from the client's own is reported as crossed and makes the exit code 1. Without
`--url` a server is started, and its resident memory watched.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FIRST_SEED = 5_000_000_000
QUESTION = "Describe <region1>."
SECOND = "Where is <region1> relative to <region2>?"


@dataclass(frozen=True)
class Client:
    """One client's request, without its options, and the right answers to both questions."""

    request: dict[str, Any]
    answers: tuple[str, str]

    def second_turn(self) -> dict[str, Any]:
        history = [
            *self.request["messages"],
            {"role": "assistant", "content": self.answers[0]},
            {"role": "user", "content": SECOND},
        ]
        return {**self.request, "messages": history}


@dataclass
class Log:
    """What happened to all clients together."""

    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    resident: list[tuple[float, float]] = field(default_factory=list)


def prepare(model: str, count: int) -> list[Client]:
    """Scenes whose first answers all differ, with what `ChatSession` says about them."""
    from tqdm import tqdm

    from rgpt.chat import ChatSession
    from rgpt.data.scenes import draw_scene

    base = ChatSession.from_pretrained(model)
    clients: list[Client] = []
    seen: set[str] = set()
    seed = FIRST_SEED
    with tqdm(total=count, desc="right answers") as bar:
        while len(clients) < count:
            scene = draw_scene(seed)
            seed += 1
            session = ChatSession(base.model, base.processor)
            session.set_image(scene.image)
            boxes = [drawn.box for drawn in scene.objects[:2]]
            for box in boxes:
                session.add_region(box)
            first = session.ask(QUESTION)
            if first in seen or seed > FIRST_SEED + 100 * count:
                if seed > FIRST_SEED + 100 * count:
                    raise SystemExit(
                        f"load_serve: only {len(seen)} different answers; ask with fewer clients."
                    )
                continue
            seen.add(first)
            buffer = io.BytesIO()
            scene.image.save(buffer, "PNG")
            url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
            request = {
                "model": "rgpt",
                "messages": [{"role": "user", "content": parts}],
                "regions": [box.to_json() for box in boxes],
            }
            clients.append(Client(request, (first, session.ask(SECOND))))
            bar.update()
    return clients


async def ask(http: Any, client: Client, how: str, rng: random.Random, log: Log) -> None:
    """One request; `how` is plain, stream, second or leave."""
    second = how == "second"
    request = client.second_turn() if second else client.request
    expected = client.answers[second]
    streamed = how != "plain"
    started = time.monotonic()
    pieces: list[str] = []
    async with http.stream("POST", "/v1/chat/completions", json={**request, "stream": streamed}) as response:
        if response.status_code == 429:
            log.outcomes["429"] += 1
            await asyncio.sleep(float(response.headers["retry-after"]) * rng.random())
            return
        if response.status_code != 200:
            log.outcomes["error"] += 1
            log.problems.append(f"{response.status_code}: {(await response.aread())[:200]!r}")
            return
        if not streamed:
            answer = json.loads(await response.aread())["choices"][0]["message"]["content"]
        else:
            patience = rng.randint(1, 3) if how == "leave" else 10**6
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                value = json.loads(line[6:])
                if "error" in value:
                    log.outcomes["error"] += 1
                    log.problems.append(str(value["error"]))
                    return
                piece = value["choices"][0]["delta"].get("content")
                if piece:
                    if not pieces:
                        log.first.append(time.monotonic() - started)
                    pieces.append(piece)
                    if len(pieces) >= patience:
                        break
            answer = "".join(pieces)
    if how == "leave":
        right = expected.startswith(answer)
    else:
        right = answer == expected
        log.seconds.append(time.monotonic() - started)
    log.outcomes[how if right else "crossed"] += 1
    if not right:
        log.problems.append(f"{how}: expected {expected!r}, got {answer!r}")


async def run_client(http: Any, client: Client, number: int, until: float, log: Log) -> None:
    rng = random.Random(number)
    while time.monotonic() < until:
        how = rng.choices(["plain", "stream", "second", "leave"], [4, 3, 2, 2])[0]
        try:
            await ask(http, client, how, rng, log)
        except Exception as error:
            log.outcomes["error"] += 1
            log.problems.append(f"{how}: {type(error).__name__} {error}")


async def watch(pid: int | None, until: float, log: Log) -> None:
    """Resident memory in MiB, once a second."""
    from tqdm import tqdm

    started = time.monotonic()
    with tqdm(total=round(until - started), desc="load", unit="s") as bar:
        while (now := time.monotonic()) < until:
            if pid is not None and (mib := resident_mib(pid)) is not None:
                log.resident.append((now - started, mib))
            bar.set_postfix(asked=sum(log.outcomes.values()), refresh=False)
            await asyncio.sleep(1)
            bar.update()


def resident_mib(pid: int) -> float | None:
    """Resident memory of a process; None where the system does not say."""
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None


async def load(url: str, clients: Sequence[Client], seconds: float, pid: int | None) -> Log:
    """Let all clients ask at once for a while."""
    import httpx

    log = Log()
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=150, limits=limits) as http:
        tasks = [run_client(http, client, i, until, log) for i, client in enumerate(clients)]
        await asyncio.gather(watch(pid, until, log), *tasks)
    return log


def report(log: Log, clients: int, seconds: float) -> list[str]:
    """The lines that are printed."""
    total = sum(log.outcomes.values())
    lines = [
        f"{clients} clients, {seconds:g} s: {total} requests, {total / seconds:.1f}/s; "
        + ", ".join(f"{name} {count}" for name, count in sorted(log.outcomes.items())),
    ]
    for name, values in (("first text (streamed)", log.first), ("whole answer", log.seconds)):
        if values:
            lines.append(f"{name}: p50 {quantile(values, 0.5):.3f} s, p95 {quantile(values, 0.95):.3f} s")
    if len(log.resident) > 4:
        # From one minute on, or from a fifth of a shorter run: caches fill first.
        warm = min(60.0, seconds / 5)
        early = next(mib for at, mib in log.resident if at >= warm)
        last = log.resident[-1][1]
        largest = max(mib for _, mib in log.resident)
        growth = 100 * (last / early - 1)
        lines.append(
            f"server memory: {early:.0f} MiB after {warm:.0f} s, {last:.0f} MiB at the end ({growth:+.1f}%), "
            f"{largest:.0f} MiB at most"
        )
    lines.append(f"crossed answers: {log.outcomes['crossed']}, errors: {log.outcomes['error']}")
    return lines


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def start_server(model: str) -> tuple[subprocess.Popen[str], str]:
    """`rgpt serve` on a port of the system's choice."""
    command = [sys.executable, "-m", "rgpt.cli", "serve", "--model", model, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"(http://[^ ]+)/v1", process.stdout.readline())
    if found is None:
        raise SystemExit("load_serve: the server did not start.")
    return process, found[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the server, print the report, return 1 when an answer was crossed or an error came."""
    parser = argparse.ArgumentParser(prog="python -m scripts.load_serve", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64, metavar="N")
    parser.add_argument("--seconds", type=float, default=60, metavar="S")
    parser.add_argument("--model", default="tiny", help="whose answers are right (default: tiny)")
    parser.add_argument("--url", help="a running server of that model (default: start one)")
    options = parser.parse_args(arguments)
    if options.clients < 1 or not options.seconds > 0:
        raise SystemExit("load_serve: --clients and --seconds must be above 0.")
    clients = prepare(options.model, options.clients)
    process = None
    url = options.url
    if url is None:
        process, url = start_server(options.model)
    try:
        log = asyncio.run(load(url, clients, options.seconds, process.pid if process else None))
    finally:
        if process is not None:
            process.terminate()
            process.wait(timeout=60)
    print("\n".join(report(log, options.clients, options.seconds)))
    for problem in log.problems[:10]:
        print(f"  {problem}", file=sys.stderr)
    return 1 if log.outcomes["crossed"] or log.outcomes["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
